"""What every point would take now, and how likely that meets a budget. Chooses nothing, remembers nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist

from dynhat_runtime.governor.cpu_quota import CpuQuota
from dynhat_runtime.governor.latency_model import LatencyModel
from dynhat_runtime.governor.sentence_shape import BatchGrowth, TargetLength
from dynhat_runtime.governor.slow_down import FIRST_NOISE_VARIANCE, SlowDown
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.resource_snapshot import ResourceSnapshot

PRIOR_STD = 0.3
"""Of the slow-down's logarithm while nothing was observed: a first observation counts nine times as much."""
PLAN_STD = 0.15
"""Likewise of what is planned for, when a probability is asked for."""
LEAST_OBSERVED = 2
"""Observations that replace the plan; one alone may be a cold start."""
LEAST_DECODING_MS = 1e-3
STANDARD_NORMAL = NormalDist()


def planned(model: LatencyModel, snapshot: ResourceSnapshot, at_least: float = 1.0) -> SlowDown:
    """What to believe of these caps before anything is observed under them: the neighbours planned for are there.

    Args:
        model: Knows what they cost.
        snapshot: The caps.
        at_least: A slow-down that there is reason to plan for, if that is the worse.
    """
    # A quota takes time from us, not a CPU: with two of them, a neighbour still has one of its own.
    num_cpus = cpus_to_compute_on(snapshot) if snapshot.num_online_cpus is None else snapshot.num_online_cpus
    return SlowDown.planned(max(model.planned_slow_down(num_cpus), at_least), PRIOR_STD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Time computed = the table's x what the clock's cap costs x the slow-down x what the batch's size costs.

    Latency is that time, stretched by the quota, and the time that requests are handled in besides.
    """

    model: LatencyModel
    snapshot: ResourceSnapshot
    slow_down: SlowDown
    confidence: float
    growth: BatchGrowth = field(default_factory=BatchGrowth)
    target_length: TargetLength = field(default_factory=TargetLength)
    handling_ms: float = 0.0
    """What a request takes besides being decoded."""
    _quota: CpuQuota = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_quota", CpuQuota.of(self.snapshot))

    @classmethod
    def of(
        cls,
        model: LatencyModel,
        snapshot: ResourceSnapshot,
        learned: SlowDown | None,
        *,
        confidence: float,
        plan_at_least: float = 1.0,
        handling_ms: float = 0.0,
    ) -> Forecast:
        """By what was learned under the caps of `snapshot`, if that is enough to go by; else by what is planned."""
        if learned is None or learned.num_observed < LEAST_OBSERVED:
            learned = planned(model, snapshot, plan_at_least)
        return cls(
            model=model,
            snapshot=snapshot,
            slow_down=learned,
            confidence=confidence,
            handling_ms=handling_ms,
        )

    @property
    def is_plan(self) -> bool:
        """Too little was observed under these caps: the figures are those beside the neighbours planned for."""
        return self.slow_down.num_observed < LEAST_OBSERVED

    def base_ms(self, point_id: str, num_src_tokens: int, num_tgt_tokens: int) -> float:
        """What one sentence computes for, by the table and the caps alone."""
        model = self.model
        return clock_slow_down(self.snapshot, model.table) * model.predict_ms(
            model.table[point_id],
            num_src_tokens=num_src_tokens,
            num_tgt_tokens=num_tgt_tokens,
            num_cpus=cpus_to_compute_on(self.snapshot),
        )

    def predicted_ms(
        self, point_id: str, num_src_tokens: int, num_tgt_tokens: int, num_sentences: int = 1
    ) -> float:
        """What a request takes, from arrival to answer, whose longest sentence has these lengths."""
        return self.answered_ms(self.computed_ms(point_id, num_src_tokens, num_tgt_tokens, num_sentences))

    def answered_ms(self, computed_ms: float) -> float:
        """What a request takes, from arrival to answer, whose batches compute for so long."""
        return self.elapsed_ms(computed_ms) + self.handling_ms

    def elapsed_ms(self, computed_ms: float) -> float:
        """What a batch takes that computes for so long, under the quota."""
        return self._quota.mean_elapsed_ms(computed_ms)

    def _computed_ms_of(self, predicted_ms: float) -> float:
        """The inverse of `answered_ms`."""
        return self._quota.mean_compute_ms(self._decoding_ms(predicted_ms))

    def _decoding_ms(self, answered_ms: float) -> float:
        """What of a request's time is left for decoding: next to nothing where handling alone takes it all."""
        return max(answered_ms - self.handling_ms, LEAST_DECODING_MS)

    def observed_ms(self, elapsed_ms: float, expected_ms: float) -> float:
        """What work computed for that took so long, when it was expected to compute for `expected_ms`."""
        return self._quota.observed_compute_ms(elapsed_ms, expected_ms)

    def computed_ms(
        self, point_id: str, num_src_tokens: int, num_tgt_tokens: int, num_sentences: int = 1
    ) -> float:
        """What a batch computes for whose longest sentence has these lengths."""
        base_ms = self.base_ms(point_id, num_src_tokens, num_tgt_tokens)
        return base_ms * self.slow_down.factor * self.growth.factor(num_sentences)

    def needed_ms(self, predicted_ms: float, more_variance: float = 0.0) -> float:
        """The budget that a prediction meets with the wanted confidence.

        A plan holds the bad case already, a neighbour: it is taken as it stands. A quota is no such cushion: under one
        a plan needs room for the noise, too, and the worst beginning counts.

        Args:
            predicted_ms: What is expected.
            more_variance: Of its logarithm, beyond that of a single sentence of known lengths.
        """
        computed_ms = self._computed_ms_of(predicted_ms) * self._margin(more_variance)
        return self._quota.longest_elapsed_ms(computed_ms) + self.handling_ms

    def largest_met_ms(self, budget_ms: float) -> float:
        """The largest prediction that meets the budget with the wanted confidence."""
        return self.answered_ms(self._sure_ms(budget_ms) / self._margin(0.0))

    def probability_met(self, predicted_ms: float, budget_ms: float, more_variance: float = 0.0) -> float:
        """Probability that what is predicted takes no longer than the budget; arguments as for `needed_ms`."""
        margin = math.log(self._sure_ms(budget_ms) / self._computed_ms_of(predicted_ms))
        if self._is_cushioned:
            # What is planned for is the bad case: that which is met with the wanted confidence.
            wanted_stds = STANDARD_NORMAL.inv_cdf(self.confidence)
            return STANDARD_NORMAL.cdf(wanted_stds + margin / math.hypot(PLAN_STD, math.sqrt(more_variance)))
        return STANDARD_NORMAL.cdf(margin / math.sqrt(self._variance + more_variance))

    def _margin(self, more_variance: float) -> float:
        """Factor on what is expected, for the wanted confidence."""
        if self._is_cushioned:
            return 1.0
        wanted_stds = STANDARD_NORMAL.inv_cdf(self.confidence)
        return math.exp(wanted_stds * math.sqrt(self._variance + more_variance))

    def _sure_ms(self, budget_ms: float) -> float:
        """What is sure to be computed within the budget."""
        return self._quota.least_compute_ms(self._decoding_ms(budget_ms))

    @property
    def _variance(self) -> float:
        noise_variance = self.slow_down.noise_variance
        if self._quota.is_limit:
            # What the beginning may account for is not seen as noise, so none seen does not show that there is none.
            noise_variance = max(noise_variance, FIRST_NOISE_VARIANCE)
        # What is not known of a planned factor is whether the bad case is there: it is planned for.
        return noise_variance if self.is_plan else self.slow_down.log_variance + noise_variance

    @property
    def _is_cushioned(self) -> bool:
        """The bad case is in the figures already."""
        return self.is_plan and not self._quota.is_limit


def cpus_to_compute_on(snapshot: ResourceSnapshot) -> float | None:
    """CPUs whose measured rows count: a quota below one CPU stretches the time on one."""
    num_cpus = snapshot.effective_cpus
    return None if num_cpus is None else max(num_cpus, 1.0)


def clock_slow_down(snapshot: ResourceSnapshot, table: OperatingPointTable) -> float:
    """Factor on measured latencies for a clock capped below the one they were measured under.

    The GPU's clock for a table measured on a GPU, else the CPUs'. A higher cap promises nothing: the gain was not
    measured.
    """
    measured_hz, capped_hz = clock_caps_hz(snapshot, table)
    if measured_hz is None or not capped_hz:
        return 1.0
    return max(measured_hz / capped_hz, 1.0)


def clock_caps_hz(
    snapshot: ResourceSnapshot, table: OperatingPointTable
) -> tuple[float | None, float | None]:
    """Cap of the clock that counts, when the table was measured and now."""
    if table.device.gpu_max_frequency_hz is not None:
        return table.device.gpu_max_frequency_hz, snapshot.gpu_max_frequency_hz
    return table.device.cpu_max_frequency_hz, snapshot.cpu_max_frequency_hz
