"""Tests of dynhat_runtime.control_loop, with an engine and a monitor made by hand."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from dynhat_runtime.control_loop import ControlLoop
from dynhat_runtime.errors import EngineError, MonitorError, UnknownOperatingPointError
from dynhat_runtime.governor.policy import GovernorRules
from dynhat_runtime.logs import line_formatter
from tests.control_fakes import (
    FOUR_CPUS,
    ONE_CPU,
    HangingMonitor,
    RecordingEngine,
    ScriptedMonitor,
    wait_until,
)
from tests.hand_made import three_points


@pytest.fixture
def monitor() -> ScriptedMonitor:
    """A monitor that sees four CPUs."""
    return ScriptedMonitor(FOUR_CPUS)


@pytest.fixture
def engine() -> RecordingEngine:
    """An engine on the best point, p6."""
    return RecordingEngine("p6")


def make_loop(
    monitor: ScriptedMonitor, engine: RecordingEngine, *, interval_s: float = 0.01, history: int = 256
) -> ControlLoop:
    """A loop over the three hand-made points with a budget of 35 ms."""
    rules = GovernorRules(latency_budget_ms=35.0)
    return ControlLoop(monitor, engine, three_points(), rules, interval_s=interval_s, history=history)


@pytest.fixture
def loop(monitor: ScriptedMonitor, engine: RecordingEngine) -> ControlLoop:
    """A loop that has not started."""
    return make_loop(monitor, engine)


# --- ticking ----------------------------------------------------------------------------------------------


def test_a_tick_follows_the_caps_down_and_up(
    loop: ControlLoop, monitor: ScriptedMonitor, engine: RecordingEngine
) -> None:
    """Fewer CPUs switch the engine down, more CPUs switch it back up."""
    loop.tick()
    assert engine.active_point_id == "p6"
    monitor.snapshot = ONE_CPU
    loop.tick()
    assert engine.active_point_id == "p1"
    monitor.snapshot = FOUR_CPUS
    loop.tick()
    assert engine.active_point_id == "p6"


def test_an_unchanged_device_leaves_the_engine_alone(loop: ControlLoop, engine: RecordingEngine) -> None:
    """After the first tick has told the CPUs, further ticks call nothing."""
    for _ in range(3):
        loop.tick()
    assert engine.calls == [("follow_cpus", (0, 1, 2, 3))]


def test_the_engine_follows_the_cpus_before_it_switches(
    loop: ControlLoop, monitor: ScriptedMonitor, engine: RecordingEngine
) -> None:
    """Other usable CPUs are told to the engine once, and ahead of the switch they cause."""
    loop.tick()
    monitor.snapshot = ONE_CPU
    loop.tick()
    loop.tick()
    assert engine.calls[1:] == [("follow_cpus", (0,)), ("switch_to", "p1")]


def test_unknown_cpus_are_not_followed(
    loop: ControlLoop, monitor: ScriptedMonitor, engine: RecordingEngine
) -> None:
    """A monitor that lost the affinity does not send the engine anywhere."""
    monitor.snapshot = replace(FOUR_CPUS, usable_cpus=None)
    loop.tick()
    assert engine.calls == []


def test_an_engine_that_cannot_follow_still_switches_and_is_asked_again(
    loop: ControlLoop, monitor: ScriptedMonitor, engine: RecordingEngine
) -> None:
    """A failing follow_cpus does not hold up the switch, and the next tick tries it again."""
    monitor.snapshot = ONE_CPU
    engine.follow_failure = OSError("no")
    loop.tick()
    assert engine.active_point_id == "p1"
    engine.follow_failure = None
    loop.tick()
    loop.tick()
    assert [call for call in engine.calls if call[0] == "follow_cpus"] == [("follow_cpus", (0,))] * 2


def test_the_dwell_counts_from_the_last_switch(monitor: ScriptedMonitor, engine: RecordingEngine) -> None:
    """A step up waits until the point stepped down to has stayed for the dwell."""
    rules = GovernorRules(latency_budget_ms=35.0, dwell_s=2.0)
    loop = ControlLoop(monitor, engine, three_points(), rules)
    monitor.snapshot = ONE_CPU
    loop.tick()
    monitor.snapshot = FOUR_CPUS
    loop.tick()
    assert engine.active_point_id == "p1"
    loop.tick()
    assert engine.active_point_id == "p6"


def test_a_switch_made_elsewhere_is_noticed(
    loop: ControlLoop, monitor: ScriptedMonitor, engine: RecordingEngine
) -> None:
    """The engine's own active point is what the next decision starts from."""
    loop.tick()
    engine.active_point_id = "p3"
    loop.tick()
    assert loop.status().active_id == "p3"
    loop.tick()
    assert engine.active_point_id == "p6"


# --- pin and auto -----------------------------------------------------------------------------------------


def test_a_pin_is_in_effect_on_return(loop: ControlLoop, engine: RecordingEngine) -> None:
    """pin switches before it returns, and later ticks keep to it."""
    loop.pin("p1")
    assert engine.active_point_id == "p1"
    assert loop.status().mode == "pinned"
    loop.tick()
    assert engine.active_point_id == "p1"


def test_auto_is_in_effect_on_return(
    loop: ControlLoop, monitor: ScriptedMonitor, engine: RecordingEngine
) -> None:
    """set_auto lets the governor choose before it returns."""
    loop.pin("p6")
    monitor.snapshot = ONE_CPU
    loop.tick()
    assert engine.active_point_id == "p6"
    loop.set_auto()
    assert engine.active_point_id == "p1"
    assert loop.status().mode == "auto"


def test_an_unknown_pin_changes_nothing(loop: ControlLoop, engine: RecordingEngine) -> None:
    """Pinning a point that the table lacks raises and leaves mode and point."""
    with pytest.raises(UnknownOperatingPointError, match="p9"):
        loop.pin("p9")
    loop.tick()
    assert (engine.active_point_id, loop.status().mode) == ("p6", "auto")


def test_a_pin_the_engine_refuses_is_told_and_forgotten(loop: ControlLoop, engine: RecordingEngine) -> None:
    """When the engine cannot switch, pin raises its error, and the mode stays auto."""
    engine.switch_failure = EngineError("stopping")
    with pytest.raises(EngineError, match="stopping"):
        loop.pin("p1")
    engine.switch_failure = None
    loop.tick()
    assert (engine.active_point_id, loop.status().mode) == ("p6", "auto")


@pytest.mark.parametrize("num_ticks_before", [0, 1])
def test_a_pin_needs_no_monitor(
    loop: ControlLoop, monitor: ScriptedMonitor, engine: RecordingEngine, num_ticks_before: int
) -> None:
    """With the monitor broken, people can still choose by hand, on the last reading or on none."""
    for _ in range(num_ticks_before):
        loop.tick()
    monitor.failure = MonitorError("gone")
    loop.pin("p3")
    assert engine.active_point_id == "p3"
    assert loop.decisions()[-1].snapshot.source == ("scripted" if num_ticks_before else "none")
    loop.set_auto()
    assert (engine.active_point_id, loop.status().mode) == ("p3", "auto")


# --- failures ---------------------------------------------------------------------------------------------


def test_a_failing_monitor_is_logged_once_and_the_engine_keeps_its_point(
    loop: ControlLoop, monitor: ScriptedMonitor, engine: RecordingEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Repeated failures are one line; another message is another; then the loop goes on as before."""
    monitor.snapshot = ONE_CPU
    for message in ("gone", "gone", "still gone", "gone"):
        monitor.failure = MonitorError(message)
        loop.tick()
    assert engine.calls == []
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    monitor.failure = None
    loop.tick()
    assert engine.active_point_id == "p1"


def test_a_failing_decision_does_not_end_the_loop(
    loop: ControlLoop, monitor: ScriptedMonitor, engine: RecordingEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """An active point that the table lacks is logged, and ticking goes on once it is gone."""
    engine.active_point_id = "unheard-of"
    loop.tick()
    loop.tick()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    engine.active_point_id = "p6"
    monitor.snapshot = ONE_CPU
    loop.tick()
    assert engine.active_point_id == "p1"


def test_a_failed_switch_is_no_change_and_is_tried_again(
    loop: ControlLoop, monitor: ScriptedMonitor, engine: RecordingEngine
) -> None:
    """A switch the engine refused is not in the why-log, and the next tick repeats it."""
    monitor.snapshot = ONE_CPU
    engine.switch_failure = EngineError("busy")
    loop.tick()
    assert loop.decisions() == ()
    assert loop.status().active_id == "p6"
    engine.switch_failure = None
    loop.tick()
    assert [decision.point_id for decision in loop.decisions()] == ["p1"]


# --- what it tells ----------------------------------------------------------------------------------------


def test_status_before_the_first_tick(loop: ControlLoop) -> None:
    """Before anything is decided the status names the engine's point and no snapshot."""
    status = loop.status()
    assert (status.active_id, status.mode, status.snapshot) == ("p6", "auto", None)


def test_status_after_a_switch(loop: ControlLoop, monitor: ScriptedMonitor) -> None:
    """The status carries the new point, the reason, the snapshot and the time of the switch."""
    monitor.snapshot = ONE_CPU
    before = datetime.now(timezone.utc)
    loop.tick()
    since = loop.status().since_utc
    loop.tick()
    status = loop.status()
    assert status.active_id == "p1"
    assert status.snapshot is not None
    assert status.snapshot.usable_cpus == (0,)
    assert "20.0 ms on 1 CPU" in status.reason
    assert before <= status.since_utc == since <= datetime.now(timezone.utc)


def test_decisions_are_the_changes_and_the_latest(loop: ControlLoop, monitor: ScriptedMonitor) -> None:
    """The why-log has every change once, and at its end the latest decision."""
    monitor.snapshot = ONE_CPU
    loop.tick()
    assert [decision.reason_code for decision in loop.decisions()] == ["over_budget"]
    monitor.snapshot = FOUR_CPUS
    loop.tick()
    loop.tick()
    loop.tick()
    assert [decision.reason_code for decision in loop.decisions()] == ["over_budget", "step_up", "best_fits"]


def test_the_why_log_is_bounded(monitor: ScriptedMonitor, engine: RecordingEngine) -> None:
    """Of many changes the last `history` are kept."""
    loop = make_loop(monitor, engine, history=3)
    for point_id in ("p1", "p3", "p6", "p1", "p3"):
        loop.pin(point_id)
    assert [decision.point_id for decision in loop.decisions()] == ["p6", "p1", "p3"]


def test_a_switch_is_one_log_line_with_fields(
    loop: ControlLoop, monitor: ScriptedMonitor, caplog: pytest.LogCaptureFixture
) -> None:
    """Each switch logs from, to and reason once, as text and as fields; a tick without one logs nothing."""
    monitor.snapshot = ONE_CPU
    with caplog.at_level(logging.INFO):
        loop.tick()
        loop.tick()
    (record,) = caplog.records
    assert record.levelname == "INFO"
    assert "INFO switch from=p6 to=p1 reason=" in line_formatter("console").format(record)
    fields = vars(record)
    assert (fields["from"], fields["to"]) == ("p6", "p1")
    assert "over the budget" in fields["reason"]


# --- the thread -------------------------------------------------------------------------------------------


def test_the_thread_follows_the_device_until_stopped(
    loop: ControlLoop, monitor: ScriptedMonitor, engine: RecordingEngine
) -> None:
    """Started, the loop switches by itself; stopped, it reads no more, and it can start again."""
    loop.start()
    monitor.snapshot = ONE_CPU
    wait_until(lambda: engine.active_point_id == "p1")
    loop.stop()
    num_reads = monitor.num_reads
    time.sleep(0.05)
    assert monitor.num_reads == num_reads
    loop.start()
    wait_until(lambda: monitor.num_reads > num_reads)
    loop.stop()


def test_the_thread_outlives_failures(loop: ControlLoop, monitor: ScriptedMonitor) -> None:
    """A monitor that always fails does not end the thread."""
    monitor.failure = MonitorError("gone")
    loop.start()
    wait_until(lambda: monitor.num_reads >= 3)
    loop.stop()


def test_stop_does_not_wait_for_the_interval(monitor: ScriptedMonitor, engine: RecordingEngine) -> None:
    """Stopping cuts a long pause short."""
    loop = make_loop(monitor, engine, interval_s=60.0)
    loop.start()
    wait_until(lambda: monitor.num_reads == 1)
    start_s = time.monotonic()
    loop.stop()
    assert time.monotonic() - start_s < 1.0
    assert not [thread for thread in threading.enumerate() if thread.name == "dynhat-control-loop"]


def test_a_hanging_sensor_blocks_neither_stop_nor_status(
    monitor: ScriptedMonitor, engine: RecordingEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """While a reading hangs, status and decisions answer, and stop gives up in time with a warning."""
    hanging = HangingMonitor(FOUR_CPUS)
    loop = make_loop(hanging, engine)
    loop.start()
    try:
        assert hanging.hanging.wait(5.0)
        start_s = time.monotonic()
        assert loop.status().snapshot is None
        assert loop.decisions() == ()
        loop.stop(timeout_s=0.1)
        assert time.monotonic() - start_s < 2.0
        assert "did not end" in caplog.text
    finally:
        hanging.release.set()


def test_stop_without_start_is_harmless(loop: ControlLoop) -> None:
    """Stopping a loop that never ran does nothing."""
    loop.stop()
