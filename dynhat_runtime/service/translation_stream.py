"""A translation as events, a sentence at a time. Knows no facade, and chooses no point."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from fastapi import Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from dynhat_runtime.errors import DynhatError
from dynhat_runtime.service.error_answers import details_of
from dynhat_runtime.service.ports import EnginePort
from dynhat_runtime.service.server_sent_events import server_sent_event
from dynhat_runtime.service.translation import Asked, Translation, collect, submit, wait_for

logger = logging.getLogger(__name__)

Pieces = asyncio.Queue[tuple[int, str] | None]


async def translation_events(
    engine: EnginePort,
    texts: Sequence[str],
    request: Request,
    asked: Asked,
    answer_of: Callable[[Translation], BaseModel],
) -> AsyncIterator[bytes]:
    """The events; what refuses a request before it has begun is raised here and not sent as an event.

    Args:
        engine: What translates.
        texts: What to translate.
        request: Whose client may leave.
        asked: How.
        answer_of: What `done` says.

    Raises:
        EngineOverloadedError, EngineStoppedError: As the engine says.
    """
    loop = asyncio.get_running_loop()
    pieces: Pieces = asyncio.Queue()

    def on_sentence(number: int, piece: str) -> None:
        loop.call_soon_threadsafe(pieces.put_nowait, (number, piece))

    future = await submit(engine, texts, replace(asked, on_sentence=on_sentence))
    if future is None:
        nothing = Translation(tuple(texts), asked.point_id or engine.active_point_id, (None,) * len(texts))
        return _only(server_sent_event("done", answer_of(nothing).model_dump(exclude_none=True)))
    places = [number for number, text in enumerate(texts) if text]
    return _events(future, pieces, places, texts, request, asked, answer_of)


async def _only(event: bytes) -> AsyncIterator[bytes]:
    yield event


async def _events(
    future: Future[Any],
    pieces: Pieces,
    places: Sequence[int],
    texts: Sequence[str],
    request: Request,
    asked: Asked,
    answer_of: Callable[[Translation], BaseModel],
) -> AsyncIterator[bytes]:
    """Sentences as they come, then the end. However it ends, nobody is left translating for it."""
    waiting = asyncio.ensure_future(wait_for(future, request, asked.timeout_s))
    # Behind the last sentence: both come by the loop's own queue, in the order in which the engine called.
    waiting.add_done_callback(lambda _: pieces.put_nowait(None))
    try:
        while (piece := await pieces.get()) is not None:
            number, delta = piece
            yield server_sent_event("sentence", {"index": places[number], "delta": delta})
        translation = collect(texts, waiting.result())
        yield server_sent_event("done", answer_of(translation).model_dump(exclude_none=True))
    except ClientDisconnect:
        return
    except DynhatError as error:
        yield server_sent_event("error", {"error": str(error), **details_of(error)})
    except Exception:  # the answer has begun: its status can tell no more
        logger.exception("translation failed in a stream")
        yield server_sent_event("error", {"error": "internal error"})
    finally:
        waiting.cancel()
        future.cancel()
