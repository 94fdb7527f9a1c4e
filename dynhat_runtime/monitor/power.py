"""Where the power comes from and how much there is: batteries, and the rails of a Jetson's INA3221 chips.

Switches nothing. Each reader looks for its files at the first reading, and again after it lost them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dynhat_runtime.monitor.files import believable, read_text, read_text_if_there

TOTAL_RAILS = ("POM_5V_IN", "VDD_IN", "VIN")
"""What the rail is called that feeds the whole board, on Nano and TX, Xavier NX and Orin, and carriers."""
HIGHEST_BELIEVED_MV = 60_000.0
HIGHEST_BELIEVED_MA = 40_000.0
NUM_INA3221_CHANNELS = 3


@dataclass(frozen=True, slots=True)
class BatteryReading:
    """The device's own batteries."""

    charge_fraction: float | None
    """Mean over the batteries, 0..1; None if none tells."""
    is_on_battery: bool


class Batteries:
    """The power supplies in /sys."""

    def __init__(self, root: Path) -> None:
        """Name the place; `sys` is looked for under `root`."""
        self._directory = root / "sys/class/power_supply"
        self._batteries: tuple[Path, ...] = ()
        self._mains: tuple[Path, ...] = ()

    def read(self) -> BatteryReading | None:
        """Charge and whether it is used; None on a device without a battery.

        Raises:
            OSError, ValueError: A battery that is there cannot be read or is absurd.
        """
        if not self._batteries:
            self._find()
        if not self._batteries:
            return None
        try:
            return self._read()
        except (OSError, ValueError):
            self._batteries = ()
            raise

    def _read(self) -> BatteryReading:
        charges = [
            believable(float(text), 0.0, 100.0, f"{battery / 'capacity'}") / 100.0
            for battery in self._batteries
            if (text := read_text_if_there(battery / "capacity")) is not None
        ]
        is_discharging = any(
            read_text(battery / "status").strip().lower() == "discharging" for battery in self._batteries
        )
        has_mains = any((read_text_if_there(mains / "online") or "").strip() == "1" for mains in self._mains)
        return BatteryReading(
            sum(charges) / len(charges) if charges else None, is_discharging and not has_mains
        )

    def _find(self) -> None:
        by_kind: dict[str, list[Path]] = {}
        for supply in sorted(self._directory.glob("*")):
            # A mouse's battery is not ours: its scope is Device.
            if (read_text_if_there(supply / "scope") or "").strip() != "Device":
                kind = (read_text_if_there(supply / "type") or "").strip()
                by_kind.setdefault(kind, []).append(supply)
        self._mains = tuple(by_kind.get("Mains", []))
        self._batteries = tuple(by_kind.get("Battery", []))


class TotalRail:
    """The INA3221 channel that measures what the whole board draws."""

    def __init__(self, root: Path) -> None:
        """Name the place; `sys` is looked for under `root`."""
        self._directory = root / "sys/bus/i2c/devices"
        self._channel: tuple[Path, Path] | None = None

    def power_mw(self) -> float | None:
        """Milliwatts; None on a board without such a channel, whose other rails say nothing of the whole.

        Raises:
            OSError, ValueError: The channel cannot be read or is absurd.
        """
        channel = self._channel or self._find()
        if channel is None:
            return None
        millivolts_file, milliamperes_file = channel
        self._channel = None
        millivolts = float(read_text(millivolts_file))
        milliamperes = float(read_text(milliamperes_file))
        believable(millivolts, 0.0, HIGHEST_BELIEVED_MV, f"{millivolts_file}")
        believable(milliamperes, 0.0, HIGHEST_BELIEVED_MA, f"{milliamperes_file}")
        self._channel = channel
        return millivolts * milliamperes / 1000.0

    def _find(self) -> tuple[Path, Path] | None:
        channels: dict[str, tuple[Path, Path]] = {}
        for chip in sorted(self._directory.glob("*/hwmon/hwmon*")):
            for number in range(1, NUM_INA3221_CHANNELS + 1):
                label = (read_text_if_there(chip / f"in{number}_label") or "").strip()
                channels.setdefault(label, (chip / f"in{number}_input", chip / f"curr{number}_input"))
        return next((channels[rail] for rail in TOTAL_RAILS if rail in channels), None)
