"""An operating point for one request alone: what a request may wish for, and what it gets. Acts on nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from dynhat_runtime.errors import RequestError
from dynhat_runtime.governor.forecast import Forecast

MAX_BATCH_SENTENCES = 16
"""Sentences decoded together at most, by the engine and so in what is predicted: more take more batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestWish:
    """What one request asks for. With nothing asked for, it gets the active operating point."""

    num_src_tokens: tuple[int, ...]
    """Length of every sentence to be translated; they are decoded together."""
    num_sentences_ahead: int = 0
    """Sentences of others that wait before these."""
    latency_budget_ms: float | None = None
    """From submission to answer; None asks for no other point than the active one."""
    min_quality: float | None = None
    """Lowest BLEU, as the table states it, that will do."""
    point_id: str | None = None
    """This point and no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestChoice:
    """The operating point a request is translated on."""

    point_id: str
    predicted_ms: float
    """From submission to answer."""
    latency_budget_ms: float
    """What the answer is judged by: the request's own budget, without it the daemon's for each of its sentences; for
    one longer than the reference in proportion."""
    is_met: bool
    """Budget and quality are expected to be met: those asked for, and if neither is, the daemon's budget."""
    reason: str
    """One sentence with numbers, for people."""


# Rules, first match decides:
#   1  A point is asked for                                 -> that one.
#   2  Neither budget nor quality is asked for              -> the active point.
#   3  Points fit the budget with the wanted confidence
#      and have the quality (whichever is asked for)        -> the best of them by quality; without a budget, the
#                                                              active point if it has the quality, else the fastest.
#   4  Points have the quality, none fits the budget        -> the fastest of them, and said so.
#   5  No point has the quality                             -> the fastest of all, and said so.
# The time is from submission to answer: sentences ahead are taken to be of the reference length on the active point.
def choose_for_request(
    wish: RequestWish, forecast: Forecast, active_id: str, daemon_budget_ms: float
) -> RequestChoice:
    """Choose a point for one request.

    Args:
        wish: What it asks for.
        forecast: What every point would take now.
        active_id: The point that requests without a wish get.
        daemon_budget_ms: For a sentence of the reference length, where the request brings no budget.

    Raises:
        UnknownOperatingPointError: The table has no such point.
        RequestError: A quality is asked for, and the table does not state BLEU for every point.
    """
    table = forecast.model.table
    _check_quality_is_known(wish, forecast)
    waiting_ms = _waiting_ms(wish, forecast, active_id)

    @cache  # a request without a wish needs one of them only
    def predicted_ms(point_id: str) -> float:
        return forecast.answered_ms(waiting_ms + _own_ms(wish, forecast, point_id))

    budget_ms, wanted = wish.latency_budget_ms, wish.min_quality
    variance = forecast.target_length.log_variance

    def fits(point_id: str) -> bool:
        return budget_ms is None or forecast.needed_ms(predicted_ms(point_id), variance) <= budget_ms

    def has_quality(point_id: str) -> bool:
        return wanted is None or (table[point_id].bleu or 0.0) >= wanted

    good = [point.id for point in table if has_quality(point.id)]
    if wish.point_id is not None:
        chosen = table[wish.point_id].id
    elif budget_ms is None and active_id in good:
        chosen = active_id
    elif budget_ms is not None and (fitting := [point_id for point_id in good if fits(point_id)]):
        chosen = max(fitting, key=table.quality_by_id().__getitem__)
    else:
        chosen = min(good or [point.id for point in table], key=predicted_ms)
    judged_by_ms = _daemons_budget_ms(wish, forecast, daemon_budget_ms) if budget_ms is None else budget_ms
    is_met = fits(chosen) and has_quality(chosen)
    if budget_ms is None and wanted is None and wish.point_id is None:
        is_met = forecast.needed_ms(predicted_ms(chosen), variance) <= judged_by_ms
    return RequestChoice(
        point_id=chosen,
        predicted_ms=predicted_ms(chosen),
        latency_budget_ms=judged_by_ms,
        is_met=is_met,
        reason=_reason(wish, forecast, chosen, predicted_ms(chosen), has_quality=bool(good)),
    )


def _daemons_budget_ms(wish: RequestWish, forecast: Forecast, daemon_budget_ms: float) -> float:
    """The daemon's budget for every sentence; it is meant for the reference length, so longer ones get more."""
    reference = forecast.model.table.reference_num_tokens
    return sum(daemon_budget_ms * max(1.0, length / reference) for length in wish.num_src_tokens)


def _check_quality_is_known(wish: RequestWish, forecast: Forecast) -> None:
    if wish.min_quality is not None and any(point.bleu is None for point in forecast.model.table):
        raise RequestError(
            f"min_quality is {wish.min_quality:g}, but the operating point table states no BLEU for every point: "
            "leave min_quality out, or ask for a point",
            "min_quality",
        )


def _own_ms(wish: RequestWish, forecast: Forecast, point_id: str) -> float:
    """What the request's own sentences compute for on a point, in batches of at most 16."""
    return sum(
        forecast.computed_ms(
            point_id, max(batch), forecast.target_length.expected(max(batch)), num_sentences=len(batch)
        )
        for batch in _batches(wish.num_src_tokens)
    )


def _waiting_ms(wish: RequestWish, forecast: Forecast, active_id: str) -> float:
    """The sentences ahead, likewise."""
    length = forecast.model.table.reference_num_tokens
    return sum(
        forecast.computed_ms(active_id, length, length, num_sentences=len(batch))
        for batch in _batches((length,) * wish.num_sentences_ahead)
    )


def _batches(lengths: Sequence[int]) -> list[Sequence[int]]:
    return [lengths[i : i + MAX_BATCH_SENTENCES] for i in range(0, len(lengths), MAX_BATCH_SENTENCES)]


def _reason(
    wish: RequestWish, forecast: Forecast, chosen: str, predicted_ms: float, *, has_quality: bool
) -> str:
    """Why this point, in one sentence."""
    ahead = f" behind {wish.num_sentences_ahead} sentences" if wish.num_sentences_ahead else ""
    needs = f"{chosen} needs {predicted_ms:.1f} ms{ahead}"
    if wish.min_quality is not None and not has_quality:
        best = max(point.bleu or 0.0 for point in forecast.model.table)
        return (
            f"no operating point has BLEU {wish.min_quality:g}, the best has {best:g}; {needs}, the fastest"
        )
    budget_ms = wish.latency_budget_ms
    wanted = "" if wish.min_quality is None else f" with BLEU {wish.min_quality:g} or more"
    if budget_ms is None:
        asked = "it was asked for" if wish.point_id is not None else "no budget was asked for"
        return f"{needs}; {asked}{wanted if wish.point_id is None else ''}"
    variance = forecast.target_length.log_variance
    probability = forecast.probability_met(predicted_ms, budget_ms, variance) if predicted_ms > 0 else 1.0
    met = f"meets the budget of {budget_ms:g} ms with a probability of {math.floor(probability * 100)} %"
    if forecast.needed_ms(predicted_ms, variance) <= budget_ms:
        return f"{needs} and {met}"
    if wish.point_id is not None:
        return f"{needs} and {met}; it was asked for"
    return (
        f"no operating point{wanted} meets the budget of {budget_ms:g} ms with {forecast.confidence:.0%} "
        f"confidence; the fastest, {needs}"
    )
