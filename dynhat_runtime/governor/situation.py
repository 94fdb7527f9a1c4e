"""Where the governor stands, and what follows from it for every point: the facts that the rules are about.

Holds no rule of what to run: that is the policy's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from dynhat_runtime.governor.forecast import Forecast
from dynhat_runtime.governor.handling_time import HandlingTime
from dynhat_runtime.governor.headroom import Headroom
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.governor.slow_down import SlowDown
from dynhat_runtime.operating_point import OperatingPointTable

RATE_WINDOW_S = 60.0
SETTLED_OBSERVATIONS = 5
"""That agree, before a step up rests on them."""
CERTAIN_OBSERVATIONS = 20
"""That agree, before a step up rests on them though a still better point only lacks certainty."""
SMALL_GAIN_FRACTION = 0.1
"""Of what the best point is better than the worst: for less than that a step up is in no hurry."""
SMALL_GAIN_STAYS_S = 15.0
CAME_DOWN_STAYS_S = 5.0
"""After a step down on what was learned, before a step up that no jump of the slow-down calls for."""
UNSURE_STEP_S, UNSURE_AGAIN_S = 6.0, 10.0
"""Before a point is left that would meet the budget as expected and only lacks the confidence; the second, if it was
stepped down to."""
MANY_SWITCHES, MANY_SWITCHES_STAY_S = 2, 15.0
"""After so many switches of one disturbance, before a step up, or a step down from a point that is only unsure."""
DOUBT_STDS = 3.0
"""Standard deviations of the slow-down that widen the dead band."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GovernorState:
    """Where the governor stands between two decisions."""

    active_id: str
    since_monotonic_s: float
    """When the active point became active."""
    pinned_id: str | None = None
    """The point a person asked for; None leaves the choice to the rules."""
    slow_down: SlowDown | None = None
    """What was learned under the present caps; None if nothing was."""
    plan_at_least: float = 1.0
    """What to plan for at least, as caps fell while the device was believed to be slower still."""
    step_ups_monotonic_s: tuple[float, ...] = ()
    """When the steps up of the last minute were taken."""
    came_down: bool = False
    """The active point was stepped down to on what was learned, under the present caps."""
    num_switches: int = 0
    """Since the last disturbance: since other caps were seen, or the slow-down jumped."""
    handling: HandlingTime = field(default_factory=HandlingTime)
    """What requests take besides being decoded."""
    hold_s: float = 0.0
    """What the active point has to stay before a step up, as steps up were taken back, or just taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """The facts of one decision."""

    LIMIT_STEP_S: ClassVar[float] = 10.0
    """Between two steps for heat or power: both follow slowly."""

    forecast: Forecast
    state: GovernorState
    rules: GovernorRules
    headroom: Headroom
    quality: dict[str, float]
    predicted_ms: dict[str, float]
    """Of every point for a sentence of the reference length, in the table's order."""
    needed_ms: dict[str, float]
    """Likewise the budget that it meets with the wanted confidence."""

    @classmethod
    def of(
        cls, forecast: Forecast, state: GovernorState, rules: GovernorRules, headroom: Headroom
    ) -> Situation:
        """Look at every point of the table.

        Raises:
            UnknownOperatingPointError: The table does not have the active point.
        """
        table = forecast.model.table
        length = rules.num_tokens or table.reference_num_tokens
        assert table[state.active_id]
        predicted_ms = {point.id: forecast.predicted_ms(point.id, length, length) for point in table}
        return cls(
            forecast=forecast,
            state=state,
            rules=rules,
            headroom=headroom,
            quality=table.quality_by_id(),
            predicted_ms=predicted_ms,
            needed_ms={point_id: forecast.needed_ms(time_ms) for point_id, time_ms in predicted_ms.items()},
        )

    @property
    def table(self) -> OperatingPointTable:
        """The points there are."""
        return self.forecast.model.table

    @property
    def active_id(self) -> str:
        """The point active now."""
        return self.state.active_id

    # --- points -------------------------------------------------------------------------------------------------

    @property
    def point_ids(self) -> list[str]:
        """All, in the table's order."""
        return list(self.predicted_ms)

    def fits(self, point_id: str) -> bool:
        """Meets the budget with the wanted confidence."""
        return self.needed_ms[point_id] <= self.rules.latency_budget_ms

    def probability_met(self, point_id: str) -> float:
        """Of meeting the budget."""
        return self.forecast.probability_met(self.predicted_ms[point_id], self.rules.latency_budget_ms)

    def is_in_doubt(self, point_id: str) -> bool:
        """Unsure while few observations agree."""
        return self.is_unsure(point_id) and self.forecast.slow_down.num_observed < SETTLED_OBSERVATIONS

    def is_unsure(self, point_id: str) -> bool:
        """Would meet the budget as expected, and lacks the confidence."""
        return self.predicted_ms[point_id] <= self.rules.latency_budget_ms and not self.fits(point_id)

    @property
    def fitting(self) -> list[str]:
        """All that meet the budget with the wanted confidence."""
        return [point_id for point_id in self.predicted_ms if self.fits(point_id)]

    @property
    def better(self) -> list[str]:
        """Fitting ones of better quality than the active one."""
        quality = self.quality
        return [point_id for point_id in self.fitting if quality[point_id] > quality[self.active_id]]

    @property
    def step_up(self) -> list[str]:
        """Better ones that fit even with the dead band."""
        return [point_id for point_id in self.better if self.is_outside_dead_band(point_id)]

    def is_outside_dead_band(self, point_id: str) -> bool:
        """Fits well enough to be stepped up to."""
        return self.needed_ms[point_id] * self._doubt <= self.rules.step_up_budget_ms

    @property
    def step_up_limit_ms(self) -> float:
        """The prediction that a point may have to be stepped up to."""
        return self.forecast.largest_met_ms(self.rules.step_up_budget_ms / self._doubt)

    @property
    def _doubt(self) -> float:
        """What the dead band is widened by."""
        return 1.0 if self.forecast.is_plan else math.exp(DOUBT_STDS * self.forecast.slow_down.std)

    @property
    def faster(self) -> list[str]:
        """Those faster than the active one."""
        active_ms = self.predicted_ms[self.active_id]
        return [point_id for point_id, time_ms in self.predicted_ms.items() if time_ms < active_ms]

    @property
    def with_quality(self) -> list[str]:
        """Those that have the minimal quality, if one is asked for."""
        wanted = self.rules.min_quality
        return [point.id for point in self.table if wanted is None or (point.bleu or 0.0) >= wanted]

    def best_of(self, point_ids: Iterable[str]) -> str:
        """The one of best quality."""
        return max(point_ids, key=self.quality.__getitem__)

    def fastest_of(self, point_ids: Iterable[str]) -> str:
        """The one that takes least."""
        return min(point_ids, key=self.predicted_ms.__getitem__)

    # --- time ---------------------------------------------------------------------------------------------------

    @property
    def _now_s(self) -> float:
        return self.forecast.snapshot.monotonic_s

    @property
    def has_been_active_s(self) -> float:
        """How long the active point has been active."""
        return self._now_s - self.state.since_monotonic_s

    @property
    def is_left_when_unsure(self) -> bool:
        """The active point has been given the time to become sure."""
        stays_s = UNSURE_AGAIN_S if self.state.came_down else UNSURE_STEP_S
        return self.has_been_active_s >= (MANY_SWITCHES_STAY_S if self._has_switched_much else stays_s)

    @property
    def stays_s(self) -> float:
        """How long the active point stays before a step up, counted from when it became active."""
        stays_s = max(self.rules.dwell_s, self.state.hold_s)
        if self.state.came_down and not (self.forecast.is_plan or self._has_jumped):
            stays_s = max(stays_s, CAME_DOWN_STAYS_S)
        if self._has_switched_much:
            stays_s = max(stays_s, MANY_SWITCHES_STAY_S)
        return max(stays_s, SMALL_GAIN_STAYS_S) if self._gains_little else stays_s

    @property
    def _has_switched_much(self) -> bool:
        """A disturbance is worth a few switches; more only for what is certain."""
        return self.state.num_switches >= MANY_SWITCHES

    @property
    def _has_jumped(self) -> bool:
        """The slow-down changed at once since the active point became active."""
        jumped_s = self.forecast.slow_down.jumped_monotonic_s
        return jumped_s is not None and jumped_s > self.state.since_monotonic_s

    @property
    def _gains_little(self) -> bool:
        """The best step up that what was learned allows is hardly worth a switch."""
        if self.forecast.is_plan or not self.step_up:
            return False
        gain = self.quality[self.best_of(self.step_up)] - self.quality[self.active_id]
        return gain < SMALL_GAIN_FRACTION * (max(self.quality.values()) - min(self.quality.values()))

    @property
    def dwell_left_s(self) -> float:
        """How long the active point still has to stay before a step up."""
        return max(self.stays_s - self.has_been_active_s, 0.0)

    @property
    def rate_wait_s(self) -> float:
        """How long until a step up is within the switching rate."""
        recent = [at_s for at_s in self.state.step_ups_monotonic_s if self._now_s - at_s < RATE_WINDOW_S]
        excess = len(recent) - self.rules.max_step_ups_per_minute
        return 0.0 if excess < 0 else recent[excess] + RATE_WINDOW_S - self._now_s

    @property
    def wait_s(self) -> float:
        """How long before a step up may be taken."""
        return max(self.dwell_left_s, self.rate_wait_s)

    @property
    def is_settled(self) -> bool:
        """A step up may rest on what is known: a plan, or enough observations that agree to take it in one step."""
        slow_down = self.forecast.slow_down
        if self.forecast.is_plan or slow_down.is_surprised:
            return not slow_down.is_surprised
        is_highest = bool(self.step_up) and self.best_of(self.step_up) == self.best_of(self.better)
        return slow_down.num_observed >= (SETTLED_OBSERVATIONS if is_highest else CERTAIN_OBSERVATIONS)
