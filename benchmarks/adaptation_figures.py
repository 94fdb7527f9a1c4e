"""Arithmetic of the adaptation benchmark: from requests and switches to shares, times and the oracle.

Measures nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from benchmarks.adaptation_phases import Phase, Resources
from benchmarks.figures import percentile

REACTION_S = 2.0
"""From so long after a disturbance on, the budget has to be met."""
MOST_OVER = 0.05
"""Share of requests that may take longer than the budget."""
FLAP_S = 5.0


@dataclass(frozen=True, slots=True)
class Request:
    """One translation as the client saw it; times are of the system's monotonic clock."""

    began_s: float
    elapsed_ms: float
    point_id: str | None
    """None where it failed."""
    error: str | None = None
    predicted_ms: float | None = None
    """What the daemon expected; None where it failed."""
    answered_ms: float | None = None
    """What it took by the daemon's own clock, without the way over HTTP; None where it failed."""

    def is_over(self, budget_ms: float) -> bool:
        """Took longer than the budget, or failed."""
        return self.point_id is None or self.elapsed_ms > budget_ms


@dataclass(frozen=True, slots=True)
class Switch:
    """One change of the active operating point, from the daemon's why-log."""

    at_s: float
    from_id: str
    to_id: str
    reason: str
    slow_down_factor: float = 1.0
    """Of everything against the table's figures, as the decision took it."""
    slow_down_std: float = 0.0
    """Of its logarithm."""


@dataclass(frozen=True, slots=True)
class PhaseRun:
    """A phase as it went."""

    phase: Phase
    began_s: float
    """When the resources began to change."""
    in_effect_s: float
    """When they had changed; starting a busy process takes a moment."""
    ended_s: float
    first_id: str
    """The point active as it began."""
    requests: tuple[Request, ...]
    switches: tuple[Switch, ...]
    batch_errors: tuple[float, ...] = ()
    """Of the daemon's last predictions in it, at the lengths that sources and targets turned out to have: predicted /
    actual - 1."""

    @property
    def settled_s(self) -> float:
        """From the disturbance in effect to the last switch before the next one; 0 without a later switch."""
        return max([0.0, *(switch.at_s - self.in_effect_s for switch in self.switches)])

    @property
    def reacted(self) -> tuple[Request, ...]:
        """The requests that began when the budget has to be met again."""
        return tuple(one for one in self.requests if one.began_s - self.in_effect_s >= REACTION_S)


@dataclass(frozen=True, slots=True)
class Pass:
    """One arm's way through a course."""

    arm: str
    runs: tuple[PhaseRun, ...]

    @property
    def began_s(self) -> float:
        """When the first phase did."""
        return self.runs[0].began_s

    @property
    def switches(self) -> list[Switch]:
        """All, in order."""
        return [switch for run in self.runs for switch in run.switches]


@dataclass(frozen=True, slots=True)
class Cell:
    """Figures of an arm in a phase, over all rounds; None is what nothing was measured for."""

    num_requests: int
    num_failed: int
    over: float | None
    """Share over the budget."""
    over_reacted: float | None
    """Likewise of those that began 2 s after the disturbance or later."""
    median_ms: float | None
    p95_ms: float | None
    bleu: float | None
    """Mean of the table's BLEU over the requests' points."""
    prediction_error: float | None = None
    """Median of |predicted / the daemon's own time - 1|, of those that count 2 s after the disturbance."""
    batch_error: float | None = None
    """Median of the absolute errors at known lengths."""
    settled_s: tuple[float, ...] = ()
    """Per round."""
    num_switches: tuple[int, ...] = ()
    point_id: str | None = None
    """Where the whole cell has but one."""


def share_over(requests: Collection[Request], budget_ms: float) -> float | None:
    """Share of requests over the budget; None of none."""
    return sum(one.is_over(budget_ms) for one in requests) / len(requests) if requests else None


def mean_bleu(requests: Collection[Request], bleu: Mapping[str, float]) -> float | None:
    """Mean BLEU of the points that answered; None where nothing did."""
    used = [bleu[one.point_id] for one in requests if one.point_id is not None]
    return statistics.fmean(used) if used else None


def prediction_error(requests: Collection[Request]) -> float | None:
    """Median of |predicted / the daemon's own time - 1|; None where nothing was predicted."""
    errors = [
        abs(one.predicted_ms / one.answered_ms - 1)
        for one in requests
        if one.predicted_ms is not None and one.answered_ms is not None
    ]
    return statistics.median(errors) if errors else None


def cell(
    requests: Sequence[Request],
    reacted: Sequence[Request],
    budget_ms: float,
    bleu: Mapping[str, float],
    runs: Sequence[PhaseRun] = (),
) -> Cell:
    """The figures of requests."""
    times_ms = [one.elapsed_ms for one in requests if one.point_id is not None]
    used = {one.point_id for one in requests}
    batch_errors = [abs(error) for run in runs for error in run.batch_errors]
    return Cell(
        num_requests=len(requests),
        num_failed=sum(one.point_id is None for one in requests),
        over=share_over(requests, budget_ms),
        over_reacted=share_over(reacted, budget_ms),
        median_ms=statistics.median(times_ms) if times_ms else None,
        p95_ms=percentile(times_ms, 95) if times_ms else None,
        bleu=mean_bleu(requests, bleu),
        prediction_error=prediction_error(reacted),
        batch_error=statistics.median(batch_errors) if batch_errors else None,
        settled_s=tuple(run.settled_s for run in runs),
        num_switches=tuple(len(run.switches) for run in runs),
        point_id=used.pop() if len(used) == 1 else None,
    )


def cell_of_runs(runs: Sequence[PhaseRun], budget_ms: float, bleu: Mapping[str, float]) -> Cell:
    """The figures of one phase over all rounds of an arm."""
    requests = [one for run in runs for one in run.requests]
    reacted = [one for run in runs for one in run.reacted]
    return cell(requests, reacted, budget_ms, bleu, runs)


Sweep = Mapping[Resources, Mapping[str, Sequence[Request]]]
"""Requests of every point, pinned, under every kind of resources."""


# Rules, first match decides:
#   1  Points with at most 5 % of their requests over the budget -> the one of best quality.
#   2  None                                                      -> the one with the least share over it; of equals,
#                                                                   the one of best quality.
def oracle_point(
    of_points: Mapping[str, Sequence[Request]], budget_ms: float, quality: Mapping[str, float]
) -> str:
    """The best fixed point, found afterwards.

    Args:
        of_points: At least one request of every point.
        budget_ms: What a request may take.
        quality: Higher is better.
    """
    over = {point_id: share_over(requests, budget_ms) for point_id, requests in of_points.items()}
    shares = {point_id: share for point_id, share in over.items() if share is not None}
    good = [point_id for point_id, share in shares.items() if share <= MOST_OVER]
    if good:
        return max(good, key=quality.__getitem__)
    return min(shares, key=lambda point_id: (shares[point_id], -quality[point_id]))


# A flap: a point is left and comes back within 5 s, and no disturbance began in between.
def flaps(switches: Sequence[Switch], disturbed_s: Sequence[float]) -> list[Switch]:
    """The switches that brought a point back too soon.

    Args:
        switches: In order.
        disturbed_s: When disturbances began.
    """
    left_s: dict[str, float] = {}
    found = []
    for switch in switches:
        left_s[switch.from_id] = switch.at_s
        before_s = left_s.get(switch.to_id)
        if before_s is None or switch.at_s - before_s > FLAP_S:
            continue
        if not any(before_s < at_s <= switch.at_s for at_s in disturbed_s):
            found.append(switch)
    return found


def with_switches(runs: Sequence[PhaseRun], switches: Sequence[Switch]) -> tuple[PhaseRun, ...]:
    """Every switch to the phase it fell into; a phase ends where the next one begins to."""
    bounds_s = [*(run.began_s for run in runs), runs[-1].ended_s]
    return tuple(
        replace(
            run, ended_s=ended_s, switches=tuple(one for one in switches if began_s <= one.at_s < ended_s)
        )
        for run, (began_s, ended_s) in zip(runs, pairwise(bounds_s), strict=True)
    )
