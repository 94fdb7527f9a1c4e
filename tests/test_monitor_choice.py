"""Tests of choose_monitor and MergedMonitor: which monitors a device gets, and whose word stands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dynhat_runtime.monitor import MonitorKind, choose_monitor
from dynhat_runtime.monitor.merged import MergedMonitor
from dynhat_runtime.resource_snapshot import ResourceSnapshot, SensorState
from tests.sensor_files import BOARD, HOST, write


class Fixed:
    """A part that always says the same, and asks no sensor for it."""

    sensors = ()

    def __init__(self, says: ResourceSnapshot) -> None:
        self.says = says
        self.is_closed = False

    def snapshot(self, now_s: float) -> ResourceSnapshot:
        """Say it."""
        return self.says

    def close(self) -> None:
        """Note it."""
        self.is_closed = True


HOST_SAYS = ResourceSnapshot(
    monotonic_s=1.0,
    source="host",
    usable_cpus=(0, 1),
    temperature_celsius=40.0,
    sensors=(SensorState(name="affinity", is_up=True),),
)
NOTHING = ResourceSnapshot(monotonic_s=2.0, source="nvml")


@pytest.mark.parametrize(
    ("kind", "source"), [("auto", "jetson"), ("jetson", "jetson"), ("host", "host"), ("nvml", "host")]
)
def test_on_a_jetson(tmp_path: Path, kind: MonitorKind, source: str) -> None:
    """auto finds the board; whatever is chosen, the host is read too."""
    write(tmp_path, {**HOST, **BOARD})
    monitor = choose_monitor(kind, tmp_path)
    monitor.read()  # on a busy machine a first reading may end before every file was read: those are in the second
    snapshot = monitor.read()
    monitor.close()
    assert snapshot.source == source
    assert snapshot.gpu_max_frequency_hz == (612e6 if source == "jetson" else None)
    assert snapshot.cpu_max_frequency_hz == 1.479e9


def test_on_a_host_that_is_no_jetson(tmp_path: Path) -> None:
    """auto on any Linux is the host alone, without a sensor that it lacks."""
    write(tmp_path, HOST)
    monitor = choose_monitor("auto", tmp_path)
    snapshot = monitor.read()
    monitor.close()
    assert snapshot.source == "host"
    assert not {"gpu", "power mode", "power", "jtop"} & {state.name for state in snapshot.sensors}


def test_jetson_asked_for_where_there_is_none(tmp_path: Path) -> None:
    """A board that was asked for and is not there is None, and no failure."""
    write(tmp_path, HOST)
    monitor = choose_monitor("jetson", tmp_path)
    snapshot = monitor.read()
    monitor.close()
    assert (snapshot.source, snapshot.gpu_max_frequency_hz) == ("host", None)
    assert all(state.is_up for state in snapshot.sensors)


def test_the_first_that_knows_a_field_is_believed() -> None:
    """The host's word stands; what it lacks comes from the next that has it; sensors are listed in that order."""
    board = replace(
        NOTHING,
        source="jetson",
        temperature_celsius=99.0,
        power_mode="5W",
        sensors=(SensorState(name="gpu", is_up=True),),
    )
    gpu = replace(
        NOTHING, power_mode="?", gpu_load_fraction=0.5, sensors=(SensorState(name="nvml", is_up=True),)
    )
    merged = MergedMonitor(Fixed(HOST_SAYS), [Fixed(board), Fixed(gpu)]).read()
    assert (merged.temperature_celsius, merged.power_mode, merged.gpu_load_fraction) == (40.0, "5W", 0.5)
    assert [state.name for state in merged.sensors] == ["affinity", "gpu", "nvml"]
    assert (merged.source, merged.monotonic_s) == ("jetson", 2.0)


def test_a_part_without_a_sensor_names_nothing() -> None:
    """A monitor that found nothing is not the source."""
    assert MergedMonitor(Fixed(HOST_SAYS), [Fixed(NOTHING)]).read().source == "host"


def test_closing_closes_all() -> None:
    """Every part is closed."""
    parts = [Fixed(HOST_SAYS), Fixed(NOTHING)]
    MergedMonitor(parts[0], parts[1:]).close()
    assert all(part.is_closed for part in parts)
