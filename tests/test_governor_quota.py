"""Tests of dynhat_runtime.governor.cpu_quota, and of the governor under a quota."""

from __future__ import annotations

from statistics import fmean

import pytest

from dynhat_runtime.governor.cpu_quota import (
    least_compute_ms,
    longest_elapsed_ms,
    mean_compute_ms,
    mean_elapsed_ms,
    observed_compute_ms,
)
from dynhat_runtime.governor.governor import Governor
from dynhat_runtime.governor.rules import GovernorRules
from tests.closed_loop import HALF_A_CPU, ONE_CPU, TWO_CPUS, ClosedLoop, elapsed_under_quota_ms, shipped_table

BEGINNINGS_MS = [number * 0.5 for number in range(200)]
QUOTAS = (0.2, 0.5, 0.8)
WORK_MS = (3.0, 15.0, 45.0, 70.0, 110.0, 185.0, 425.0)


@pytest.mark.parametrize("quota", QUOTAS)
@pytest.mark.parametrize("work_ms", WORK_MS)
def test_the_longest_time_is_met_wherever_the_work_begins(quota: float, work_ms: float) -> None:
    """No beginning takes longer than the bound, one takes as long, and none more than one gap less."""
    times_ms = [elapsed_under_quota_ms(began_ms, work_ms, quota) for began_ms in BEGINNINGS_MS]
    longest_ms = longest_elapsed_ms(work_ms, quota)
    assert max(times_ms) == pytest.approx(longest_ms)
    assert min(times_ms) >= longest_ms - (1 - quota) * 100.0 - 1e-6


@pytest.mark.parametrize("quota", QUOTAS)
def test_the_mean_over_beginnings_and_remainders(quota: float) -> None:
    """Over works from one multiple of a period's share to the next, begun anywhere, the mean is the formula's."""
    share_ms = quota * 100
    works_ms = [share_ms * (3 + (step + 0.5) / 50) for step in range(50)]
    times_ms = [elapsed_under_quota_ms(began, work, quota) for work in works_ms for began in BEGINNINGS_MS]
    assert fmean(times_ms) == pytest.approx(
        fmean(mean_elapsed_ms(work, quota) for work in works_ms), rel=0.01
    )


@pytest.mark.parametrize("quota", QUOTAS)
@pytest.mark.parametrize("work_ms", WORK_MS)
def test_what_was_computed_is_found_again(quota: float, work_ms: float) -> None:
    """From the mean back exactly; from any one time, what was expected if it is the truth, and never less than sure."""
    assert mean_compute_ms(mean_elapsed_ms(work_ms, quota), quota) == pytest.approx(work_ms)
    for began_ms in BEGINNINGS_MS[::20]:
        elapsed_ms = elapsed_under_quota_ms(began_ms, work_ms, quota)
        assert observed_compute_ms(elapsed_ms, work_ms, quota) == pytest.approx(work_ms)
        assert least_compute_ms(elapsed_ms, quota) <= work_ms + 1e-6


@pytest.mark.parametrize("quota", [None, 1.0, 1.5])
def test_without_a_quota_below_one_cpu_time_is_time(quota: float | None) -> None:
    """One thread cannot use more than one CPU: nothing is stretched, in either direction."""
    assert mean_elapsed_ms(250.0, quota) == longest_elapsed_ms(250.0, quota) == 250.0
    assert least_compute_ms(250.0, quota) == observed_compute_ms(250.0, 80.0, quota) == 250.0


def test_a_quota_is_no_neighbour() -> None:
    """On two CPUs half a CPU's quota is planned with the neighbour's cost on two CPUs, on one with that on one."""
    factors = [
        Governor(shipped_table(), GovernorRules(latency_budget_ms=100.0)).decide(snapshot).slow_down_factor
        for snapshot in (HALF_A_CPU, TWO_CPUS, ONE_CPU)
    ]
    assert factors[0] == factors[1] < factors[2]


@pytest.mark.parametrize("noise", [0.05, 0.1])
@pytest.mark.parametrize("seed", range(8))
def test_half_a_quota_takes_at_most_two_switches(seed: int, noise: float) -> None:
    """After all CPUs, half a CPU's quota leads to a point that meets the budget, in two switches at most."""
    loop = ClosedLoop(seed, noise)
    loop.run(15.0, TWO_CPUS)
    served = loop.run(20.0, HALF_A_CPU)
    assert len(loop.switched) <= 2
    assert loop.over_budget_fraction(served) <= 0.05
    assert loop.governor.active_id not in {"l1-narrow-int8", "l2-a-int8"}
