"""What every point would take now, and how likely that meets a budget. Chooses nothing, remembers nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist

from dynhat_runtime.governor.latency_model import LatencyModel
from dynhat_runtime.governor.sentence_shape import BatchGrowth, TargetLength
from dynhat_runtime.governor.slow_down import SlowDown
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.resource_snapshot import ResourceSnapshot

PRIOR_STD = 0.3
"""Of the slow-down's logarithm while nothing was observed: a first observation counts nine times as much."""
PLAN_STD = 0.15
"""Likewise of what is planned for, when a probability is asked for."""
LEAST_OBSERVED = 2
"""Observations that replace the plan; one alone may be a cold start."""
STANDARD_NORMAL = NormalDist()


def planned(model: LatencyModel, snapshot: ResourceSnapshot) -> SlowDown:
    """What to believe of these caps before anything is observed under them: the neighbours planned for are there."""
    return SlowDown.planned(model.planned_slow_down(snapshot.effective_cpus), PRIOR_STD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Latency = the table's x what the clock's cap costs x the slow-down x what the batch's size costs."""

    model: LatencyModel
    snapshot: ResourceSnapshot
    slow_down: SlowDown
    confidence: float
    growth: BatchGrowth = field(default_factory=BatchGrowth)
    target_length: TargetLength = field(default_factory=TargetLength)

    @classmethod
    def of(
        cls, model: LatencyModel, snapshot: ResourceSnapshot, learned: SlowDown | None, *, confidence: float
    ) -> Forecast:
        """By what was learned under the caps of `snapshot`, if that is enough to go by; else by what is planned."""
        if learned is None or learned.num_observed < LEAST_OBSERVED:
            learned = planned(model, snapshot)
        return cls(model=model, snapshot=snapshot, slow_down=learned, confidence=confidence)

    @property
    def is_plan(self) -> bool:
        """Too little was observed under these caps: the figures are those beside the neighbours planned for."""
        return self.slow_down.num_observed < LEAST_OBSERVED

    def base_ms(self, point_id: str, num_src_tokens: int, num_tgt_tokens: int) -> float:
        """One sentence, by the table and the caps alone."""
        model = self.model
        return clock_slow_down(self.snapshot, model.table) * model.predict_ms(
            model.table[point_id],
            num_src_tokens=num_src_tokens,
            num_tgt_tokens=num_tgt_tokens,
            num_cpus=self.snapshot.effective_cpus,
        )

    def predicted_ms(
        self, point_id: str, num_src_tokens: int, num_tgt_tokens: int, num_sentences: int = 1
    ) -> float:
        """A batch whose longest sentence has these lengths."""
        base_ms = self.base_ms(point_id, num_src_tokens, num_tgt_tokens)
        return base_ms * self.slow_down.factor * self.growth.factor(num_sentences)

    def needed_ms(self, predicted_ms: float, more_variance: float = 0.0) -> float:
        """The budget that a prediction meets with the wanted confidence.

        A plan holds the bad case already: it is taken as it stands.

        Args:
            predicted_ms: What is expected.
            more_variance: Of its logarithm, beyond that of a single sentence of known lengths.
        """
        if self.is_plan:
            return predicted_ms
        wanted_stds = STANDARD_NORMAL.inv_cdf(self.confidence)
        return predicted_ms * math.exp(wanted_stds * math.sqrt(self._variance + more_variance))

    def probability_met(self, predicted_ms: float, budget_ms: float, more_variance: float = 0.0) -> float:
        """Probability that what is predicted takes no longer than the budget; arguments as for `needed_ms`."""
        margin = math.log(budget_ms / predicted_ms)
        if self.is_plan:
            # What is planned for is the bad case: that which is met with the wanted confidence.
            wanted_stds = STANDARD_NORMAL.inv_cdf(self.confidence)
            return STANDARD_NORMAL.cdf(wanted_stds + margin / math.hypot(PLAN_STD, math.sqrt(more_variance)))
        return STANDARD_NORMAL.cdf(margin / math.sqrt(self._variance + more_variance))

    @property
    def _variance(self) -> float:
        return self.slow_down.log_variance + self.slow_down.noise_variance


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
