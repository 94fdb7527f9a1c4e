"""GET /v1/events: what the control loop decides, as server-sent events, for whoever shows it live.

Polls the control loop's published state, which waits for nothing; bounded in listeners.

Events: `state` with what GET /v1/operating-point answers, at first and whenever the active point, the mode or the
reason is another; `resources` with the latest reading of the device, about once a second; `end` when the daemon drains.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import StreamingResponse

from dynhat_runtime.service.door import Door, key_in
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.schemas import ErrorAnswer, OperatingPointAnswer
from dynhat_runtime.service.server_sent_events import (
    EVENT_STREAM,
    EVENT_STREAM_CONTENT,
    HEARTBEAT,
    STREAM_HEADERS,
    server_sent_event,
)

PATH = "/v1/events"

MAX_LISTENERS = 32
POLL_S = 0.2
LOOKS_PER_READING = 5
"""So that a reading of the device comes about once a second."""


class Audience:
    """Who listens, counted."""

    def __init__(self) -> None:
        self.num_listeners = 0


def router(lifecycle: Lifecycle, door: Door, poll_s: float = POLL_S) -> APIRouter:
    """The route.

    Args:
        lifecycle: Whose control loop is listened to.
        door: Who may.
        poll_s: Time between two looks.
    """
    routes = APIRouter(tags=["operation"])
    audience = Audience()
    errors: dict[int | str, dict[str, Any]] = {status: {"model": ErrorAnswer} for status in (401, 429, 503)}
    stream: dict[int | str, dict[str, Any]] = {200: {"content": EVENT_STREAM_CONTENT}}

    @routes.get(PATH, response_class=StreamingResponse, responses={**errors, **stream})
    async def get_events(request: Request) -> StreamingResponse:
        """State and resources as they change, until the client or the daemon goes."""
        door.check(key_in(request.headers))
        assert lifecycle.serving is not None  # raises before the stream begins where nothing is served
        if audience.num_listeners >= MAX_LISTENERS:
            raise HTTPException(
                429, f"{MAX_LISTENERS} listen already: close one of them", headers={"Retry-After": "10"}
            )
        events = _events(lifecycle, audience, poll_s)
        return StreamingResponse(events, media_type=EVENT_STREAM, headers=STREAM_HEADERS)

    return routes


async def _events(lifecycle: Lifecycle, audience: Audience, poll_s: float) -> AsyncIterator[bytes]:
    """What changes, and a sign of life beside it."""
    audience.num_listeners += 1
    try:
        told: tuple[object, ...] = ()
        num_looks = 0
        while (serving := lifecycle.loaded) is not None:
            status = serving.control.status()
            state = (status.active_id, status.mode, status.policy, status.reason)
            if state != told:
                answer = OperatingPointAnswer.of(status, serving.engine.table)
                yield server_sent_event("state", answer.model_dump(mode="json"))
                told = state
            if num_looks % LOOKS_PER_READING == 0:
                snapshot = status.snapshot
                yield HEARTBEAT if snapshot is None else server_sent_event("resources", snapshot.as_dict())
            num_looks += 1
            if await lifecycle.wait_drained(poll_s):
                yield server_sent_event("end", {"reason": "the daemon is stopping"})
                return
    finally:
        audience.num_listeners -= 1
