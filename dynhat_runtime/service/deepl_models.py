"""DeepL's model types as operating points.

    latency_optimized          the fastest point
    prefer_quality_optimized   the best point that is expected to meet the daemon's budget
    quality_optimized          the best point there is; where it is not expected to meet the daemon's budget, an error
    none                       the active point

"Expected" is with the daemon's confidence, and its budget holds for each sentence.

Chooses nothing itself: it asks the control loop.
"""

from __future__ import annotations

from dataclasses import replace

from starlette.concurrency import run_in_threadpool

from dynhat_runtime.errors import PromiseError
from dynhat_runtime.governor.request_choice import RequestWish
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.prepared_texts import PreparedTexts
from dynhat_runtime.service.documents import Source
from dynhat_runtime.service.lifecycle import Serving
from dynhat_runtime.service.translation import QUICK_CHARS

LATENCY, QUALITY, PREFER_QUALITY = "latency_optimized", "quality_optimized", "prefer_quality_optimized"
MODEL_TYPES = (LATENCY, QUALITY, PREFER_QUALITY)


async def choose_point(
    serving: Serving, model_type: str | None, source: Source
) -> tuple[str | None, PreparedTexts | None]:
    """Id of the point for a request, None for the active one; and its texts, if they had to be prepared for it.

    Raises:
        PromiseError: Quality was asked for, and cannot be had within the budget.
    """
    if model_type is None:
        return None, None
    if model_type == LATENCY:
        return serving.engine.table.points[0].id, None
    if sum(map(len, source.texts)) <= QUICK_CHARS:
        return _choose_quality(serving, model_type, source)
    return await run_in_threadpool(_choose_quality, serving, model_type, source)


def _choose_quality(serving: Serving, model_type: str, source: Source) -> tuple[str, PreparedTexts]:
    """The best point that will do."""
    prepared = serving.engine.prepare([text for text in source.texts if text], source.cuts)
    return _best_point(serving, model_type, prepared.part_lengths), prepared


def _best_point(serving: Serving, model_type: str, lengths: tuple[int, ...]) -> str:
    engine, control = serving.engine, serving.control
    best = engine.table.best.id
    if not lengths:
        return best
    wish = RequestWish(num_src_tokens=lengths, num_sentences_ahead=engine.queue_depth, point_id=best)
    budget_ms = control.choose(wish).latency_budget_ms
    choice = control.choose(replace(wish, latency_budget_ms=budget_ms))
    if choice.is_met:
        return best
    if model_type == PREFER_QUALITY:
        return control.choose(replace(wish, point_id=None, latency_budget_ms=budget_ms)).point_id
    raise PromiseError(
        f"model_type {model_type!r} cannot be had now: {choice.reason}: send {PREFER_QUALITY!r}, or try again later"
    )


def model_type_of(point_id: str, table: OperatingPointTable) -> str:
    """What a translation by this point is called: of quality if no point is better."""
    return QUALITY if point_id == table.best.id else LATENCY
