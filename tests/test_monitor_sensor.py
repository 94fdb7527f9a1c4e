"""Tests of dynhat_runtime.monitor.sensor: ages, back-off, hanging threads, and what the log hears."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable

import pytest

from dynhat_runtime.monitor.sensor import NotYetError, Pauses, Sensor, SensorReader
from tests.sensor_files import Clock

PATIENCE_S = 10.0


class Source:
    """A sensor's answers: the last one given stands; an exception is raised."""

    def __init__(self, answer: object) -> None:
        self.answer = answer
        self.num_asked = 0

    def __call__(self) -> object:
        """Answer."""
        self.num_asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def ask(sensor: Sensor[object], clock: Clock, after_s: float = 0.0) -> object:
    """What a reader does at one moment."""
    clock.move(after_s)
    if sensor.is_due(clock()):
        sensor.refresh(clock)
    sensor.check(clock())
    return sensor.value(clock())


def reading_threads() -> list[threading.Thread]:
    """The sensor threads there are."""
    return [thread for thread in threading.enumerate() if thread.name == "dynhat-sensors"]


def until(is_true: Callable[[], bool]) -> None:
    """Return once it is."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < give_up_s, "it never happened"
        time.sleep(0.005)


def test_a_value_has_a_source_and_an_age() -> None:
    """A reading names its sensor and when it was read; past the age limit there is no value."""
    clock = Clock()
    sensor: Sensor[object] = Sensor("gpu", Source(5), max_age_s=1.0)
    assert ask(sensor, clock) == 5
    read_s = clock()
    clock.move(0.9)
    reading = sensor.reading(clock())
    assert reading is not None
    assert (reading.value, reading.source, reading.monotonic_s) == (5, "gpu", read_s)
    clock.move(0.2)
    assert sensor.value(clock()) is None


def test_pauses_double_up_to_the_longest() -> None:
    """At once after the first failure, then 1, 2, 4 ... and never more than the longest."""
    pauses = Pauses()
    assert [pauses.after(number) for number in range(1, 9)] == [0, 1, 2, 4, 8, 16, 30, 30]


def test_a_failing_sensor_is_left_alone_for_its_pause() -> None:
    """Between two tries nobody asks it, however often a reading is wanted."""
    clock, source = Clock(), Source(OSError("broken"))
    sensor: Sensor[object] = Sensor("gpu", source)
    for _ in range(120):  # a minute at half-second readings
        ask(sensor, clock, after_s=0.5)
    # 0, then after 1, 2, 4, 8, 16, 30 s of pause: at 0.5, 1, 2, 4, 8, 16, 32 s
    assert source.num_asked == 7
    source.answer = 5
    assert ask(sensor, clock, after_s=30.0) == 5


def test_a_sensor_that_flaps_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    """Failing every other time for ten minutes logs a few dozen lines, not thousands."""
    clock, source = Clock(), Source(5)
    sensor: Sensor[object] = Sensor("gpu", source)
    for number in range(2400):
        source.answer = 5 if number % 2 else OSError("broken")
        ask(sensor, clock, after_s=0.25)
    assert 0 < len(caplog.records) <= 60


def test_after_a_steady_while_the_pauses_start_afresh() -> None:
    """A sensor that was fine for long is tried again at once when it fails again."""
    clock, source = Clock(), Source(OSError("broken"))
    sensor: Sensor[object] = Sensor("gpu", source)
    for _ in range(8):
        ask(sensor, clock, after_s=30.0)
    source.answer = 5
    for _ in range(3):
        ask(sensor, clock, after_s=30.0)
    source.answer = OSError("broken again")
    ask(sensor, clock, after_s=0.5)
    source.answer = 6
    assert ask(sensor, clock, after_s=0.5) == 6


def test_hastened_it_still_waits_its_first_pause() -> None:
    """A reason to try earlier shortens a long pause to the first one, and no further."""
    clock, source = Clock(), Source(OSError("broken"))
    sensor: Sensor[object] = Sensor("jtop", source, pauses=Pauses(first_s=3, shortest_s=3, longest_s=60))
    for _ in range(6):
        ask(sensor, clock, after_s=60.0)
    source.answer = 5
    sensor.hasten()
    assert ask(sensor, clock, after_s=2.0) is None
    assert ask(sensor, clock, after_s=1.0) == 5


def test_not_yet_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    """A sensor that needs a while is asked at every reading and is not listed before it answers."""
    clock, source = Clock(), Source(NotYetError())
    sensor: Sensor[object] = Sensor("jtop", source)
    for _ in range(3):
        assert ask(sensor, clock, after_s=0.25) is None
        assert sensor.state() is None
    assert source.num_asked == 3
    assert not caplog.records


def test_one_line_says_what_failed(caplog: pytest.LogCaptureFixture) -> None:
    """The log and the state have the sensor's name and its error on one line, however long that was."""
    clock = Clock()
    error = ValueError("first\nsecond " + "x" * 1000)
    sensor: Sensor[object] = Sensor("gpu", Source(error))
    ask(sensor, clock)
    state = sensor.state()
    assert state is not None
    assert state.error is not None
    assert state.error.startswith("ValueError: first second x")
    assert len(state.error) <= 300
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "sensor gpu fails" in caplog.records[0].getMessage()


# --- the reader -------------------------------------------------------------------------------------------


def test_a_hanging_sensor_holds_up_neither_caller_nor_others() -> None:
    """A reading returns though a sensor hangs, with the values of those after it."""
    go = threading.Event()
    hanging: Sensor[object] = Sensor("hanging", lambda: go.wait(PATIENCE_S))
    fine: Sensor[object] = Sensor("fine", Source(5))
    reader = SensorReader([hanging, fine])
    begun_s = time.monotonic()
    now_s = reader.refresh()
    # Far above the 0.2 s a refresh may take, far below what the sensor would: the machine may be busy.
    assert time.monotonic() - begun_s < PATIENCE_S / 2
    assert (hanging.value(now_s), fine.value(now_s)) == (None, 5)
    go.set()


def test_a_hanging_sensor_costs_one_thread_however_long_it_hangs() -> None:
    """A hundred readings beside a hanging sensor: two threads, and one less when it is back."""
    before = set(reading_threads())
    clock, go = Clock(), threading.Event()
    hanging: Sensor[object] = Sensor("hanging", lambda: go.wait(PATIENCE_S))
    reader = SensorReader([hanging, Sensor("fine", Source(5))], clock)
    for _ in range(100):
        clock.move(0.5)
        reader.refresh()
    assert len(set(reading_threads()) - before) == 2
    assert [(state.name, state.is_up) for state in reader.states()] == [("hanging", False), ("fine", True)]
    go.set()
    until(lambda: len(set(reading_threads()) - before) == 1)
    clock.move(0.5)
    assert hanging.value(reader.refresh()) is True


def test_value_and_health_are_of_one_moment() -> None:
    """A sensor that comes back after a reading was closed is down and None in it, up and told in the next."""
    clock, source = Clock(), Source(OSError("broken"))
    sensor: Sensor[object] = Sensor("gpu", source)
    assert ask(sensor, clock) is None
    source.answer = 5
    sensor.refresh(clock)  # as by a thread that was hanging while the snapshot is put together
    state = sensor.state()
    assert state is not None
    assert (sensor.value(clock()), state.is_up) == (None, False)
    sensor.check(clock())
    state = sensor.state()
    assert state is not None
    assert (sensor.value(clock()), state.is_up) == (5, True)


def test_a_sensor_that_is_being_read_is_not_read_twice() -> None:
    """While a thread is in it, another returns at once without asking."""
    clock, go, asked = Clock(), threading.Event(), Source(None)
    inside = threading.Event()

    def hang() -> bool:
        asked()
        inside.set()
        return go.wait(PATIENCE_S)

    sensor: Sensor[object] = Sensor("hanging", hang)
    thread = threading.Thread(target=sensor.refresh, args=(clock,))
    thread.start()
    inside.wait(PATIENCE_S)
    other = threading.Thread(target=sensor.refresh, args=(clock,))
    other.start()
    other.join(PATIENCE_S / 2)
    assert not other.is_alive()
    assert asked.num_asked == 1
    go.set()
    thread.join(PATIENCE_S)


def test_a_slow_sensor_is_asked_once_in_its_period() -> None:
    """Within its period an answer stands without a question; it outlives the period by the age limit."""
    clock, source = Clock(), Source(5)
    sensor: Sensor[object] = Sensor("battery", source, period_s=2.0, max_age_s=1.0)
    for _ in range(8):
        assert ask(sensor, clock, after_s=0.5) == 5
    assert source.num_asked == 2
    clock.move(1.4)  # 2.9 s after it was read
    assert sensor.value(clock()) == 5
    clock.move(0.2)
    assert sensor.value(clock()) is None


def test_states_keep_their_order() -> None:
    """However sensors come and go, the list has the order in which they were given."""
    clock = Clock()
    sources = {name: Source(OSError("broken")) for name in "cab"}
    reader = SensorReader([Sensor(name, source) for name, source in sources.items()], clock)
    reader.refresh()
    assert [state.name for state in reader.states()] == ["c", "a", "b"]
    sources["a"].answer = 5
    clock.move(60.0)
    reader.refresh()
    assert [(state.name, state.is_up) for state in reader.states()] == [
        ("c", False), ("a", True), ("b", False),
    ]  # fmt: skip


def test_no_thread_stays_behind() -> None:
    """A reader that is closed, and one that is forgotten, end their thread; a closed one can read again."""
    before = set(reading_threads())
    reader = SensorReader([Sensor("fine", Source(5))])
    reader.refresh()
    reader.close()
    until(lambda: not set(reading_threads()) - before)
    reader.refresh()
    assert len(set(reading_threads()) - before) == 1
    del reader
    gc.collect()
    until(lambda: not set(reading_threads()) - before)
