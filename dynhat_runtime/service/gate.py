"""The outermost layer: every request passes here on its way in, and every answer on its way out.

Counts requests in flight, names the operating point on /translate, and answers what nobody else caught.
"""

from __future__ import annotations

import logging

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynhat_runtime.service.error_answers import error_answer
from dynhat_runtime.service.lifecycle import Lifecycle

POINT_HEADER = "X-Operating-Point"

logger = logging.getLogger(__name__)


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one connection's request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer_began = False

        async def send_through(message: Message) -> None:
            nonlocal answer_began
            if message["type"] == "http.response.start":
                answer_began = True
                self._complete_headers(scope["path"], MutableHeaders(scope=message))
            await send(message)

        with self._lifecycle.request():
            try:
                await self._app(scope, receive, send_through)
            except Exception:
                logger.exception("%s %r failed", scope["method"], scope["path"])
                if not answer_began:
                    await error_answer(500, "internal error")(scope, receive, send_through)

    def _complete_headers(self, path: str, headers: MutableHeaders) -> None:
        """Add what every answer carries: the point on /translate, a farewell while draining."""
        if path == "/translate":
            headers.setdefault(POINT_HEADER, self._lifecycle.active_point_id)
        if self._lifecycle.phase == "draining":
            headers["Connection"] = "close"
