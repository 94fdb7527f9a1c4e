"""Put texts through the engine on behalf of one request. Knows no facade."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from dynhat_runtime.errors import DeadlineError, EngineStoppedError
from dynhat_runtime.logs import current_request_id
from dynhat_runtime.prepared_texts import PreparedTexts
from dynhat_runtime.queue_load import Priority
from dynhat_runtime.service import stopwatch
from dynhat_runtime.service.ports import EnginePort, Translated
from dynhat_runtime.text.sentences import Cuts

UNWATCHED_S = 0.05
"""A client that leaves is noticed from then on: most translations are done before, and to watch costs time."""
QUICK_CHARS = 1000
"""Longer texts are cut into sentences and counted on a thread: beyond about a millisecond others would wait for it."""


@dataclass(frozen=True, slots=True)
class Translation:
    """A request's translated texts and the point that produced them."""

    texts: tuple[str, ...]
    operating_point: str
    details: tuple[Translated | None, ...] = ()
    """What the engine says of each text; None for an empty one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """How a request is to be translated.

    Attributes:
        timeout_s: What it may take at most.
        point_id: The operating point for this request alone; None takes the active one.
        retry_within_ms: As `EnginePort.submit` has it.
        priority: The class of requests that it waits in.
        on_sentence: As `EnginePort.submit` has it.
        num_alternatives: Other translations wanted of each text.
        cuts: What ends a sentence.
        prepared: What the engine made of the texts that are not empty, if it has been asked already.
    """

    timeout_s: float
    point_id: str | None = None
    retry_within_ms: float | None = None
    priority: Priority = "interactive"
    on_sentence: Callable[[int, str], None] | None = None
    num_alternatives: int = 0
    cuts: Cuts = "lines"
    prepared: PreparedTexts | None = None


async def translate(engine: EnginePort, texts: Sequence[str], request: Request, asked: Asked) -> Translation:
    """Translate `texts`; an empty text stays empty and costs the engine nothing.

    Args:
        engine: What translates.
        texts: What to translate.
        request: Whose client may leave.
        asked: How.

    Raises:
        EngineOverloadedError, EngineStoppedError: As the engine says.
        DeadlineError: It took longer than it may.
        ClientDisconnect: Nobody waits for it any more.
    """
    future = await submit(engine, texts, asked)
    if future is None:
        return Translation(tuple(texts), asked.point_id or engine.active_point_id, (None,) * len(texts))
    translation = collect(texts, await wait_for(future, request, asked.timeout_s))
    stopwatch.of(request).translated(translation.details)
    return translation


async def submit(engine: EnginePort, texts: Sequence[str], asked: Asked) -> Future[Any] | None:
    """The engine's future of the texts that are not empty, None if all are; raises as `EnginePort.submit` does."""
    present = [text for text in texts if text]
    if not present:
        return None

    def put_in() -> Future[Any]:
        return engine.submit(
            present if asked.prepared is None else asked.prepared,
            point_id=asked.point_id,
            retry_within_ms=asked.retry_within_ms,
            priority=asked.priority,
            request_id=current_request_id(),
            on_sentence=asked.on_sentence,
            num_alternatives=asked.num_alternatives,
            cuts=asked.cuts,
            timeout_s=asked.timeout_s,
        )

    if asked.prepared is not None or sum(map(len, present)) <= QUICK_CHARS:
        return put_in()
    return await run_in_threadpool(put_in)


def collect(texts: Sequence[str], translated: Sequence[Translated]) -> Translation:
    """All texts' translations, in order, the empty ones among them."""
    answers = iter(translated)
    details = tuple(next(answers) if text else None for text in texts)
    return Translation(
        tuple("" if each is None else each.text for each in details), translated[0].operating_point, details
    )


async def wait_for(future: Future[Any], request: Request, timeout_s: float) -> Sequence[Translated]:
    """Wait for the engine, the client's patience and the clock, whichever ends first."""
    waiting = asyncio.wrap_future(future)
    try:
        await asyncio.wait((waiting,), timeout=min(timeout_s, UNWATCHED_S))
        if not waiting.done():
            await _wait_while_connected(waiting, request, timeout_s - UNWATCHED_S)
        if not waiting.done():
            raise DeadlineError(f"the translation took longer than {timeout_s:g} s: send fewer texts")
        if waiting.cancelled():
            raise EngineStoppedError("the engine is stopping: try again later")
        answer: Sequence[Translated] = waiting.result()
        return answer
    finally:
        waiting.cancel()


async def _wait_while_connected(waiting: asyncio.Future[Any], request: Request, timeout_s: float) -> None:
    """Return when `waiting` is done or the time is over; raises ClientDisconnect when the client has left."""
    client_left = asyncio.ensure_future(until_disconnected(request))
    try:
        waited_for: set[asyncio.Future[Any]] = {waiting, client_left}
        await asyncio.wait(waited_for, timeout=max(timeout_s, 0.0), return_when=asyncio.FIRST_COMPLETED)
        if client_left.done() and not waiting.done():
            raise ClientDisconnect
    finally:
        client_left.cancel()


async def until_disconnected(request: Request) -> None:
    """Return when the client has closed the connection. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
