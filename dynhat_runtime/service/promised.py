"""POST /v1/translate: translations with a promise. A request may bring its latency budget, its lowest quality or
its operating point, and hears what it got and whether the budget was met.

Chooses no point: it asks the control loop, and the engine translates on what was chosen.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from dynhat_runtime.errors import PromiseError, RequestError
from dynhat_runtime.governor.request_choice import RequestChoice, RequestWish
from dynhat_runtime.service.bodies import read_json_object
from dynhat_runtime.service.gate import POINT_HEADER
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from dynhat_runtime.service.limits import RequestLimits
from dynhat_runtime.service.metrics import Metrics
from dynhat_runtime.service.ports import EnginePort
from dynhat_runtime.service.request_fields import (
    check_choice,
    check_number,
    check_texts,
    read_in_time,
    show,
)
from dynhat_runtime.service.schemas import ErrorAnswer, PromisedAnswer, PromisedTranslation
from dynhat_runtime.service.translation import translate

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer} for status in (400, 408, 422, 429, 500, 503, 504)
}

FIELDS = ("text", "source", "target", "latency_budget_ms", "min_quality", "point", "strict")

MAX_BUDGET_MS = 600_000
MAX_QUALITY = 100
"""BLEU's best."""

QUICK_CHARS = 1000
"""Longer texts are counted on a thread: beyond about a millisecond others would wait for it."""


@dataclass(frozen=True, slots=True)
class PromisedRequest:
    """A checked request."""

    texts: tuple[str, ...]
    latency_budget_ms: float | None
    min_quality: float | None
    point_id: str | None
    is_strict: bool

    @property
    def wishes_a_point(self) -> bool:
        """Whether it may need another point than the active one; otherwise it takes the one active when it begins."""
        return (self.latency_budget_ms, self.min_quality, self.point_id) != (None, None, None)


def router(lifecycle: Lifecycle, limits: RequestLimits, metrics: Metrics) -> APIRouter:
    """The route."""
    routes = APIRouter(tags=["translation"])

    @routes.post("/v1/translate", response_model=PromisedAnswer, responses=ERRORS)
    async def post_translate(request: Request) -> JSONResponse:
        """Translate within a latency budget, at a lowest quality, or on a named operating point."""
        serving = lifecycle.serving
        fields = await read_in_time(read_json_object(request, limits.max_body_bytes), limits, "text")
        began_s = time.monotonic()
        asked = check_promised(fields, serving.engine, limits)
        choice = await _choose(serving, asked)
        translation = await translate(
            serving.engine,
            asked.texts,
            request,
            limits.timeout_s,
            point_id=choice.point_id if asked.wishes_a_point else None,
            retry_within_ms=_retry_within_ms(asked, choice, began_s),
        )
        elapsed_ms = (time.monotonic() - began_s) * 1e3
        is_met = elapsed_ms <= choice.latency_budget_ms
        if choice.predicted_ms:
            metrics.promise_kept(choice.predicted_ms, elapsed_ms, is_met)
        answer = PromisedAnswer(
            translations=[
                PromisedTranslation(
                    text=text,
                    operating_point=translation.operating_point,
                    predicted_ms=round(choice.predicted_ms, 3),
                    elapsed_ms=round(elapsed_ms, 3),
                    budget_met=is_met,
                )
                for text in translation.texts
            ]
        )
        return JSONResponse(answer.model_dump(), headers={POINT_HEADER: translation.operating_point})

    return routes


# A named point wins over budget and quality: they then only say whether it was met, and whether `strict` refuses.
def check_promised(fields: Mapping[str, Any], engine: EnginePort, limits: RequestLimits) -> PromisedRequest:
    """A request's fields as a value. An unknown field is refused: a misspelt budget must not be silently dropped.

    Raises:
        RequestError: Naming the field at fault, and what it may be.
    """
    unknown = next((name for name in fields if name not in FIELDS), None)
    if unknown is not None:
        raise RequestError(f"field {show(unknown)} is unknown: send {', '.join(FIELDS)}", "body")
    texts, _ = check_texts("text", fields.get("text"), limits)
    check_choice("source", fields.get("source"), (engine.src_lang,))
    check_choice("target", fields.get("target"), (engine.tgt_lang,))
    budget_ms = check_number("latency_budget_ms", fields.get("latency_budget_ms"), MAX_BUDGET_MS)
    min_quality = check_number("min_quality", fields.get("min_quality"), MAX_QUALITY)
    if min_quality is not None and all(point.bleu is None for point in engine.table):
        raise RequestError(
            f"min_quality {min_quality:g} cannot be judged: no BLEU was measured of these points: leave it out",
            "min_quality",
        )
    is_strict = fields.get("strict")
    if is_strict is not None and not isinstance(is_strict, bool):
        raise RequestError(f"strict {show(is_strict)} cannot be: send true or false", "strict")
    return PromisedRequest(
        texts, budget_ms, min_quality, _check_point(fields.get("point"), engine), bool(is_strict)
    )


def _check_point(value: object, engine: EnginePort) -> str | None:
    """The id of a point there is."""
    known = [point.id for point in engine.table]
    if value is None or value in known:
        return value if isinstance(value, str) else None
    if isinstance(value, str) and value in engine.refused:
        raise RequestError(f"point {value!r} is refused: {engine.refused[value]}", "point")
    raise RequestError(f"point {show(value)} is unknown: choose one of {', '.join(known)}", "point")


async def _choose(serving: Serving, asked: PromisedRequest) -> RequestChoice:
    """The point for a request.

    Raises:
        PromiseError: It is strict, and not expected to get what it asks for.
    """
    if sum(map(len, asked.texts)) <= QUICK_CHARS:
        return _choose_now(serving, asked)
    return await run_in_threadpool(_choose_now, serving, asked)


def _choose_now(serving: Serving, asked: PromisedRequest) -> RequestChoice:
    engine, control = serving.engine, serving.control
    lengths = tuple(chain.from_iterable(engine.count_src_tokens([text for text in asked.texts if text])))
    if not lengths:
        point_id = asked.point_id or engine.active_point_id
        return RequestChoice(
            point_id=point_id,
            predicted_ms=0.0,
            latency_budget_ms=asked.latency_budget_ms or math.inf,
            is_met=True,
            reason="there is nothing to translate",
        )
    wish = RequestWish(
        num_src_tokens=lengths,
        num_sentences_ahead=engine.queue_depth,
        latency_budget_ms=asked.latency_budget_ms,
        min_quality=asked.min_quality,
        point_id=asked.point_id,
    )
    choice = control.choose(wish)
    if not asked.is_strict or choice.is_met:
        return choice
    # What could be had: without the named point and the lowest quality, or within no time at all the fastest.
    fastest = control.choose(replace(wish, point_id=None, min_quality=None, latency_budget_ms=1e-6))
    raise PromiseError(
        f"{choice.reason}; the fastest, {fastest.point_id}, is predicted to take {fastest.predicted_ms:.1f} ms: "
        "ask for less, or leave strict out"
    )


def _retry_within_ms(asked: PromisedRequest, choice: RequestChoice, began_s: float) -> float:
    """By when a second attempt at degenerate output must be done: within the budget that the answer is judged by, and
    never off a named point."""
    if asked.point_id is not None:
        return 0.0
    return max(choice.latency_budget_ms - (time.monotonic() - began_s) * 1e3, 0.0)
