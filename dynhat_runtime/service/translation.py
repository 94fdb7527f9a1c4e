"""Put texts through the engine on behalf of one request. Knows no facade."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException, Request
from starlette.requests import ClientDisconnect

from dynhat_runtime.errors import EngineStoppedError
from dynhat_runtime.service.ports import EnginePort, Translated


@dataclass(frozen=True, slots=True)
class Translation:
    """A request's translated texts and the point that produced them."""

    texts: tuple[str, ...]
    operating_point: str


async def translate(
    engine: EnginePort,
    texts: Sequence[str],
    request: Request,
    timeout_s: float,
    *,
    point_id: str | None = None,
    retry_within_ms: float | None = None,
) -> Translation:
    """Translate `texts`; an empty text stays empty and costs the engine nothing.

    Args:
        engine: What translates.
        texts: What to translate.
        request: Whose client may leave.
        timeout_s: What it may take at most.
        point_id: The operating point for this request alone; None takes the active one.
        retry_within_ms: As `EnginePort.submit` has it.

    Raises:
        EngineOverloadedError, EngineStoppedError: As the engine says.
        HTTPException: 504, it took longer than `timeout_s`.
        ClientDisconnect: Nobody waits for it any more.
    """
    asked = [text for text in texts if text]
    if not asked:
        return Translation(tuple(texts), point_id or engine.active_point_id)
    future = engine.submit(asked, point_id=point_id, retry_within_ms=retry_within_ms)
    translated = await _wait_for(asyncio.wrap_future(future), request, timeout_s)
    answers = iter(translated)
    return Translation(
        tuple(next(answers).text if text else "" for text in texts), translated[0].operating_point
    )


async def _wait_for(
    future: asyncio.Future[Sequence[Translated]], request: Request, timeout_s: float
) -> Sequence[Translated]:
    """Wait for the engine, the client's patience and the clock, whichever ends first."""
    client_left = asyncio.ensure_future(_until_disconnected(request))
    try:
        waited_for: set[asyncio.Future[Any]] = {future, client_left}
        await asyncio.wait(waited_for, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if future.done():
            if future.cancelled():
                raise EngineStoppedError("the engine is stopping: try again later")
            return future.result()
        if client_left.done():
            raise ClientDisconnect
        raise HTTPException(504, f"the translation took longer than {timeout_s:g} s: send fewer texts")
    finally:
        future.cancel()
        client_left.cancel()


async def _until_disconnected(request: Request) -> None:
    """Return when the client has closed the connection. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
