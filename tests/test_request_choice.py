"""Tests of dynhat_runtime.governor.request_choice, through the governor that asks it."""

from __future__ import annotations

import pytest

from dynhat_runtime.errors import RequestError, UnknownOperatingPointError
from dynhat_runtime.governor.governor import Governor
from dynhat_runtime.governor.request_choice import RequestChoice, RequestWish
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from tests.hand_made import point, row, table, three_points

FOUR_CPUS = ResourceSnapshot(monotonic_s=100.0, source="test", usable_cpus=(0, 1, 2, 3))


def scored_points() -> OperatingPointTable:
    """p1, p3 and p6 of 10, 20 and 30 ms at 30 tokens, with BLEU 20, 25 and 28."""
    return table(
        [
            point(f"p{layers}", [row(4, 30, 30, 1.0, time_ms - 1.0)], num_decoder_layers=layers, bleu=bleu)
            for layers, time_ms, bleu in ((1, 10.0, 20.0), (3, 20.0, 25.0), (6, 30.0, 28.0))
        ]
    )


def choose(
    wish: RequestWish, active_id: str = "p3", points: OperatingPointTable | None = None
) -> RequestChoice:
    """The choice on four CPUs with `active_id` running."""
    governor = Governor(points or scored_points(), GovernorRules(latency_budget_ms=100.0), active_id)
    governor.decide(FOUR_CPUS)
    return governor.choose(wish)


def wish(**asked: float | str | int | None) -> RequestWish:
    """One sentence whose target is expected to have 30 tokens."""
    return RequestWish(num_src_tokens=(28,), **asked)  # type: ignore[arg-type]


def test_nothing_asked_for_gets_the_active_point() -> None:
    """Without a wish the active point serves, and there is nothing to miss."""
    choice = choose(wish())
    assert (choice.point_id, choice.is_met) == ("p3", True)
    assert choice.predicted_ms == pytest.approx(20.0, rel=0.01)


@pytest.mark.parametrize(("budget_ms", "point_id"), [(500.0, "p6"), (30.0, "p6"), (25.0, "p3"), (12.0, "p1")])
def test_a_budget_gets_the_best_point_within_it(budget_ms: float, point_id: str) -> None:
    """The best-quality point that fits is chosen, above or below the active one."""
    choice = choose(wish(latency_budget_ms=budget_ms))
    assert (choice.point_id, choice.is_met) == (point_id, True)
    assert choice.predicted_ms <= budget_ms


def test_a_budget_that_nothing_meets_gets_the_fastest_and_is_told() -> None:
    """Below the fastest point's time the fastest is chosen, is_met is False, and the reason has both numbers."""
    choice = choose(wish(latency_budget_ms=5.0))
    assert (choice.point_id, choice.is_met) == ("p1", False)
    assert "5 ms" in choice.reason
    assert "p1 needs 10.0 ms" in choice.reason


def test_quality_forbids_faster_points() -> None:
    """With a quality asked for, a point without it is not chosen even if it alone meets the budget."""
    choice = choose(wish(latency_budget_ms=12.0, min_quality=24.0))
    assert (choice.point_id, choice.is_met) == ("p3", False)
    assert "BLEU 24" in choice.reason


def test_quality_alone_keeps_the_active_point_or_takes_the_fastest_that_has_it() -> None:
    """Without a budget the active point serves if it is good enough, else the fastest that is."""
    assert choose(wish(min_quality=24.0), active_id="p6").point_id == "p6"
    assert choose(wish(min_quality=24.0), active_id="p1").point_id == "p3"


def test_a_quality_that_nothing_has_gets_the_fastest_and_is_told() -> None:
    """Above the best point's BLEU the fastest is chosen, and the reason says what there is."""
    choice = choose(wish(latency_budget_ms=100.0, min_quality=50.0))
    assert (choice.point_id, choice.is_met) == ("p1", False)
    assert "no operating point has BLEU 50, the best has 28" in choice.reason


def test_quality_of_a_table_without_is_an_error() -> None:
    """Asking for a BLEU that nobody measured is refused, naming the field."""
    with pytest.raises(RequestError, match="states no BLEU") as caught:
        choose(wish(min_quality=20.0), points=three_points())
    assert caught.value.field == "min_quality"


def test_a_named_point_is_taken_whatever_else_is_asked() -> None:
    """The point asked for is chosen over budget, and is_met tells."""
    choice = choose(wish(point_id="p6", latency_budget_ms=25.0))
    assert (choice.point_id, choice.is_met) == ("p6", False)
    assert choose(wish(point_id="p6")).is_met


def test_an_unknown_point_is_an_error() -> None:
    """A point that the table lacks is refused, listing those it has."""
    with pytest.raises(UnknownOperatingPointError, match=r"p9.*p1, p3, p6"):
        choose(wish(point_id="p9"))


def test_sentences_ahead_count() -> None:
    """What waits before a request is in its prediction, and may cost it a better point."""
    alone, behind = (choose(wish(num_sentences_ahead=number)) for number in (0, 5))
    assert behind.predicted_ms > alone.predicted_ms + 20.0
    assert choose(wish(latency_budget_ms=60.0, num_sentences_ahead=5)).point_id == "p1"
    assert "behind 5 sentences" in behind.reason


def test_more_sentences_take_longer_than_one_and_less_than_each_alone() -> None:
    """A batch is predicted between its longest sentence and the sum of all."""
    one = choose(RequestWish(num_src_tokens=(28,))).predicted_ms
    four = choose(RequestWish(num_src_tokens=(28, 5, 28, 10))).predicted_ms
    assert one < four < 4 * one


def test_more_sentences_than_a_batch_holds_take_another_batch() -> None:
    """Seventeen sentences take the time of sixteen and of one."""
    one, sixteen, seventeen = (
        choose(RequestWish(num_src_tokens=(28,) * number)).predicted_ms for number in (1, 16, 17)
    )
    assert seventeen == pytest.approx(sixteen + one)


def test_a_wish_does_not_disturb_what_is_active() -> None:
    """Choosing for one request leaves the next decision and the next choice as they were."""
    governor = Governor(scored_points(), GovernorRules(latency_budget_ms=100.0), "p6")
    before = governor.decide(FOUR_CPUS)
    governor.choose(wish(latency_budget_ms=12.0))
    assert governor.decide(FOUR_CPUS) == before
    assert governor.choose(wish()).point_id == "p6"
