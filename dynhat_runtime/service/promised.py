"""POST /v1/translate and /v1/translate/stream: translations with a promise. A request may bring its latency budget,
its lowest quality or its operating point, and hears what it got and whether the budget was met.

Chooses no point: it asks the control loop, and the engine translates on what was chosen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from dynhat_runtime.decoding.score import Score
from dynhat_runtime.errors import DeadlineError, PromiseError, RequestError
from dynhat_runtime.governor.request_choice import RequestChoice, RequestWish
from dynhat_runtime.prepared_texts import PreparedTexts
from dynhat_runtime.queue_load import PRIORITIES, Priority
from dynhat_runtime.service import stopwatch
from dynhat_runtime.service.bodies import JSON, described, read_json_object
from dynhat_runtime.service.door import Door, key_in
from dynhat_runtime.service.gate import POINT_HEADER
from dynhat_runtime.service.keys import Caller
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from dynhat_runtime.service.limits import RequestLimits
from dynhat_runtime.service.log_fields import note_in_log
from dynhat_runtime.service.metrics import Metrics
from dynhat_runtime.service.ports import EnginePort, Translated
from dynhat_runtime.service.request_fields import (
    MAX_ALTERNATIVES,
    check_choice,
    check_flag,
    check_number,
    check_number_of,
    check_texts,
    read_in_time,
    show,
)
from dynhat_runtime.service.schemas import (
    Alternative,
    ErrorAnswer,
    OverloadAnswer,
    PromisedAnswer,
    PromisedBody,
    PromisedTranslation,
    Timings,
)
from dynhat_runtime.service.server_sent_events import EVENT_STREAM, EVENT_STREAM_CONTENT, STREAM_HEADERS
from dynhat_runtime.service.stopwatch import Stopwatch
from dynhat_runtime.service.translation import QUICK_CHARS, Asked, Translation, translate
from dynhat_runtime.service.translation_stream import translation_events

ERRORS: dict[int | str, dict[str, Any]] = {
    **{status: {"model": ErrorAnswer} for status in (400, 401, 408, 413, 422, 429, 500, 504)},
    503: {"model": OverloadAnswer},
}
BODY = described(JSON, schema=PromisedBody.model_json_schema())

FIELDS = tuple(PromisedBody.model_fields)

MAX_BUDGET_MS = 600_000
MAX_QUALITY = 100
"""BLEU's best."""


@dataclass(frozen=True, slots=True)
class PromisedRequest:
    """A checked request."""

    texts: tuple[str, ...]
    latency_budget_ms: float | None
    min_quality: float | None
    point_id: str | None
    is_strict: bool
    deadline_ms: float | None = None
    priority: Priority | None = None
    wants_timings: bool = False
    num_alternatives: int = 0
    wants_scores: bool = False

    @property
    def wishes_a_point(self) -> bool:
        """Whether it may need another point than the active one; otherwise it takes the one active when it begins."""
        return (self.latency_budget_ms, self.min_quality, self.point_id) != (None, None, None)


@dataclass(frozen=True, slots=True)
class _Begun:
    """A request on its way in: what was asked, by whom, what was chosen, and how long it has been here."""

    serving: Serving
    asked: PromisedRequest
    prepared: PreparedTexts
    """What of its texts is not empty."""
    choice: RequestChoice
    caller: Caller
    stopwatch: Stopwatch

    @property
    def elapsed_ms(self) -> float:
        """Since it arrived."""
        return self.stopwatch.elapsed_ms

    def asked_of_engine(self, limits: RequestLimits) -> Asked:
        """How the engine is to translate it."""
        timeout_s = limits.timeout_s
        if self.asked.deadline_ms is not None:
            timeout_s = min(timeout_s, max(self.asked.deadline_ms - self.elapsed_ms, 0.0) / 1e3)
        return Asked(
            timeout_s=timeout_s,
            point_id=self.choice.point_id if self.asked.wishes_a_point else None,
            retry_within_ms=_retry_within_ms(self.asked, self.choice, self.elapsed_ms),
            priority=self.asked.priority or self.caller.priority,
            num_alternatives=self.asked.num_alternatives,
            prepared=self.prepared,
        )


def router(lifecycle: Lifecycle, limits: RequestLimits, door: Door, metrics: Metrics) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["translation"])

    async def begin(request: Request) -> _Begun:
        """Check who asks, read what is asked, choose the point."""
        caller = door.admit(key_in(request.headers))
        serving = lifecycle.serving
        fields = await read_in_time(read_json_object(request, limits.max_body_bytes), limits, "text")
        asked = check_promised(fields, serving.engine, limits)
        note_in_log(request, caller, asked.texts if limits.log_texts else None)
        prepared, choice = await _choose(serving, asked)
        return _Begun(serving, asked, prepared, choice, caller, stopwatch.of(request))

    def answer_of(begun: _Begun, translation: Translation) -> PromisedAnswer:
        """What the client gets, and the metrics of it."""
        elapsed_ms = begun.elapsed_ms
        is_met = elapsed_ms <= begun.choice.latency_budget_ms
        if begun.choice.predicted_ms:
            metrics.promise_kept(begun.choice.predicted_ms, elapsed_ms, is_met)
        return PromisedAnswer(
            translations=[
                PromisedTranslation(
                    text=text,
                    operating_point=translation.operating_point,
                    predicted_ms=round(begun.choice.predicted_ms, 3),
                    elapsed_ms=round(elapsed_ms, 3),
                    budget_met=is_met,
                    score=_score(detail) if begun.asked.wants_scores else None,
                    alternatives=_alternatives(begun.asked, detail),
                    timings=Timings.of(detail) if begun.asked.wants_timings else None,
                )
                for text, detail in zip(translation.texts, translation.details, strict=True)
            ]
        )

    @routes.post(
        "/v1/translate",
        response_model=PromisedAnswer,
        response_model_exclude_none=True,
        responses=ERRORS,
        openapi_extra=BODY,
    )
    async def post_translate(request: Request) -> JSONResponse:
        """Translate within a latency budget, at a lowest quality, or on a named operating point.

        `latency_budget_ms` is for the whole request, from its arrival to the answer: all texts, however many
        sentences they are cut into, translated in batches together. Without it the daemon's budget is allowed once
        for everything decoded at once: for each sentence, each part of an over-long one, and, where placeholders or
        addresses stand in a sentence, for it and for each piece between them.
        """
        begun = await begin(request)
        translation = await translate(
            begun.serving.engine, begun.asked.texts, request, begun.asked_of_engine(limits)
        )
        answer = answer_of(begun, translation).model_dump(exclude_none=True)
        return JSONResponse(answer, headers={POINT_HEADER: translation.operating_point})

    @routes.post(
        "/v1/translate/stream",
        response_class=StreamingResponse,
        responses={**ERRORS, 200: {"content": EVENT_STREAM_CONTENT}},
        openapi_extra=BODY,
    )
    async def post_translate_stream(request: Request) -> StreamingResponse:
        """The same, sentence by sentence as server-sent events.

        `sentence` events hold `{"index": number of the text, "delta": next piece of its translation}`; all deltas of a
        text in order are its translation. At the end comes `done` with what POST /v1/translate would have answered, or
        `error`. There is no second attempt at degenerate output: its first sentences have been sent.
        """
        begun = await begin(request)
        events = await translation_events(
            begun.serving.engine,
            begun.asked.texts,
            request,
            begun.asked_of_engine(limits),
            lambda translation: answer_of(begun, translation),
        )
        return StreamingResponse(events, media_type=EVENT_STREAM, headers=STREAM_HEADERS)

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
    return PromisedRequest(
        texts,
        budget_ms,
        min_quality,
        _check_point(fields.get("point"), engine),
        check_flag("strict", fields.get("strict")),
        check_number("deadline_ms", fields.get("deadline_ms"), MAX_BUDGET_MS),
        _check_priority(fields.get("priority")),
        check_flag("timings", fields.get("timings")),
        check_number_of("alternatives", fields.get("alternatives"), MAX_ALTERNATIVES),
        check_flag("scores", fields.get("scores")),
    )


def _score(translated: Translated | None) -> float | None:
    """A translation's score as it is told; None where nothing was translated."""
    return None if translated is None else _rounded(translated.score)


def _rounded(score: Score) -> float | None:
    return None if score.mean is None else round(score.mean, 4)


def _alternatives(asked: PromisedRequest, translated: Translated | None) -> list[Alternative] | None:
    """A text's other translations, with their scores where those were asked for; None where neither was."""
    if not asked.num_alternatives:
        return None
    if translated is None:
        return []
    return [
        Alternative(text=text, score=_rounded(score) if asked.wants_scores else None)
        for text, score in zip(translated.alternatives, translated.alternative_scores, strict=True)
    ]


def _check_priority(value: object) -> Priority | None:
    """One of the classes there are, or None for the key's own."""
    if value is None:
        return None
    return "batch" if check_choice("priority", value, PRIORITIES) == "batch" else "interactive"


def _check_point(value: object, engine: EnginePort) -> str | None:
    """The id of a point there is."""
    known = [point.id for point in engine.table]
    if value is None or value in known:
        return value if isinstance(value, str) else None
    if isinstance(value, str) and value in engine.refused:
        raise RequestError(f"point {value!r} is refused: {engine.refused[value]}", "point")
    raise RequestError(f"point {show(value)} is unknown: choose one of {', '.join(known)}", "point")


async def _choose(serving: Serving, asked: PromisedRequest) -> tuple[PreparedTexts, RequestChoice]:
    """What there is to translate, and the point for it.

    Raises:
        PromiseError: It is strict, and not expected to get what it asks for.
        DeadlineError: It is not expected to be done by its deadline: to begin it would only hold up others.
    """
    if sum(map(len, asked.texts)) <= QUICK_CHARS:
        return _choose_now(serving, asked)
    return await run_in_threadpool(_choose_now, serving, asked)


def _choose_now(serving: Serving, asked: PromisedRequest) -> tuple[PreparedTexts, RequestChoice]:
    prepared = serving.engine.prepare([text for text in asked.texts if text])
    return prepared, _choice(serving, asked, prepared.part_lengths)


def _choice(serving: Serving, asked: PromisedRequest, lengths: tuple[int, ...]) -> RequestChoice:
    engine, control = serving.engine, serving.control
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
    if asked.deadline_ms is not None and choice.predicted_ms > asked.deadline_ms:
        raise DeadlineError(
            f"deadline_ms {asked.deadline_ms:g} is not expected to be met: {choice.point_id} is predicted to take "
            f"{choice.predicted_ms:.1f} ms, {engine.queue_depth} sentences waiting: try again later or allow more"
        )
    if not asked.is_strict or choice.is_met:
        return choice
    # What could be had: without the named point and the lowest quality, or within no time at all the fastest.
    fastest = control.choose(replace(wish, point_id=None, min_quality=None, latency_budget_ms=1e-6))
    raise PromiseError(
        f"{choice.reason}; the fastest, {fastest.point_id}, is predicted to take {fastest.predicted_ms:.1f} ms: "
        "ask for less, or leave strict out"
    )


def _retry_within_ms(asked: PromisedRequest, choice: RequestChoice, elapsed_ms: float) -> float:
    """By when a second attempt at degenerate output must be done: within the budget that the answer is judged by, and
    never off a named point."""
    if asked.point_id is not None:
        return 0.0
    return max(choice.latency_budget_ms - elapsed_ms, 0.0)
