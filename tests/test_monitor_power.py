"""Tests of dynhat_runtime.monitor.power: batteries and INA3221 rails in a fake root."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynhat_runtime.monitor.power import Batteries, BatteryReading, TotalRail
from tests.sensor_files import write

SUPPLY = "sys/class/power_supply"
I2C = "sys/bus/i2c/devices"


def supplies(root: Path, **supplies: dict[str, str]) -> BatteryReading | None:
    """A reading of these supplies."""
    for name, files in supplies.items():
        write(root, {f"{SUPPLY}/{name}/{file}": text for file, text in files.items()})
    return Batteries(root).read()


def battery(status: str, capacity: str | None = "80") -> dict[str, str]:
    """Files of a battery."""
    charge = {} if capacity is None else {"capacity": capacity}
    return {"type": "Battery", "status": status, **charge}


@pytest.mark.parametrize(
    ("status", "mains", "is_on_battery"),
    [("Discharging", "0", True), ("Discharging", "1", False), ("Charging", "1", False), ("Full", "1", False)],
)
def test_on_battery(tmp_path: Path, status: str, mains: str, is_on_battery: bool) -> None:
    """It runs on its battery when that discharges and no mains are online."""
    reading = supplies(tmp_path, BAT0=battery(status), AC={"type": "Mains", "online": mains})
    assert reading == BatteryReading(0.8, is_on_battery)


def test_two_batteries(tmp_path: Path) -> None:
    """The charge is their mean; one that discharges is enough."""
    reading = supplies(tmp_path, BAT0=battery("Full", "100"), BAT1=battery("Discharging", "50"))
    assert reading == BatteryReading(0.75, True)


def test_a_battery_that_tells_no_charge(tmp_path: Path) -> None:
    """Whether it is used is still told."""
    assert supplies(tmp_path, BAT0=battery("Discharging", None)) == BatteryReading(None, True)


def test_a_mouse_is_not_the_device(tmp_path: Path) -> None:
    """The battery of something attached is none of ours, and mains alone are no battery."""
    mouse = {**battery("Discharging"), "scope": "Device"}
    assert supplies(tmp_path, mouse=mouse, AC={"type": "Mains", "online": "1"}) is None


def rail(chip: str, channel: int, label: str, millivolts: int, milliamperes: int) -> dict[str, str]:
    """Files of one channel."""
    folder = f"{I2C}/{chip}"
    return {
        f"{folder}/in{channel}_label": label,
        f"{folder}/in{channel}_input": str(millivolts),
        f"{folder}/curr{channel}_input": str(milliamperes),
    }


@pytest.mark.parametrize("total", ["POM_5V_IN", "VDD_IN", "VIN"])
def test_the_total_rail_is_found_by_its_name(tmp_path: Path, total: str) -> None:
    """Whatever chip and channel it is on, and whatever other rails there are."""
    write(tmp_path, rail("1-0040/hwmon/hwmon4", 1, "VDD_GPU_SOC", 5000, 200))
    write(tmp_path, rail("1-0041/hwmon/hwmon5", 3, total, 19000, 500))
    assert TotalRail(tmp_path).power_mw() == 9500.0


def test_parts_are_not_taken_for_the_whole(tmp_path: Path) -> None:
    """A board that measures only parts of itself has no total."""
    write(tmp_path, rail("1-0040/hwmon/hwmon4", 1, "VDD_GPU_SOC", 5000, 200))
    assert TotalRail(tmp_path).power_mw() is None


def test_a_chip_that_comes_back_under_another_number(tmp_path: Path) -> None:
    """hwmon numbers change when a driver is loaded again: the rail is looked for anew."""
    write(tmp_path, rail("1-0040/hwmon/hwmon4", 1, "VDD_IN", 5000, 200))
    total = TotalRail(tmp_path)
    assert total.power_mw() == 1000.0
    (tmp_path / I2C / "1-0040/hwmon/hwmon4").rename(tmp_path / I2C / "1-0040/hwmon/hwmon9")
    with pytest.raises(FileNotFoundError):
        total.power_mw()
    assert total.power_mw() == 1000.0
