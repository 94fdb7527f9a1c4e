"""What a CPU quota below one CPU makes of the time a translation computes, and back. Decides and learns nothing.

A cgroup's quota of q CPUs is q P of CPU time in every period of P = 100 ms, at full speed until it is used up. How
long work takes that computes for c depends on where in a period it begins:

    at most    c + (1 - q) P floor(c / (q P))
    at least   (1 - q) P less, from c = q P on: its beginning may use up one period's share, and its second the next
    in the mean over all beginnings and remainders   c / q - (1 - q) P, but c while c <= q P

One thread decodes, so a quota of one CPU or more holds nothing up.
"""

from __future__ import annotations

import math

PERIOD_MS = 100.0
"""The kernel's default, kept by every container engine we know. No sensor reads it."""


def mean_elapsed_ms(compute_ms: float, quota_cpus: float | None) -> float:
    """Time from beginning to end of work that computes for `compute_ms`, wherever in a period it begins."""
    if quota_cpus is None or quota_cpus >= 1 or compute_ms <= quota_cpus * PERIOD_MS:
        return compute_ms
    return compute_ms / quota_cpus - (1 - quota_cpus) * PERIOD_MS


def mean_compute_ms(elapsed_ms: float, quota_cpus: float | None) -> float:
    """The inverse: what work computes for that takes `elapsed_ms` in the mean."""
    if quota_cpus is None or quota_cpus >= 1 or elapsed_ms <= quota_cpus * PERIOD_MS:
        return elapsed_ms
    return quota_cpus * (elapsed_ms + (1 - quota_cpus) * PERIOD_MS)


def longest_elapsed_ms(compute_ms: float, quota_cpus: float | None) -> float:
    """What it takes at most."""
    if quota_cpus is None or quota_cpus >= 1:
        return compute_ms
    return compute_ms + (1 - quota_cpus) * PERIOD_MS * math.floor(compute_ms / (quota_cpus * PERIOD_MS))


def least_compute_ms(elapsed_ms: float, quota_cpus: float | None) -> float:
    """The most that is sure to be computed within `elapsed_ms`: what work computed at least that took so long."""
    if quota_cpus is None or quota_cpus >= 1:
        return elapsed_ms
    num_periods = math.floor(elapsed_ms / PERIOD_MS)
    share_ms = quota_cpus * PERIOD_MS
    return num_periods * share_ms + min(elapsed_ms - num_periods * PERIOD_MS, share_ms)


def observed_compute_ms(elapsed_ms: float, expected_ms: float, quota_cpus: float | None) -> float:
    """What work computed that took `elapsed_ms`: of all that the beginning allows, the nearest to the expected."""
    if quota_cpus is None or quota_cpus >= 1:
        return elapsed_ms
    least_ms = least_compute_ms(elapsed_ms, quota_cpus)
    # It may have been held up once less than at most.
    most_ms = min(least_compute_ms(elapsed_ms + (1 - quota_cpus) * PERIOD_MS, quota_cpus), elapsed_ms)
    return min(max(expected_ms, least_ms), most_ms)
