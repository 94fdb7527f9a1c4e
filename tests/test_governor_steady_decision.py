"""Tests of dynhat_runtime.governor.steady_decision: it says what the policy would say, and works only where it must."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from dynhat_runtime.governor import steady_decision
from dynhat_runtime.governor.decision import Decision
from dynhat_runtime.governor.latency_model import LatencyModel
from dynhat_runtime.governor.policy import decide
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.governor.situation import GovernorState
from dynhat_runtime.governor.slow_down import SlowDown
from dynhat_runtime.governor.steady_decision import SteadyDecision
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from tests.closed_loop import HALF_A_CPU, ONE_CPU, TWO_CPUS, ClosedLoop
from tests.hand_made import three_points

RULES = GovernorRules(latency_budget_ms=70.0, temperature_limit_celsius=80.0, memory_floor_mib=100.0)
CALM = ResourceSnapshot(
    monotonic_s=100.0,
    source="test",
    usable_cpus=(0, 1, 2, 3),
    temperature_celsius=50.0,
    cpu_load_fraction=0.1,
)


@pytest.fixture
def num_decided(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When the policy was asked."""
    asked_s: list[float] = []

    def counted(
        snapshot: ResourceSnapshot, state: GovernorState, rules: GovernorRules, model: LatencyModel
    ) -> Decision:
        asked_s.append(snapshot.monotonic_s)
        return decide(snapshot, state, rules, model)

    monkeypatch.setattr(steady_decision, "decide", counted)
    return asked_s


@pytest.mark.parametrize("seed", range(4))
def test_it_says_what_the_policy_says(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through loads, lost CPUs and a quota, every decision of a governor is the policy's own, to the last field."""
    remembered, compared = SteadyDecision.decide, []

    def checked(self: SteadyDecision, snapshot: ResourceSnapshot, state: GovernorState) -> Decision:
        said = remembered(self, snapshot, state)
        assert said == decide(snapshot, state, self._rules, self._model)
        compared.append(said.reason_code)
        return said

    monkeypatch.setattr(SteadyDecision, "decide", checked)
    loop = ClosedLoop(seed, noise=0.15, budget_ms=45.0)
    for factor, snapshot in (
        (1.4, TWO_CPUS),
        (2.5, ONE_CPU),
        (1.2, HALF_A_CPU),
        (4.0, TWO_CPUS),
        (1.0, TWO_CPUS),
    ):
        loop.run(12.0, snapshot, lambda base_ms, factor=factor: factor * base_ms)
    assert len(compared) > 200
    assert len(set(compared)) >= 4


@pytest.mark.parametrize("code", ["unsettled", "dwell", "switching_rate", "headroom"])
def test_what_time_ends_is_decided_anew(code: str, num_decided: list[float]) -> None:
    """A wait runs out though nothing else changes."""
    learned = SlowDown(log_mean=0.0, log_variance=1e-4, noise_variance=0.1**2, num_observed=50)
    states = {
        "unsettled": GovernorState(
            active_id="p1", since_monotonic_s=0.0, slow_down=replace(learned, num_observed=3)
        ),
        "dwell": GovernorState(active_id="p1", since_monotonic_s=99.9),
        "switching_rate": GovernorState(
            active_id="p1",
            since_monotonic_s=0.0,
            step_ups_monotonic_s=(95.0,) * RULES.max_step_ups_per_minute,
        ),
        "headroom": GovernorState(active_id="p6", since_monotonic_s=99.0),
    }
    snapshot = replace(CALM, temperature_celsius=85.0) if code == "headroom" else CALM
    steady = SteadyDecision(RULES, LatencyModel(three_points()))
    for at_s in (100.0, 100.1):
        assert steady.decide(replace(snapshot, monotonic_s=at_s), states[code]).reason_code == code
    assert num_decided == [100.0, 100.1]


def test_at_rest_nothing_is_decided_twice(num_decided: list[float]) -> None:
    """Loads, clocks and a mild warmth come and go without a thought; the time and the readings are the latest."""
    steady, rng = SteadyDecision(RULES, LatencyModel(three_points())), random.Random(1)
    state = GovernorState(active_id="p6", since_monotonic_s=0.0)
    for number in range(20):
        snapshot = replace(
            CALM,
            monotonic_s=100.0 + number,
            cpu_load_fraction=rng.random(),
            temperature_celsius=rng.uniform(40.0, 70.0),
            cpu_current_frequency_hz=rng.uniform(1e8, 2e9),
        )
        decision = steady.decide(snapshot, state)
        assert (decision.snapshot, decision.decided_monotonic_s) == (snapshot, 100.0 + number)
    assert num_decided == [100.0]


@pytest.mark.parametrize(
    "change",
    [
        {"usable_cpus": (0,)},
        {"online_cpus": (0, 1)},
        {"cpu_quota_cpus": 0.5},
        {"cpu_max_frequency_hz": 1e9},
        {"temperature_celsius": 76.0},
        {"temperature_celsius": 90.0},
        {"memory_available_mib": 50.0},
    ],
)
def test_other_caps_and_limits_are_decided_anew(change: dict[str, object], num_decided: list[float]) -> None:
    """What a decision looks at, and a limit that comes near, asks the policy again."""
    steady = SteadyDecision(RULES, LatencyModel(three_points()))
    state = GovernorState(active_id="p6", since_monotonic_s=0.0)
    steady.decide(CALM, state)
    steady.decide(replace(CALM, monotonic_s=101.0, **change), state)
    assert num_decided == [100.0, 101.0]
