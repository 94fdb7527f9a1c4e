"""Tests of dynhat_runtime.governor.cpu_quota, and of the governor under a quota."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest

from dynhat_runtime.governor.cpu_quota import CpuQuota
from dynhat_runtime.governor.governor import Governor
from dynhat_runtime.governor.rules import GovernorRules
from tests.closed_loop import (
    HALF_A_CPU,
    ONE_CPU,
    TWO_CPUS,
    ClosedLoop,
    elapsed_under_quota_ms,
    two_cpus_table,
)

QUOTAS = [CpuQuota(cpus, period_ms) for period_ms in (100.0, 10.0) for cpus in (0.2, 0.5, 0.8)]
WORK_SHARES = (0.06, 0.3, 0.9, 1.4, 2.2, 3.7, 8.5)
"""Works, each in shares of a period."""


def _beginnings_ms(quota: CpuQuota) -> list[float]:
    """All over two periods."""
    return [number / 100 * quota.period_ms for number in range(200)]


@pytest.mark.parametrize("quota", QUOTAS)
@pytest.mark.parametrize("work_shares", WORK_SHARES)
def test_the_longest_time_is_met_wherever_the_work_begins(quota: CpuQuota, work_shares: float) -> None:
    """No beginning takes longer than the bound, one takes as long, and none more than one gap less."""
    work_ms = work_shares * quota.share_ms
    times_ms = [elapsed_under_quota_ms(began_ms, work_ms, quota) for began_ms in _beginnings_ms(quota)]
    longest_ms = quota.longest_elapsed_ms(work_ms)
    assert max(times_ms) == pytest.approx(longest_ms)
    assert min(times_ms) >= longest_ms - quota.gap_ms - 1e-6


@pytest.mark.parametrize("quota", QUOTAS)
def test_the_mean_over_beginnings_and_remainders(quota: CpuQuota) -> None:
    """Over works from one multiple of a period's share to the next, begun anywhere, the mean is the formula's."""
    works_ms = [quota.share_ms * (3 + (step + 0.5) / 50) for step in range(50)]
    times_ms = [
        elapsed_under_quota_ms(began, work, quota) for work in works_ms for began in _beginnings_ms(quota)
    ]
    assert fmean(times_ms) == pytest.approx(fmean(map(quota.mean_elapsed_ms, works_ms)), rel=0.01)


@pytest.mark.parametrize("quota", QUOTAS)
@pytest.mark.parametrize("work_shares", WORK_SHARES)
def test_what_was_computed_is_found_again(quota: CpuQuota, work_shares: float) -> None:
    """From the mean back exactly; from any one time, what was expected if it is the truth, and never less than sure."""
    work_ms = work_shares * quota.share_ms
    assert quota.mean_compute_ms(quota.mean_elapsed_ms(work_ms)) == pytest.approx(work_ms)
    for began_ms in _beginnings_ms(quota)[::20]:
        elapsed_ms = elapsed_under_quota_ms(began_ms, work_ms, quota)
        assert quota.observed_compute_ms(elapsed_ms, work_ms) == pytest.approx(work_ms)
        assert quota.least_compute_ms(elapsed_ms) <= work_ms + 1e-6


@pytest.mark.parametrize("cpus", [None, 1.0, 1.5])
def test_without_a_quota_below_one_cpu_time_is_time(cpus: float | None) -> None:
    """One thread cannot use more than one CPU: nothing is stretched, in either direction."""
    quota = CpuQuota.of(replace(TWO_CPUS, cpu_quota_cpus=cpus))
    assert quota.mean_elapsed_ms(250.0) == quota.longest_elapsed_ms(250.0) == 250.0
    assert quota.least_compute_ms(250.0) == quota.observed_compute_ms(250.0, 80.0) == 250.0


def test_a_quota_without_a_period_has_the_usual_one() -> None:
    """A trace of an older version tells no period: the kernel's default is meant."""
    assert CpuQuota.of(replace(TWO_CPUS, cpu_quota_cpus=0.5)) == CpuQuota(0.5, 100.0)


def test_a_quota_is_no_neighbour() -> None:
    """On two CPUs half a CPU's quota is planned with the neighbour's cost on two CPUs, on one with that on one."""
    factors = [
        Governor(two_cpus_table(), GovernorRules(latency_budget_ms=100.0)).decide(snapshot).slow_down_factor
        for snapshot in (HALF_A_CPU, TWO_CPUS, ONE_CPU)
    ]
    assert factors[0] == factors[1] < factors[2]


@pytest.mark.parametrize("noise", [0.05, 0.1])
@pytest.mark.parametrize("seed", range(8))
def test_half_a_quota_takes_at_most_two_switches(seed: int, noise: float) -> None:
    """After all CPUs, half a CPU's quota leads to points that keep the budget, fair in quality, in two switches."""
    loop = ClosedLoop(seed, noise)
    loop.run(15.0, TWO_CPUS)
    served = loop.run(20.0, HALF_A_CPU)
    assert len(loop.switched) <= 2
    assert loop.over_budget_fraction(served) <= 0.05
    assert fmean(loop.table[one.point_id].bleu or 0.0 for one in served) >= 28.0


@pytest.mark.parametrize("seed", range(5))
def test_a_slow_host_is_known_under_caps_never_seen(seed: int) -> None:
    """What one CPU without the planned neighbour cannot show, all CPUs did: a quota does not begin with misses."""
    budget_ms = 1.9 * (two_cpus_table().default_latency_budget_ms or 0.0)
    loop = ClosedLoop(seed, 0.1, budget_ms=budget_ms)
    for snapshot in (TWO_CPUS, ONE_CPU):
        loop.run(15.0, snapshot, lambda alone_ms: 1.9 * alone_ms)
    served = loop.run(2.0, HALF_A_CPU, lambda alone_ms: 1.9 * alone_ms)
    assert sum(one.elapsed_ms > budget_ms for one in served) <= 1
