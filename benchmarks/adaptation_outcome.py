"""What a run of the adaptation benchmark found, cell by cell and aim by aim. Measures and formats nothing."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.adaptation_figures import (
    FLAP_S,
    MOST_OVER,
    REACTION_S,
    Cell,
    Pass,
    PhaseRun,
    Request,
    Switch,
    cell,
    cell_of_runs,
    flaps,
    oracle_point,
    share_over,
)
from benchmarks.adaptation_measure import LARGEST, OURS, SMALLEST, Calibration
from benchmarks.adaptation_phases import Phase, Resources

ORACLE = "oracle"
ARMS = (OURS, LARGEST, SMALLEST, ORACLE)
LEAST_OF_ORACLE = 0.97
MOST_OF_REQUESTS = 0.5
MOST_SWITCHES = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """An aim, and how it went."""

    aim: str
    figure: str
    is_met: bool | None
    """None where nothing was measured for it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that was measured on the fixed course."""

    calibration: Calibration
    phases: Sequence[Phase]
    passes: Sequence[Pass]
    sweep: Mapping[Resources, Mapping[str, Sequence[Request]]]
    bleu: Mapping[str, float]
    quality: Mapping[str, float]
    """Of every point; higher is better."""

    @property
    def budget_ms(self) -> float:
        """What a request may take."""
        return self.calibration.promise.latency_budget_ms

    def runs(self, arm: str, position: int) -> list[PhaseRun]:
        """Of one arm in one phase, over the rounds."""
        return [one.runs[position] for one in self.passes if one.arm == arm]

    def cell(self, arm: str, position: int) -> Cell:
        """The figures of an arm in a phase."""
        if arm != ORACLE:
            return cell_of_runs(self.runs(arm, position), self.budget_ms, self.bleu)
        of_points = self.sweep[self.phases[position].resources]
        requests = of_points[oracle_point(of_points, self.budget_ms, self.quality)]
        return cell(requests, requests, self.budget_ms, self.bleu)

    def verdicts(self) -> list[Verdict]:
        """The aims of the issue, one by one."""
        cells = {arm: [self.cell(arm, position) for position in range(len(self.phases))] for arm in ARMS}
        ours, named = cells[OURS], [phase.name for phase in self.phases]
        over = {name: one.over_reacted for name, one in zip(named, ours, strict=True)}
        quality = {
            name: one.bleu / best.bleu
            for name, one, best in zip(named, ours, cells[ORACLE], strict=True)
            if one.bleu and best.bleu
        }
        switches = {
            name: max(one.num_switches, default=0) for name, one in zip(named[1:], ours[1:], strict=True)
        }
        num_failed = sum(one.num_failed for several in cells.values() for one in several)
        num_requests = sum(one.num_requests for several in cells.values() for one in several)
        means = [statistics.fmean(one.bleu for one in cells[arm] if one.bleu) for arm in (OURS, ORACLE)]
        return [
            _verdict(
                f"ours: at most {MOST_OVER:.0%} of requests over the budget, "
                f"from {REACTION_S:g} s after each disturbance",
                over,
                lambda share: share <= MOST_OVER,
                percent,
            ),
            _verdict(
                f"ours: quality within {1 - LEAST_OF_ORACLE:.0%} of the oracle's",
                {**quality, "mean of the phases": means[0] / means[1]},
                lambda ratio: ratio >= LEAST_OF_ORACLE,
                lambda ratio: f"{ratio:.3f}",
            ),
            _verdict(
                f"ours: at most {MOST_SWITCHES} switches per disturbance",
                switches,
                lambda number: number <= MOST_SWITCHES,
                lambda number: f"{number:.0f}",
            ),
            Verdict("no failed request, in any arm", f"{num_failed} of {num_requests}", num_failed == 0),
            self._verdict_on_largest(cells[LARGEST]),
        ]

    def _verdict_on_largest(self, cells: Sequence[Cell]) -> Verdict:
        """Judged over all disturbed phases together: decoding uses one thread, so a lost CPU alone does not slow it."""
        known = [
            (phase.name, one.over, one.num_requests)
            for phase, one in zip(self.phases, cells, strict=True)
            if phase.is_disturbed and one.over is not None
        ]
        aim = "static largest: over the budget in most requests of the disturbed phases, taken together"
        if not known:
            return Verdict(aim, "nothing measured", None)
        together = sum(over * number for _, over, number in known) / sum(number for *_, number in known)
        words = ", ".join(f"{name} {percent(over)}" for name, over, _ in known)
        return Verdict(aim, f"{percent(together)}: {words}", together > MOST_OF_REQUESTS)


def percent(share: float) -> str:
    """A share for people."""
    return f"{share:.1%}" if 0 < share < 0.1 else f"{share:.0%}"


def _verdict(aim: str, figures: Mapping[str, float | None], is_good: Any, in_words: Any) -> Verdict:
    """One aim over several phases: met where it is met in each."""
    known = {name: figure for name, figure in figures.items() if figure is not None}
    words = ", ".join(
        f"{name} {in_words(figure)}{'' if is_good(figure) else ' (missed)'}" for name, figure in known.items()
    )
    return Verdict(aim, words or "nothing measured", all(map(is_good, known.values())) if known else None)


@dataclass(frozen=True, slots=True)
class DrawnOutcome:
    """All that was measured under disturbances drawn by chance; one arm, ours."""

    calibration: Calibration
    seed: int
    found: Pass
    bleu: Mapping[str, float]

    @property
    def budget_ms(self) -> float:
        """What a request may take."""
        return self.calibration.promise.latency_budget_ms

    @property
    def requests(self) -> list[Request]:
        """All."""
        return [one for run in self.found.runs for one in run.requests]

    @property
    def disturbed_s(self) -> list[float]:
        """When a disturbance began; the first phase is none."""
        return [run.began_s for run in self.found.runs[1:]]

    @property
    def flaps(self) -> list[Switch]:
        """Switches that brought a point back within 5 s with no disturbance between."""
        return flaps(self.found.switches, self.disturbed_s)

    @property
    def over_reacted(self) -> float | None:
        """Share over the budget of the requests that began 2 s after a disturbance or later."""
        return share_over([one for run in self.found.runs for one in run.reacted], self.budget_ms)

    def verdicts(self) -> list[Verdict]:
        """What was aimed for."""
        disturbances = self.found.runs[1:]
        most = max((len(run.switches) for run in disturbances), default=0)
        num_failed = sum(one.point_id is None for one in self.requests)
        over = self.over_reacted
        return [
            Verdict(
                f"no flapping: no point comes back within {FLAP_S:g} s without a disturbance between",
                f"{len(self.flaps)} of {len(self.found.switches)} switches",
                not self.flaps,
            ),
            Verdict(
                f"at most {MOST_SWITCHES} switches per disturbance",
                f"at most {most}, {sum(len(run.switches) > MOST_SWITCHES for run in disturbances)} "
                f"of {len(disturbances)} disturbances had more than {MOST_SWITCHES}",
                most <= MOST_SWITCHES,
            ),
            Verdict(
                f"at most {MOST_OVER:.0%} over the budget, from {REACTION_S:g} s after each disturbance",
                "nothing measured" if over is None else percent(over),
                None if over is None else over <= MOST_OVER,
            ),
            Verdict("no failed request", f"{num_failed} of {len(self.requests)}", num_failed == 0),
        ]


def raw(passes: Sequence[Pass]) -> list[dict[str, Any]]:
    """Every request and switch, ready for JSON."""
    return [dataclasses.asdict(one) for one in passes]
