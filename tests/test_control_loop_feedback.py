"""Tests of what dynhat_runtime.control_loop does with observations, wishes, canaries and recorders."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from dynhat_runtime.control_loop import CANARY_INTERVAL_S, QUIET_S, ControlLoop
from dynhat_runtime.errors import EngineError, UnknownOperatingPointError
from dynhat_runtime.governor.decision import Decision
from dynhat_runtime.governor.recorder import Recorder
from dynhat_runtime.governor.request_choice import RequestWish
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.observation import Observation
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from tests.control_fakes import (
    FOUR_CPUS,
    ONE_CPU,
    HangingMonitor,
    RecordingEngine,
    ScriptedMonitor,
    wait_until,
)
from tests.hand_made import three_points


class EngineWithCanary(RecordingEngine):
    """Counts the canaries it is asked for; the test reports what they took."""

    def __init__(self, active_point_id: str) -> None:
        super().__init__(active_point_id)
        self.queue_depth = 0
        self.num_canaries = 0
        self.canary_failure: Exception | None = None

    def run_canary(self) -> None:
        """Take note, or fail as told."""
        self.num_canaries += 1
        if self.canary_failure is not None:
            raise self.canary_failure


class ListRecorder:
    """Keeps all it is told, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def snapshot(self, snapshot: ResourceSnapshot) -> None:
        """Keep it."""
        self.told.append(("snapshot", snapshot))

    def observation(self, observation: Observation) -> None:
        """Keep it."""
        self.told.append(("observation", observation))

    def decision(self, decision: Decision) -> None:
        """Keep it."""
        self.told.append(("decision", decision))


@pytest.fixture
def monitor() -> ScriptedMonitor:
    """A monitor that sees four CPUs."""
    return ScriptedMonitor(FOUR_CPUS)


@pytest.fixture
def engine() -> EngineWithCanary:
    """An engine on the best point, p6."""
    return EngineWithCanary("p6")


def make_loop(
    monitor: ScriptedMonitor,
    engine: RecordingEngine,
    *,
    interval_s: float = 0.01,
    recorder: Recorder | None = None,
    budget_ms: float = 70.0,
) -> ControlLoop:
    """A loop over the three hand-made points."""
    rules = GovernorRules(latency_budget_ms=budget_ms)
    return ControlLoop(monitor, engine, three_points(), rules, interval_s=interval_s, recorder=recorder)


def observation(point_id: str, elapsed_ms: float, *, is_canary: bool = False) -> Observation:
    """One sentence of 30 to 30 tokens, done in a while to come."""
    return Observation(
        monotonic_s=1000.0,
        point_id=point_id,
        num_sentences=1,
        num_src_tokens=30,
        num_tgt_tokens=30,
        beam_size=1,
        elapsed_ms=elapsed_ms,
        is_canary=is_canary,
    )


def test_observations_reach_the_governor_with_the_next_pass(
    monitor: ScriptedMonitor, engine: EngineWithCanary
) -> None:
    """Slow translations switch down in the pass after them, and the status says how slow the device is."""
    loop = make_loop(monitor, engine)
    loop.tick()
    for _ in range(3):
        loop.observe(observation("p6", 90.0))
    assert engine.active_point_id == "p6"
    loop.tick()
    assert engine.active_point_id == "p1"
    status = loop.status()
    assert (status.policy, status.slow_down_factor) == ("predictive", pytest.approx(3.0, rel=0.05))
    assert status.slow_down_std is not None


def test_predictions_are_judged(monitor: ScriptedMonitor, engine: EngineWithCanary) -> None:
    """The status has the median error of predictions and their number, and None before the first."""
    loop = make_loop(monitor, engine)
    assert (loop.status().num_predictions, loop.status().prediction_error_fraction) == (0, None)
    loop.tick()
    for elapsed_ms in (40.0, 30.0, 30.0, 30.0, 30.0):
        loop.observe(observation("p6", elapsed_ms))
        loop.tick()
    status = loop.status()
    assert status.num_predictions == 5
    assert status.prediction_error_fraction is not None
    assert 0.0 < status.prediction_error_fraction < 0.25


def test_the_latest_predictions_are_told(monitor: ScriptedMonitor, engine: EngineWithCanary) -> None:
    """The status holds the last 32 predictions with what they were about, the newest at the end."""
    loop = make_loop(monitor, engine)
    loop.tick()
    for number in range(40):
        loop.observe(observation("p6", 30.0 + number / 100))
    loop.tick()
    told = loop.status().latest_predictions
    assert [round(each.actual_ms, 2) for each in told] == [30.0 + number / 100 for number in range(8, 40)]
    assert {each.observation.point_id for each in told} == {"p6"}
    assert all(each.predicted_ms == pytest.approx(30.0, rel=0.1) for each in told)


def test_a_missed_budget_wakes_the_loop(monitor: ScriptedMonitor, engine: EngineWithCanary) -> None:
    """Between two passes a minute apart, batches over the budget are answered; one within it wakes nothing."""
    loop = make_loop(monitor, engine, interval_s=60.0)
    loop.start()
    try:
        wait_until(lambda: monitor.num_reads == 1)
        loop.observe(observation("p6", 30.0))
        time.sleep(0.1)
        assert monitor.num_reads == 1
        for _ in range(3):
            loop.observe(observation("p6", 90.0))
        wait_until(lambda: engine.active_point_id == "p1")
    finally:
        loop.stop()


def test_observing_and_choosing_wait_for_no_sensor(
    monitor: ScriptedMonitor, engine: EngineWithCanary
) -> None:
    """While a reading hangs, the engine's thread and requests are answered."""
    hanging = HangingMonitor(FOUR_CPUS)
    loop = make_loop(hanging, engine)
    loop.start()
    try:
        assert hanging.hanging.wait(5.0)
        loop.observe(observation("p6", 30.0))
        assert loop.choose(RequestWish(num_src_tokens=(28,), latency_budget_ms=12.0)).point_id == "p1"
        assert not hanging.release.is_set()
    finally:
        hanging.release.set()
        loop.stop()


def test_waiting_observations_are_bounded(monitor: ScriptedMonitor, engine: EngineWithCanary) -> None:
    """A loop that does not run keeps the latest thousand or so, no more."""
    loop = make_loop(monitor, engine)
    loop.tick()
    for _ in range(5000):
        loop.observe(observation("p6", 30.0))
    loop.tick()
    assert loop.status().num_predictions == 1024


def test_an_unknown_point_in_a_wish_is_told_to_the_caller(
    monitor: ScriptedMonitor, engine: EngineWithCanary
) -> None:
    """choose raises what is wrong with the wish."""
    with pytest.raises(UnknownOperatingPointError, match="p9"):
        make_loop(monitor, engine).choose(RequestWish(num_src_tokens=(5,), point_id="p9"))


def test_the_last_decisions(monitor: ScriptedMonitor, engine: EngineWithCanary) -> None:
    """decisions(last) is the end of the why-log; more than there are gives all."""
    loop = make_loop(monitor, engine)
    for point_id in ("p1", "p3", "p6"):
        loop.pin(point_id)
    assert [decision.point_id for decision in loop.decisions(2)] == ["p3", "p6"]
    assert len(loop.decisions(100)) == 3
    assert loop.decisions(0) == ()


# --- canaries ---------------------------------------------------------------------------------------------------


def test_an_idle_engine_is_asked_for_one_canary_at_a_time(
    monitor: ScriptedMonitor, engine: EngineWithCanary
) -> None:
    """Of many passes under caps just seen one asks for a canary, as long as none came back."""
    loop = make_loop(monitor, engine)
    for _ in range(20):
        loop.tick()
    assert engine.num_canaries == 1
    time.sleep(CANARY_INTERVAL_S + 0.1)
    loop.tick()
    assert engine.num_canaries == 1


def test_canaries_go_on_when_they_come_back(monitor: ScriptedMonitor, engine: EngineWithCanary) -> None:
    """After a canary's observation and the interval the next is asked for."""
    loop = make_loop(monitor, engine)
    loop.tick()
    loop.observe(observation("p6", 30.0, is_canary=True))
    loop.tick()
    assert engine.num_canaries == 1
    time.sleep(max(CANARY_INTERVAL_S, QUIET_S) + 0.1)
    loop.tick()
    assert engine.num_canaries == 2


def test_a_busy_engine_is_not_asked(monitor: ScriptedMonitor, engine: EngineWithCanary) -> None:
    """With sentences queued, or translations just done, no canary is asked for."""
    loop = make_loop(monitor, engine)
    engine.queue_depth = 1
    loop.tick()
    engine.queue_depth = 0
    loop.observe(observation("p6", 30.0))
    loop.tick()
    assert engine.num_canaries == 0


def test_an_engine_that_fails_its_canary_still_switches(
    monitor: ScriptedMonitor, engine: EngineWithCanary, caplog: pytest.LogCaptureFixture
) -> None:
    """A failing canary is one log line, and the loop goes on."""
    engine.canary_failure = EngineError("no")
    monitor.snapshot = ONE_CPU
    loop = make_loop(monitor, engine, budget_ms=35.0)
    loop.tick()
    loop.tick()
    assert engine.active_point_id == "p1"
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


# --- recorder ---------------------------------------------------------------------------------------------------


def test_a_recorder_is_told_in_the_governors_order(
    monitor: ScriptedMonitor, engine: EngineWithCanary
) -> None:
    """Observations come before the snapshot whose decision they bear on, and the decision comes last."""
    recorder = ListRecorder()
    loop = make_loop(monitor, engine, recorder=recorder)
    loop.tick()
    loop.observe(observation("p6", 90.0))
    loop.tick()
    assert [what for what, _ in recorder.told] == [
        "snapshot",
        "decision",
        "observation",
        "snapshot",
        "decision",
    ]
    assert recorder.told[-1][1] == loop.decisions()[-1]


def test_a_recorder_that_fails_holds_up_nothing(
    monitor: ScriptedMonitor, engine: EngineWithCanary, caplog: pytest.LogCaptureFixture
) -> None:
    """With its disk full, the loop switches all the same and logs each kind of failure once."""

    class FullRecorder(ListRecorder):
        def snapshot(self, snapshot: ResourceSnapshot) -> None:
            raise OSError("no space left")

    monitor.snapshot = replace(ONE_CPU)
    loop = make_loop(monitor, engine, recorder=FullRecorder(), budget_ms=35.0)
    loop.tick()
    loop.tick()
    assert engine.active_point_id == "p1"
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
