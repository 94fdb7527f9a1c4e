"""Tests of dynhat_runtime.monitor.thermal: zones and cooling devices in a fake root."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynhat_runtime.monitor.host import HostMonitor
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from tests.sensor_files import write


def read(root: Path, files: dict[str, str]) -> ResourceSnapshot:
    """One reading of a host that has these files."""
    write(root, files)
    return HostMonitor(root).read()


def thermal(zones: dict[str, str]) -> dict[str, str]:
    """Files of thermal zones, by type."""
    files: dict[str, str] = {}
    for number, (kind, temp) in enumerate(zones.items()):
        files[f"sys/class/thermal/thermal_zone{number}/type"] = kind
        files[f"sys/class/thermal/thermal_zone{number}/temp"] = temp
    return files


def test_temperature_is_the_hottest_zone_in_celsius(tmp_path: Path) -> None:
    """Milli-degrees become degrees, and the hottest zone counts."""
    files = thermal({"CPU-therm": "41500", "GPU-therm": "52250", "AO-therm": "39000"})
    assert read(tmp_path, files).temperature_celsius == 52.25


@pytest.mark.parametrize("nonsense", ["200000", "-127000", "", "off"])
def test_a_nonsensical_zone_does_not_silence_the_others(tmp_path: Path, nonsense: str) -> None:
    """A zone that is absurd or unreadable is passed over."""
    files = thermal({"CPU-therm": "41500", "broken": nonsense})
    assert read(tmp_path, files).temperature_celsius == 41.5


def test_only_nonsense_is_no_temperature(tmp_path: Path) -> None:
    """Without a believable zone there is no temperature."""
    assert read(tmp_path, thermal({"broken": "-127000"})).temperature_celsius is None


def test_the_pmic_zone_is_not_believed(tmp_path: Path) -> None:
    """Jetson's PMIC zone, a constant, never counts as the hottest."""
    files = thermal({"PMIC-Die": "100000", "CPU-therm": "41500"})
    assert read(tmp_path, files).temperature_celsius == 41.5


def cooling(devices: dict[str, tuple[int, int]]) -> dict[str, str]:
    """Files of cooling devices: state and highest state, by type."""
    files: dict[str, str] = {}
    for number, (kind, (state, highest)) in enumerate(devices.items()):
        folder = f"sys/class/thermal/cooling_device{number}"
        files |= {
            f"{folder}/type": kind,
            f"{folder}/cur_state": str(state),
            f"{folder}/max_state": str(highest),
        }
    return files


def test_cooling_is_the_most_engaged_device(tmp_path: Path) -> None:
    """State over highest state; the device that slows down most counts."""
    files = cooling({"thermal-cpufreq-0": (1, 4), "thermal-devfreq-0": (6, 8), "Processor": (0, 3)})
    assert read(tmp_path, files).cooling_state_fraction == 0.75


@pytest.mark.parametrize("kind", ["pwm-fan", "Fan", "acpi_video0", "TCC Offset"])
def test_what_slows_nothing_down_is_no_throttling(tmp_path: Path, kind: str) -> None:
    """A fan at full speed, or a dimmed screen, is no throttling."""
    files = cooling({kind: (3, 3), "thermal-cpufreq-0": (0, 4)})
    assert read(tmp_path, files).cooling_state_fraction == 0.0


@pytest.mark.parametrize("state", [(-1, 50), (0, 0)])
def test_a_cooling_device_that_is_switched_off(tmp_path: Path, state: tuple[int, int]) -> None:
    """Such as intel_powerclamp: it counts for nothing, and is no failure."""
    snapshot = read(tmp_path, cooling({"intel_powerclamp": state}))
    assert snapshot.cooling_state_fraction is None
    assert "cooling" not in {sensor.name for sensor in snapshot.sensors}
