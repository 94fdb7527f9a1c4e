"""The governor's memory: what was observed, and where it stands. The same calls give the same answers.

Deterministic: no clock, no chance; time arrives in snapshots and observations. Acts on nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dynhat_runtime.governor.caps_memory import Caps, CapsMemory
from dynhat_runtime.governor.decision import Decision
from dynhat_runtime.governor.forecast import LEAST_OBSERVED, Forecast, planned
from dynhat_runtime.governor.latency_model import LatencyModel
from dynhat_runtime.governor.request_choice import RequestChoice, RequestWish, choose_for_request
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.governor.sentence_shape import BatchGrowth, TargetLength
from dynhat_runtime.governor.situation import RATE_WINDOW_S, GovernorState
from dynhat_runtime.governor.steady_decision import SteadyDecision
from dynhat_runtime.observation import Handling, Observation
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.resource_snapshot import ResourceSnapshot

CALIBRATING_OBSERVATIONS = 3
"""Under caps just seen; a canary is wanted until there are as many."""
CANARIES_FOR_THE_PLAN = 2
STALE_S = 5.0
"""Without an observation for so long, a belief that keeps the point low is worth a canary."""
TAKEN_BACK_S = 30.0
FIRST_HOLD_S, LONGEST_HOLD_S = 5.0, 60.0
"""After a step up that had to be taken back so soon, the next one waits; twice as long each time."""
REMEMBERED_HOLD_S = 10.0
"""After a step down that returned caps brought with what is remembered of them: the first translations there are
few to know better by."""
CLIMB_S = 15.0
"""From one step up to the next under the same caps."""
ONE_DISTURBANCE_S = 8.0
"""Jumps of the slow-down, and jumps behind other caps, that follow so closely are one disturbance."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationResult:
    """What was expected of a batch, beside what it took."""

    observation: Observation
    predicted_ms: float
    """At the lengths it turned out to have, by what was believed before it."""
    is_learned: bool
    """It changed the belief; False for one that began under other caps, or with another beam."""

    @property
    def actual_ms(self) -> float:
        """What it took."""
        return self.observation.elapsed_ms

    @property
    def error_fraction(self) -> float:
        """Of the prediction, relative to what it took."""
        return self.predicted_ms / self.actual_ms - 1


class Governor:
    """Decides, and learns from what was observed."""

    def __init__(
        self, table: OperatingPointTable, rules: GovernorRules, active_id: str | None = None
    ) -> None:
        """Begin with nothing observed.

        Args:
            table: The points there are.
            rules: Budget, policy and limits.
            active_id: The point active now; None is the best one.

        Raises:
            SettingsError: The rules ask what the table cannot answer.
            UnknownOperatingPointError: The table has no such point.
        """
        rules.check_against(table)
        self._table = table
        self._rules = rules
        self._model = LatencyModel(table, rules.num_busy_neighbours)
        self._decision, self._decision_by_plan = (
            SteadyDecision(rules, self._model),
            SteadyDecision(rules, self._model),
        )
        self._beam_size = rules.beam_size or table.device.beam_size
        # Time is the snapshots' own. The first point sits out no dwell.
        first_id = table.best.id if active_id is None else active_id
        self._state = GovernorState(active_id=first_id, since_monotonic_s=-math.inf)
        self._memory = CapsMemory()
        self._growth = BatchGrowth()
        self._target_length = TargetLength()
        self._snapshot: ResourceSnapshot | None = None
        self._caps: Caps | None = None
        self._caps_since_s = -math.inf
        self._planned_factor = 1.0
        self._num_seen_under_caps = 0
        self._num_quick_canaries = 0
        self._taken_back_hold_s = 0.0
        self._disturbed_s = -math.inf

    @property
    def active_id(self) -> str:
        """The point that the engine runs, as far as it was told."""
        return self._state.active_id

    @property
    def pinned_id(self) -> str | None:
        """The point a person asked for; None leaves the choice to the rules."""
        return self._state.pinned_id

    # --- learning -------------------------------------------------------------------------------------------

    # Rules, first match decides:
    #   1  No snapshot yet, or of an unknown point or another beam   -> nothing expected, nothing learned.
    #   2  It began before the present caps were seen                -> expected, not learned from.
    #   3  A canary no slower than planned                           -> two in a row put the plan back in the place of
    #      a slower belief: neighbours planned for may be as idle as we are, so it does not show more than that.
    #   4  Otherwise                                                 -> slow-down, growth and target length learn.
    def observe(self, observation: Observation) -> ObservationResult | None:
        """Learn from one finished batch; None when nothing could be expected of it."""
        is_known = any(point.id == observation.point_id for point in self._table)
        if self._snapshot is None or not is_known or observation.beam_size != self._beam_size:
            return None
        forecast = self._forecast(self._snapshot)
        computed_ms = forecast.computed_ms(
            observation.point_id,
            observation.num_src_tokens,
            observation.num_tgt_tokens,
            observation.num_sentences,
        )
        began_s = observation.monotonic_s - observation.elapsed_ms / 1e3
        is_learned = began_s >= self._caps_since_s
        if is_learned:
            actually_ms = forecast.observed_ms(observation.elapsed_ms, computed_ms)
            self._learn(observation, forecast, actually_ms / computed_ms)
        return ObservationResult(
            observation=observation,
            predicted_ms=forecast.elapsed_ms(computed_ms),
            is_learned=is_learned,
        )

    def _learn(self, observation: Observation, forecast: Forecast, surprise_ratio: float) -> None:
        self._num_seen_under_caps += 1
        plan, num_sentences = planned(self._model, forecast.snapshot), observation.num_sentences
        belief = self._state.slow_down or planned(self._model, forecast.snapshot, self._state.plan_at_least)
        ratio = surprise_ratio * forecast.slow_down.factor
        if observation.is_canary and ratio <= plan.factor:
            self._num_quick_canaries += 1
            if self._num_quick_canaries >= CANARIES_FOR_THE_PLAN and belief.factor > plan.factor:
                self._state = replace(self._state, slow_down=None, plan_at_least=1.0)
            return
        self._num_quick_canaries = 0
        growth = self._growth
        learned = belief.updated(ratio, observation.monotonic_s, growth.variance(num_sentences))
        if learned.jumped_monotonic_s != belief.jumped_monotonic_s:
            self._note_disturbance(observation.monotonic_s)
        self._state = replace(self._state, slow_down=learned)
        self._growth = growth.updated(
            num_sentences, math.log(ratio / belief.factor), belief.log_variance + belief.noise_variance
        )
        self._target_length = self._target_length.updated(
            observation.num_src_tokens, observation.num_tgt_tokens
        )

    def _note_disturbance(self, monotonic_s: float) -> None:
        """What counts the switches of a disturbance begins anew, unless this one is the last one still."""
        if monotonic_s - self._disturbed_s > ONE_DISTURBANCE_S:
            self._state = replace(self._state, num_switches=0)
        self._disturbed_s = monotonic_s

    def note_handling(self, handling: Handling) -> None:
        """Learn from one answered request what it took besides being decoded."""
        self._state = replace(self._state, handling=self._state.handling.updated(handling.elapsed_ms))

    # --- deciding -------------------------------------------------------------------------------------------

    def decide(self, snapshot: ResourceSnapshot) -> Decision:
        """Choose the point for the resources in `snapshot`."""
        self._see(snapshot)
        decision = self._decision.decide(snapshot, self._state)
        return replace(decision, wants_canary=self._wants_canary(decision))

    def _see(self, snapshot: ResourceSnapshot) -> None:
        """Under other caps, what was learned under the former ones is put away.

        But less is not believed faster, and a device that was slower than planned under all caps seen is taken to be
        so under new ones.
        """
        self._snapshot = snapshot
        caps = Caps.of(snapshot)
        if caps == self._caps:
            return
        now_s = snapshot.monotonic_s
        learned, plan_at_least = self._memory.returned_to(caps, now_s), 1.0
        if self._caps is not None:
            former = self._state.slow_down
            if former is not None:
                former = self._memory.leave(self._caps, former, self._planned_factor, now_s)
            if caps.are_below(self._caps):
                is_known = former is not None and former.num_observed >= LEAST_OBSERVED
                plan_at_least = former.factor if former and is_known else self._state.plan_at_least
                if learned is not None and former and former.is_slower_than(learned):
                    learned = None
        self._planned_factor = planned(self._model, snapshot).factor
        plan_at_least = max(
            plan_at_least, self._memory.common_slow_down(self._planned_factor, LEAST_OBSERVED)
        )
        self._caps, self._caps_since_s = caps, now_s
        self._num_seen_under_caps = self._num_quick_canaries = 0
        self._taken_back_hold_s = 0.0
        self._disturbed_s = now_s
        self._state = replace(
            self._state,
            slow_down=learned,
            plan_at_least=plan_at_least,
            hold_s=0.0,
            came_down=False,
            num_switches=0,
        )

    # Rules: a canary is wanted under policy `predictive` with no point pinned, when
    #   1  fewer than three translations were seen since these caps were, or
    #   2  what was learned keeps a better point away that fits by the plan, and nothing was observed for 5 s.
    def _wants_canary(self, decision: Decision) -> bool:
        if decision.policy != "predictive" or decision.mode == "pinned":
            return False
        if self._num_seen_under_caps < CALIBRATING_OBSERVATIONS:
            return True
        belief = self._state.slow_down
        if belief is None or belief.monotonic_s is None:
            return False
        if decision.decided_monotonic_s - belief.monotonic_s < STALE_S:
            return False
        nothing_learned = replace(self._state, slow_down=None, plan_at_least=1.0)
        by_plan = self._decision_by_plan.decide(decision.snapshot, nothing_learned)
        quality = self._table.quality_by_id()
        return quality[by_plan.point_id] > quality[decision.point_id]

    def choose(self, wish: RequestWish) -> RequestChoice:
        """Choose a point for one request alone.

        Raises:
            UnknownOperatingPointError: The table has no such point.
            RequestError: A quality is asked for that the table does not state.
        """
        snapshot = self._snapshot or ResourceSnapshot(monotonic_s=0.0, source="none")
        return choose_for_request(
            wish, self._forecast(snapshot), self._state.active_id, self._rules.latency_budget_ms
        )

    def _forecast(self, snapshot: ResourceSnapshot) -> Forecast:
        learned, confidence = self._state.slow_down, self._rules.confidence
        forecast = Forecast.of(
            self._model,
            snapshot,
            learned,
            confidence=confidence,
            plan_at_least=self._state.plan_at_least,
            handling_ms=self._state.handling.mean_ms,
        )
        return replace(forecast, growth=self._growth, target_length=self._target_length)

    # --- what others did ------------------------------------------------------------------------------------

    def pin(self, point_id: str) -> None:
        """Decide for `point_id`, whatever the resources, until `set_auto`.

        Raises:
            UnknownOperatingPointError: The table has no such point; nothing changed.
        """
        self._state = replace(self._state, pinned_id=self._table[point_id].id)

    def set_auto(self) -> None:
        """Let the rules choose again."""
        self._state = replace(self._state, pinned_id=None)

    def became_active(self, point_id: str, monotonic_s: float) -> None:
        """Take note that the engine runs `point_id`, whoever switched it."""
        state, quality = self._state, self._table.quality_by_id()
        if point_id == state.active_id:
            return
        step_ups, hold_s, came_down = state.step_ups_monotonic_s, 0.0, False
        if state.pinned_id is not None:
            pass  # what a person chose is no step of ours
        elif quality.get(point_id, 0.0) > quality.get(state.active_id, 0.0):
            recent = tuple(at_s for at_s in step_ups if monotonic_s - at_s < RATE_WINDOW_S)
            step_ups, hold_s = (*recent, monotonic_s), CLIMB_S
        elif monotonic_s <= self._caps_since_s:
            hold_s = 0.0 if state.slow_down is None else REMEMBERED_HOLD_S
        else:
            came_down = True
            if step_ups and step_ups[-1] >= self._caps_since_s:
                is_taken_back = monotonic_s - step_ups[-1] < TAKEN_BACK_S
                longer_s = min(max(2 * self._taken_back_hold_s, FIRST_HOLD_S), LONGEST_HOLD_S)
                self._taken_back_hold_s = hold_s = longer_s if is_taken_back else 0.0
        self._state = replace(
            state,
            active_id=point_id,
            since_monotonic_s=monotonic_s,
            step_ups_monotonic_s=step_ups,
            hold_s=hold_s,
            came_down=came_down,
            num_switches=state.num_switches + 1,
        )
