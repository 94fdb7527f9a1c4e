"""Refuses translations at once while the queue is full, before anything of them is read, parsed or routed.

Refusals are most of what an overloaded daemon answers, and every one holds up the health answers behind it. Judges
nothing but the queue: requests that get past here are checked, and may still be refused, as ever.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from dynhat_runtime.errors import EngineOverloadedError, EngineStoppedError, UnauthorizedError
from dynhat_runtime.service.door import Door, key_in
from dynhat_runtime.service.error_answers import answer_to
from dynhat_runtime.service.gate import POINT_PATHS
from dynhat_runtime.service.lifecycle import Lifecycle


class EarlyRefusal:
    """ASGI middleware before the routes."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle, door: Door, overload_status: int) -> None:
        """Stand before `app`; `overload_status` is a full queue's on our own paths."""
        self._app = app
        self._lifecycle = lifecycle
        self._door = door
        self._overload_status = overload_status

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it."""
        error = self._why_refused(scope)
        if error is None:
            await self._app(scope, receive, send)
        else:
            await answer_to(error, scope["path"], self._overload_status)(scope, receive, send)

    # Rules:
    #   1  no translation is asked for, or nothing serves                       -> pass
    #   2  a key is needed, and the headers carry none that is known (it may be in the body)  -> pass
    #   3  there is room in the queue                                           -> pass
    #   4  otherwise                                                            -> refuse; the key is not charged for it
    def _why_refused(self, scope: Scope) -> EngineOverloadedError | None:
        """The refusal, or None to pass."""
        if scope["type"] != "http" or scope["path"] not in POINT_PATHS or scope["method"] != "POST":
            return None
        try:
            engine = self._lifecycle.serving.engine
            self._door.check(key_in(Headers(scope=scope)))
            engine.check_room()
        except EngineOverloadedError as error:
            return error
        except (EngineStoppedError, UnauthorizedError):
            return None
        return None
