"""The real governor against a simulated device, in virtual time: one client, one sentence after another."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from dynhat_runtime.governor.cpu_quota import CpuQuota
from dynhat_runtime.governor.decision import Decision
from dynhat_runtime.governor.governor import Governor
from dynhat_runtime.governor.latency_model import LatencyModel
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.observation import Observation
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.resource_snapshot import ResourceSnapshot

TWO_CPUS = ResourceSnapshot(monotonic_s=0.0, source="simulated", usable_cpus=(0, 1))
ONE_CPU = replace(TWO_CPUS, usable_cpus=(0,))
HALF_A_CPU = replace(TWO_CPUS, cpu_quota_cpus=0.5, cpu_quota_period_ms=10.0)
"""In steps that are short beside the budgets that the table's points meet."""
TICK_S, THINK_S = 0.25, 0.05


@cache
def two_cpus_table() -> OperatingPointTable:
    """Measured on a server with two CPUs; kept, so that what is claimed does not change with every measurement."""
    return OperatingPointTable.load(Path(__file__).parent / "data/two_cpus_table.json")


def elapsed_under_quota_ms(began_ms: float, compute_ms: float, quota: CpuQuota) -> float:
    """What work takes that begins with its period's share untouched, period by period as the kernel does it."""
    now_ms, left_ms = began_ms, quota.share_ms
    period = math.floor(now_ms / quota.period_ms)
    while compute_ms > 1e-9:
        end_ms = (period + 1) * quota.period_ms
        runs_ms = min(compute_ms, left_ms, end_ms - now_ms)
        now_ms, compute_ms, left_ms = now_ms + runs_ms, compute_ms - runs_ms, left_ms - runs_ms
        if compute_ms > 1e-9:
            now_ms, left_ms, period = end_ms, quota.share_ms, period + 1
    return now_ms - began_ms


@dataclass(frozen=True, slots=True)
class Served:
    """One translation of a phase."""

    since_s: float
    """From the phase's beginning to its own."""
    elapsed_ms: float
    point_id: str


@dataclass
class ClosedLoop:
    """Client, device and governor; time goes on from phase to phase."""

    seed: int
    noise: float
    """Standard deviation of a latency's logarithm."""
    table: OperatingPointTable = field(default_factory=two_cpus_table)
    budget_ms: float | None = None
    now_s: float = 100.0
    switched: list[tuple[float, str]] = field(default_factory=list)
    """Time since the phase began, and the new point."""

    def __post_init__(self) -> None:
        self.budget_ms = self.budget_ms or self.table.default_latency_budget_ms
        self.governor = Governor(self.table, GovernorRules(latency_budget_ms=self.budget_ms))
        self._model = LatencyModel(self.table)
        self._rng = random.Random(self.seed)
        self._tick_s = self.now_s
        self._finished: list[Observation] = []

    def run(
        self,
        seconds: float,
        snapshot: ResourceSnapshot,
        true_ms: Callable[[float], float] = lambda base: base,
        told: list[Decision] | None = None,
    ) -> list[Served]:
        """One phase; `true_ms` makes a point's computing time of its time alone, `told` gets all decisions."""
        self._told = [] if told is None else told
        began_s, served = self.now_s, []
        self.switched.clear()
        while self.now_s < began_s + seconds:
            self._tick_until(self.now_s, began_s, snapshot)
            active_id, length = self.governor.active_id, self._rng.choice(range(27, 33))
            elapsed_ms = self._translate_ms(active_id, length, snapshot, true_ms)
            served.append(Served(self.now_s - began_s, elapsed_ms, active_id))
            end_s = self.now_s + elapsed_ms / 1e3
            self._tick_until(end_s, began_s, snapshot)
            self._finished.append(
                Observation(
                    monotonic_s=end_s,
                    point_id=active_id,
                    num_sentences=1,
                    num_src_tokens=length,
                    num_tgt_tokens=length,
                    beam_size=self.table.device.beam_size,
                    elapsed_ms=elapsed_ms,
                )
            )
            assert self.budget_ms is not None
            if elapsed_ms > self.budget_ms:
                self._decide(end_s, began_s, snapshot)
            self.now_s = end_s + THINK_S
        return served

    def over_budget_fraction(self, served: list[Served], from_s: float = 2.0) -> float:
        """Of the translations that began `from_s` after the phase or later."""
        assert self.budget_ms is not None
        later = [each.elapsed_ms > self.budget_ms for each in served if each.since_s >= from_s]
        return sum(later) / len(later)

    def _translate_ms(
        self, point_id: str, length: int, snapshot: ResourceSnapshot, true_ms: Callable[[float], float]
    ) -> float:
        alone_ms = self._model.predict_ms(
            self.table[point_id],
            num_src_tokens=length,
            num_tgt_tokens=length,
            num_cpus=snapshot.num_online_cpus,
        )
        compute_ms = true_ms(alone_ms) * math.exp(self._rng.gauss(0, self.noise))
        return elapsed_under_quota_ms(1e3 * self.now_s, compute_ms, CpuQuota.of(snapshot))

    def _tick_until(self, until_s: float, began_s: float, snapshot: ResourceSnapshot) -> None:
        while self._tick_s <= until_s:
            self._decide(self._tick_s, began_s, snapshot)
            self._tick_s += TICK_S

    def _decide(self, at_s: float, began_s: float, snapshot: ResourceSnapshot) -> None:
        for observation in self._finished:
            self.governor.observe(observation)
        self._finished.clear()
        decision = self.governor.decide(replace(snapshot, monotonic_s=at_s))
        self._told.append(decision)
        if decision.changed:
            self.governor.became_active(decision.point_id, at_s)
            self.switched.append((at_s - began_s, decision.point_id))
