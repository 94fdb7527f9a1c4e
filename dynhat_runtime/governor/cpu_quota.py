"""What a CPU quota below one CPU makes of the time a translation computes, and back. Decides and learns nothing.

A cgroup's quota of q CPUs is q P of CPU time in every period P (100 ms unless set otherwise), at full speed until it is
used up. How long work takes that computes for c depends on where in a period it begins, that period's share unused:

    at most    c + (1 - q) P floor(c / (q P))
    at least   (1 - q) P less, from c = q P on: its beginning may use up one period's share, and its second the next
    in the mean over all beginnings and remainders   c / q - (1 - q) P, but c while c <= q P

Where work follows work without a pause, what went before may have used up the share: one gap (1 - q) P more at most.
That is not planned for: it would call half a CPU with the usual period too little for every budget below 50 ms, though
sentences that come one at a time meet it.

One thread decodes, so a quota of one CPU or more holds nothing up, which the same formulas say with q = 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dynhat_runtime.resource_snapshot import ResourceSnapshot

USUAL_PERIOD_MS = 100.0
"""The kernel's default, and every container engine's we know."""


@dataclass(frozen=True, slots=True)
class CpuQuota:
    """CPU time for one thread.

    Attributes:
        cpus: Granted, in CPUs, 0 < cpus <= 1; 1 is no limit.
        period_ms: Within which it is granted anew.
    """

    cpus: float
    period_ms: float

    @classmethod
    def of(cls, snapshot: ResourceSnapshot) -> CpuQuota:
        """What the snapshot grants one thread."""
        cpus, period_ms = snapshot.cpu_quota_cpus, snapshot.cpu_quota_period_ms
        return cls(1.0 if cpus is None else min(cpus, 1.0), period_ms or USUAL_PERIOD_MS)

    @property
    def is_limit(self) -> bool:
        """It holds one thread up."""
        return self.cpus < 1

    @property
    def share_ms(self) -> float:
        """CPU time in a period."""
        return self.cpus * self.period_ms

    @property
    def gap_ms(self) -> float:
        """Time without CPU in a period whose share was used up at once."""
        return self.period_ms - self.share_ms

    def mean_elapsed_ms(self, compute_ms: float) -> float:
        """Time from beginning to end of work that computes for `compute_ms`, wherever in a period it begins."""
        return compute_ms if compute_ms <= self.share_ms else compute_ms / self.cpus - self.gap_ms

    def mean_compute_ms(self, elapsed_ms: float) -> float:
        """The inverse: what work computes for that takes `elapsed_ms` in the mean."""
        return elapsed_ms if elapsed_ms <= self.share_ms else self.cpus * (elapsed_ms + self.gap_ms)

    def longest_elapsed_ms(self, compute_ms: float) -> float:
        """What it takes at most."""
        return compute_ms + self.gap_ms * math.floor(compute_ms / self.share_ms)

    def least_compute_ms(self, elapsed_ms: float) -> float:
        """The most that is sure to be computed within `elapsed_ms`: what work computed at least that took so long."""
        num_periods = math.floor(elapsed_ms / self.period_ms)
        return num_periods * self.share_ms + min(elapsed_ms - num_periods * self.period_ms, self.share_ms)

    def observed_compute_ms(self, elapsed_ms: float, expected_ms: float) -> float:
        """What work computed that took `elapsed_ms`: of all that the beginning allows, the nearest to the expected."""
        # It may have been held up once less than at most.
        most_ms = min(self.least_compute_ms(elapsed_ms + self.gap_ms), elapsed_ms)
        return min(max(expected_ms, self.least_compute_ms(elapsed_ms)), most_ms)
