"""Every sensor under every fault: absent, garbage, empty, absurd, vanished, hanging; and each coming back."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dynhat_runtime.monitor import DeviceMonitor
from dynhat_runtime.monitor.host import HostMonitor
from dynhat_runtime.monitor.jetson import JetsonMonitor
from dynhat_runtime.monitor.merged import MergedMonitor
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from tests.sensor_files import (
    BATTERY,
    BOARD,
    CGROUP,
    CPUS,
    GPU,
    HOST,
    MINE,
    RAILS,
    Clock,
    Hanging,
    meminfo,
    state_of,
    write,
)

FILES = {**HOST, **BOARD}
STEP_S = 1.5
"""Longer than any sensor's period."""
LONG_ENOUGH_S = 120.0
"""For every back-off to be over."""
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Case:
    """One sensor, a file it needs, the field it fills, and a text nobody should believe."""

    sensor: str
    file: str
    field: str
    value: object
    absurd: str
    when_down: object = None

    def __str__(self) -> str:
        return f"{self.sensor}: {self.file.rpartition('/')[2]}"


CASES = (
    Case("online cpus", f"{CPUS}/online", "online_cpus", (0, 1, 2, 3), "3-1"),
    Case("cgroup quota", f"{CGROUP}/cpu.max", "cpu_quota_cpus", 1.5, "-5 100000"),
    Case("cpu load", "proc/stat", "cpu_load_fraction", None, "cpu0 1 2 3 4"),
    Case("cpu pressure", "proc/pressure/cpu", "cpu_pressure_fraction", 0.125, "some avg10=nan"),
    Case(
        "memory",
        "proc/meminfo",
        "memory_total_mib",
        1024.0,
        meminfo(-1, 2),
    ),
    Case("cgroup memory", f"{CGROUP}/memory.max", "memory_total_mib", 1024.0, "-1", when_down=4096.0),
    Case("process memory", "proc/self/statm", "process_memory_mib", 10.0, "5000 -2560"),
    Case(
        "cpu frequency cap",
        f"{CPUS}/cpu{MINE}/cpufreq/scaling_max_freq",
        "cpu_max_frequency_hz",
        1.479e9,
        "-1479000",
    ),
    Case(
        "cpu frequency",
        f"{CPUS}/cpu{MINE}/cpufreq/scaling_cur_freq",
        "cpu_current_frequency_hz",
        102e6,
        "99999999999",
    ),
    Case("cooling", "sys/class/thermal/cooling_device0/cur_state", "cooling_state_fraction", 0.25, "7"),
    Case("temperature", "sys/class/thermal/thermal_zone0/temp", "temperature_celsius", 41.5, "-256000"),
    Case("battery", f"{BATTERY}/capacity", "battery_fraction", 0.75, "101"),
    Case("power mode", "var/lib/nvpmodel/status", "power_mode", "5W", "pmode:-1"),
    Case("gpu", f"{GPU}/cur_freq", "gpu_current_frequency_hz", 306e6, "-306000000"),
    Case("gpu", f"{GPU}/max_freq", "gpu_max_frequency_hz", 612e6, "0"),
    Case("gpu", f"{GPU}/device/load", "gpu_load_fraction", 0.35, "1001"),
    Case("power", f"{RAILS}/in1_input", "power_mw", 4500.0, "nan"),
    Case("power", f"{RAILS}/curr1_input", "power_mw", 4500.0, "-900"),
)
VANISHING = [
    case
    for case in CASES
    # A limit that is gone is no limit; a battery need not tell its charge, nor a GPU its load.
    if case.file.rpartition("/")[2] not in ("cpu.max", "memory.max", "capacity", "load")
]
every_sensor = pytest.mark.parametrize("case", CASES, ids=str)


class Device:
    """A Jetson of files, with a clock and a monitor."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = Clock()
        write(root, FILES)
        self.monitor: DeviceMonitor = MergedMonitor(
            HostMonitor(root, clock=self.clock), [JetsonMonitor(root, self.clock)], self.clock
        )

    def read(self, after_s: float = 0.0) -> ResourceSnapshot:
        """A reading, later."""
        self.clock.move(after_s)
        return self.monitor.read()

    def read_until_up(self, sensor: str) -> ResourceSnapshot:
        """Readings until that sensor answers again: a thread that hung needs a moment."""
        give_up_s = time.monotonic() + PATIENCE_S
        while True:
            snapshot = self.read(LONG_ENOUGH_S)
            state = state_of(snapshot, sensor)
            if state is not None and state.is_up:
                return snapshot
            assert time.monotonic() < give_up_s, f"{sensor} never came back: {state}"
            time.sleep(0.01)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """A device with every sensor fine."""
    device = Device(tmp_path)
    yield device
    device.monitor.close()


def others(snapshot: ResourceSnapshot, sensor: str) -> dict[str, bool]:
    """Which of the other sensors answer."""
    return {state.name: state.is_up for state in snapshot.sensors if state.name != sensor}


@every_sensor
def test_a_sensor_that_is_fine(device: Device, case: Case) -> None:
    """Its value is in the snapshot, and it is listed as up."""
    snapshot = device.read()
    assert getattr(snapshot, case.field) == case.value
    state = state_of(snapshot, case.sensor)
    assert state is not None
    assert state.is_up
    assert state.error is None


def test_a_bare_device_lists_no_sensor_but_the_affinity(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a device lacks is None, is no sensor, and is nothing to log."""
    monitor = MergedMonitor(HostMonitor(tmp_path), [JetsonMonitor(tmp_path)])
    snapshot = monitor.read()
    monitor.close()
    assert [state.name for state in snapshot.sensors] == ["affinity"]
    assert {getattr(snapshot, case.field) for case in CASES} == {None}
    assert not caplog.records


@every_sensor
def test_a_sensor_that_appears_later(device: Device, case: Case) -> None:
    """A file that comes into being after the start is found within seconds, as GPU nodes are after boot."""
    aside = device.root / "aside"
    (device.root / case.file).rename(aside)
    if case in VANISHING and case.sensor not in ("gpu", "power", "cooling", "temperature"):
        assert state_of(device.read(), case.sensor) is None
    else:
        device.read()
    aside.rename(device.root / case.file)
    snapshot = device.read(after_s=LONG_ENOUGH_S)
    assert getattr(snapshot, case.field) == case.value


@every_sensor
@pytest.mark.parametrize("fault", ["garbage", "empty", "absurd"])
def test_nonsense_and_back(device: Device, case: Case, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """A sensor that talks nonsense is None and down with one log line, leaves the others alone, and comes back."""
    before = device.read()
    text = {"garbage": "\\xff<unknown>", "empty": "", "absurd": case.absurd}[fault]
    (device.root / case.file).write_text(text)
    for _ in range(4):
        snapshot = device.read(after_s=STEP_S)
        assert getattr(snapshot, case.field) == case.when_down
        state = state_of(snapshot, case.sensor)
        assert state is not None
        assert not state.is_up
        assert state.error
        assert others(snapshot, case.sensor) == {**others(before, case.sensor), **jtop_of(snapshot)}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert case.sensor in caplog.text
    write(device.root, {case.file: FILES[case.file]})
    assert getattr(device.read(after_s=LONG_ENOUGH_S), case.field) == case.value
    assert len(caplog.records) == 2
    assert "is back" in caplog.text


def jtop_of(snapshot: ResourceSnapshot) -> dict[str, bool]:
    """jtop's entry, if it was asked."""
    return {state.name: state.is_up for state in snapshot.sensors if state.name == "jtop"}


@pytest.mark.parametrize("case", VANISHING, ids=str)
def test_vanishing_and_back(device: Device, case: Case, caplog: pytest.LogCaptureFixture) -> None:
    """A sensor whose file vanishes is None and down with one log line, and comes back."""
    device.read()
    (device.root / case.file).unlink()
    for _ in range(4):
        snapshot = device.read(after_s=STEP_S)
        assert getattr(snapshot, case.field) is None
        state = state_of(snapshot, case.sensor)
        assert state is not None
        assert not state.is_up
    assert len(caplog.records) == 1
    write(device.root, {case.file: FILES[case.file]})
    assert getattr(device.read(after_s=LONG_ENOUGH_S), case.field) == case.value


@every_sensor
def test_hanging_and_back(device: Device, case: Case, caplog: pytest.LogCaptureFixture) -> None:
    """A sensor that hangs is None and down with one log line, holds up no other, and comes back."""
    before = device.read_until_up(case.sensor)  # on a busy machine the first reading may be let go unread
    assert len(others(before, case.sensor)) > 1
    hanging = Hanging(device.root / case.file)
    for _ in range(4):
        device.read(after_s=STEP_S)
    snapshot = device.read(after_s=STEP_S)
    assert getattr(snapshot, case.field) == case.when_down
    state = state_of(snapshot, case.sensor)
    assert state is not None
    assert (state.is_up, state.error) == (False, "does not answer: it hangs")
    assert others(snapshot, case.sensor) == others(before, case.sensor)
    assert len(caplog.records) == 1
    hanging.restore(FILES[case.file])
    snapshot = device.read_until_up(case.sensor)
    assert getattr(snapshot, case.field) == case.value


def test_everything_hangs_at_once(device: Device) -> None:
    """Where every file hangs, readings still come, each sensor is down, and the affinity is told."""
    files = {
        case.sensor: case.file for case in reversed(CASES)
    }.values()  # one of each sensor: it hangs in one
    device.read()
    hanging = {file: Hanging(device.root / file) for file in files}
    for _ in range(12):
        snapshot = device.read(after_s=STEP_S)
    assert {state.name for state in snapshot.sensors if state.is_up} == {"affinity", "cpuset"}
    assert snapshot.usable_cpus is not None
    for file, each in hanging.items():
        each.restore(FILES[file])
    for sensor in sorted({case.sensor for case in CASES}):
        device.read_until_up(sensor)
