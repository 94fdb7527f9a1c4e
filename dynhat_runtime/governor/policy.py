"""The governor's one decision: which operating point to run, and why.

Pure: the same arguments give the same decision. Judges by caps (usable CPUs, quota, the clock's ceiling),
never by momentary clock, load or pressure. Acts on nothing: whoever asked carries the decision out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dynhat_runtime.errors import SettingsError
from dynhat_runtime.governor.latency_model import LatencyModel
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.resource_snapshot import ResourceSnapshot

Mode = Literal["auto", "pinned"]
ReasonCode = Literal["pinned", "over_budget", "nothing_fits", "step_up", "dwell", "dead_band", "best_fits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GovernorRules:
    """What the governor promises and how calmly it moves."""

    latency_budget_ms: float
    """A sentence of the reference length should take no longer."""
    dead_band_fraction: float = 0.03
    """Share of the budget that must stay free for a step up, so that a hair's breadth does not swing back."""
    dwell_s: float = 0.5
    """A point stays at least this long before a step up. A step down never waits."""
    num_busy_neighbours: int = 1
    """Busy processes planned for. A device that serves does other work too; with a CPU to spare that costs
    nothing, without one the neighbour takes its share of ours."""
    num_tokens: int | None = None
    """Source and target length judged at; None is the table's reference length."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.latency_budget_ms) and self.latency_budget_ms > 0):
            raise SettingsError(f"latency_budget_ms={self.latency_budget_ms}: give milliseconds above 0")
        if not 0 <= self.dead_band_fraction < 1:
            raise SettingsError(
                f"dead_band_fraction={self.dead_band_fraction}: give a share from 0 to below 1"
            )
        if not (math.isfinite(self.dwell_s) and self.dwell_s >= 0):
            raise SettingsError(f"dwell_s={self.dwell_s}: give seconds, 0 or more")
        if self.num_busy_neighbours < 0:
            raise SettingsError(f"num_busy_neighbours={self.num_busy_neighbours}: give a number, 0 or more")
        if self.num_tokens is not None and self.num_tokens < 1:
            raise SettingsError(f"num_tokens={self.num_tokens}: give a length of 1 or more, or leave it out")

    @property
    def step_up_budget_ms(self) -> float:
        """What a point may take to be stepped up to: the budget less the dead band."""
        return self.latency_budget_ms * (1 - self.dead_band_fraction)


@dataclass(frozen=True, slots=True, kw_only=True)
class GovernorState:
    """Where the governor stands between two decisions."""

    active_id: str
    since_monotonic_s: float
    """When the active point became active."""
    pinned_id: str | None = None
    """The point a person asked for; None leaves the choice to the rules."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One point as the decision saw it."""

    point_id: str
    predicted_ms: float
    fits: bool
    """Within the latency budget."""
    why_not: str | None
    """What speaks against it; None for a chosen point that fits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The point to run from now on, and everything needed to see why."""

    point_id: str
    changed: bool
    """Another point than the one active when it was decided."""
    mode: Mode
    reason: str
    """One sentence with numbers, for people."""
    reason_code: ReasonCode
    """The rule that decided, for programs."""
    candidates: tuple[Candidate, ...]
    """Every point of the table, in its order."""
    snapshot: ResourceSnapshot
    decided_monotonic_s: float


# Rules, first match decides:
#   1  A point is pinned                              -> the pinned point, whatever it takes.
#   2  The active point is over the budget            -> at once the best-quality point that fits;
#                                                        if none fits, the fastest point.
#   3  A better point fits even with the dead band,
#      and the active one has stayed for the dwell    -> the best such point.
#   4  Otherwise                                      -> stay.
#
# Quality is the lowest dev loss; for a table without, the highest BLEU; for a table with neither, the order
# of the table, later being better. A momentary clock, load or pressure is never looked at: boards clock down
# when idle, and an idle gap must not look like a slow device.
def decide(
    snapshot: ResourceSnapshot, state: GovernorState, rules: GovernorRules, model: LatencyModel
) -> Decision:
    """Choose the operating point for the resources in `snapshot`.

    Args:
        snapshot: The resources; its `monotonic_s` is the decision's time.
        state: The active point, since when, and whether a point is pinned.
        rules: Budget, dead band and dwell.
        model: Predicts the latency of every point of its table.

    Raises:
        UnknownOperatingPointError: The active or the pinned point is not in the table.
    """
    table = model.table
    active = table[state.active_id]
    predicted_ms = _predict_all_ms(snapshot, rules, model)
    quality = table.quality_by_id()
    fitting = [point.id for point in table if predicted_ms[point.id] <= rules.latency_budget_ms]
    better = [point_id for point_id in fitting if quality[point_id] > quality[active.id]]
    step_up = [point_id for point_id in better if predicted_ms[point_id] <= rules.step_up_budget_ms]
    has_stayed = snapshot.monotonic_s - state.since_monotonic_s >= rules.dwell_s

    code: ReasonCode
    if state.pinned_id is not None:
        chosen, code = table[state.pinned_id].id, "pinned"
    elif active.id not in fitting and fitting:
        chosen, code = max(fitting, key=quality.__getitem__), "over_budget"
    elif active.id not in fitting:
        chosen, code = min(predicted_ms, key=predicted_ms.__getitem__), "nothing_fits"
    elif step_up and has_stayed:
        chosen, code = max(step_up, key=quality.__getitem__), "step_up"
    elif step_up:
        chosen, code = active.id, "dwell"
    elif better:
        chosen, code = active.id, "dead_band"
    else:
        chosen, code = active.id, "best_fits"

    best_better = max(step_up or better or [chosen], key=quality.__getitem__)
    words = _Words(snapshot, rules, table, predicted_ms)
    return Decision(
        point_id=chosen,
        changed=chosen != active.id,
        mode="auto" if state.pinned_id is None else "pinned",
        reason=words.reason(code, chosen, active.id, best_better),
        reason_code=code,
        candidates=tuple(
            Candidate(
                point_id=point.id,
                predicted_ms=predicted_ms[point.id],
                fits=point.id in fitting,
                why_not=words.why_not(point.id, code, chosen, is_better=quality[point.id] > quality[chosen]),
            )
            for point in table
        ),
        snapshot=snapshot,
        decided_monotonic_s=snapshot.monotonic_s,
    )


def _predict_all_ms(
    snapshot: ResourceSnapshot, rules: GovernorRules, model: LatencyModel
) -> dict[str, float]:
    """Predicted latency of every point under the caps of `snapshot`, in the table's order."""
    num_tokens = rules.num_tokens or model.table.reference_num_tokens
    slow_down = _clock_slow_down(snapshot, model.table)
    return {
        point.id: slow_down
        * model.predict_ms(
            point,
            num_src_tokens=num_tokens,
            num_tgt_tokens=num_tokens,
            num_cpus=snapshot.effective_cpus,
        )
        for point in model.table
    }


def _clock_slow_down(snapshot: ResourceSnapshot, table: OperatingPointTable) -> float:
    """Factor on measured latencies for a clock capped below the one they were measured under.

    A higher cap promises nothing: the gain was not measured.
    """
    measured_hz, capped_hz = table.device.cpu_max_frequency_hz, snapshot.cpu_max_frequency_hz
    if measured_hz is None or not capped_hz:
        return 1.0
    return max(measured_hz / capped_hz, 1.0)


class _Words:
    """Says a decision in sentences."""

    def __init__(
        self,
        snapshot: ResourceSnapshot,
        rules: GovernorRules,
        table: OperatingPointTable,
        predicted_ms: dict[str, float],
    ) -> None:
        self._rules = rules
        self._table = table
        self._predicted_ms = predicted_ms
        self._budget = f"the budget of {rules.latency_budget_ms:.1f} ms"
        self._place = _place(snapshot, table)

    def reason(self, code: ReasonCode, chosen: str, active: str, better: str) -> str:
        """The sentence for the rule that decided; `better` is the point an active one might give way to."""
        budget, place = self._budget, self._place
        if code == "pinned":
            is_over = self._predicted_ms[chosen] > self._rules.latency_budget_ms
            return f"{self._needs(chosen)} {place}, {'over' if is_over else 'within'} {budget}; it is pinned"
        if code == "over_budget":
            return f"{self._needs(active)} {place}, over {budget}; {self._needs(chosen)}"
        if code == "nothing_fits":
            return f"no operating point fits {budget} {place}; the fastest, {self._needs(chosen)}"
        if code == "step_up":
            return f"{self._needs(chosen)} {place}, within {budget}, and translates better than {active}"
        if code == "dwell":
            return (
                f"{self._needs(better)} {place}, within {budget}, "
                f"but {active} stays until it has been active for {self._rules.dwell_s:g} s"
            )
        if code == "dead_band":
            return (
                f"{self._needs(better)} {place}, too close to {budget}: a step up from {active} "
                f"asks for {self._rules.step_up_budget_ms:.1f} ms or less"
            )
        return f"{self._needs(active)} {place}, and no better operating point fits {budget}"

    def why_not(self, point_id: str, code: ReasonCode, chosen: str, *, is_better: bool) -> str | None:
        """What speaks against one point."""
        predicted_ms = self._predicted_ms[point_id]
        if predicted_ms > self._rules.latency_budget_ms:
            return f"{predicted_ms:.1f} ms is over {self._budget}"
        if point_id == chosen:
            return None
        if code == "pinned":
            return f"{chosen} is pinned"
        if not is_better:
            return f"translates no better than {chosen}"
        if predicted_ms > self._rules.step_up_budget_ms:
            return f"{predicted_ms:.1f} ms is too close to {self._budget} for a step up"
        return f"waits until {chosen} has been active for {self._rules.dwell_s:g} s"

    def _needs(self, point_id: str) -> str:
        num_layers = self._table[point_id].config.num_decoder_layers
        layers = f"{num_layers} decoder layer{'' if num_layers == 1 else 's'}"
        return f"{point_id} ({layers}) needs {self._predicted_ms[point_id]:.1f} ms"


def _place(snapshot: ResourceSnapshot, table: OperatingPointTable) -> str:
    """The caps in words, such as `on 1 CPU capped at 0.74 of 1.48 GHz`."""
    num_cpus = snapshot.effective_cpus
    place = "on all CPUs" if num_cpus is None else f"on {num_cpus:.3g} CPU{'' if num_cpus == 1 else 's'}"
    measured_hz, capped_hz = table.device.cpu_max_frequency_hz, snapshot.cpu_max_frequency_hz
    if measured_hz is not None and capped_hz and capped_hz < measured_hz:
        place += f" capped at {capped_hz / 1e9:.2f} of {measured_hz / 1e9:.2f} GHz"
    return place
