"""`GET /v1/trace`: what happened since an event's number, from the daemon's flight recorder, in JSON.

Holds no text of anybody, and never waits for the inference queue or a file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from fastapi import APIRouter, Request
from fastapi.responses import Response

from dynhat_runtime.errors import EngineStoppedError, RequestError
from dynhat_runtime.service.door import Door, key_in
from dynhat_runtime.service.schemas import ErrorAnswer

PATH = "/v1/trace"
LARGEST_NUMBER = 2**53
AFTER_PARAMETER = {
    "name": "after",
    "in": "query",
    "required": False,
    "description": "number of the last event known",
    "schema": {"type": "integer", "minimum": 0, "maximum": LARGEST_NUMBER, "default": 0},
}


class TracePort(Protocol):
    """What holds the last events."""

    def page_after(self, number: int) -> str:
        """Events after the one of this number as a JSON object: header, events, next, lost."""


def router(trace: Callable[[], TracePort | None], door: Door) -> APIRouter:
    """The route.

    Args:
        trace: The recorder; None while there is none yet.
        door: Lets in who may ask.
    """
    routes = APIRouter(tags=["operation"])
    errors: dict[int | str, dict[str, Any]] = {status: {"model": ErrorAnswer} for status in (400, 401, 503)}

    @routes.get(
        PATH, response_class=Response, responses=errors, openapi_extra={"parameters": [AFTER_PARAMETER]}
    )
    async def get_trace(request: Request) -> Response:
        """Events after number `after` (0): `{"header", "events", "next", "lost"}`; ask again with `next`."""
        door.check(key_in(request.headers))
        recorder = trace()
        if recorder is None:
            raise EngineStoppedError("not ready: GET /health says when to try again")
        number = check_number(request.query_params.get("after", "0"))
        return Response(recorder.page_after(number), media_type="application/json")

    return routes


def check_number(text: str) -> int:
    """The number in a query.

    Raises:
        RequestError: It is none.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= LARGEST_NUMBER):
        raise RequestError(
            f"after={text[:40]!r}: give the number in 'next' of the answer before, or 0", "after"
        )
    return int(text)
