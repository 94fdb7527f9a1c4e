"""How hot the device is, and how much its cooling slows it down: thermal zones and cooling devices in /sys.

Switches nothing. Each reader looks for its files at the first reading, and again after it lost them.
"""

from __future__ import annotations

from pathlib import Path

from dynhat_runtime.monitor.files import (
    COLDEST_BELIEVED_CELSIUS,
    HOTTEST_BELIEVED_CELSIUS,
    read_text,
    read_text_if_there,
)

NOT_SLOWING = ("fan", "lcd", "backlight", "video", "tcc")
"""Parts of the types of cooling devices that cool, dim or only promise, and slow no computation down."""


class ThermalZones:
    """The device's thermometers."""

    def __init__(self, root: Path) -> None:
        """Name the place; `sys` is looked for under `root`."""
        self._directory = root / "sys/class/thermal"
        self._files: tuple[Path, ...] = ()

    def hottest_celsius(self) -> float | None:
        """The hottest believable zone; one that is switched off or absurd does not silence the others.

        Raises:
            OSError, ValueError: No zone is believable, and why the last one is not.
        """
        files = self._files or self._find()
        believed = []
        failure: OSError | ValueError | None = None
        for file in files:
            try:
                celsius = int(read_text(file)) / 1000.0
            except (OSError, ValueError) as error:
                failure = error
                continue
            if COLDEST_BELIEVED_CELSIUS <= celsius <= HOTTEST_BELIEVED_CELSIUS:
                believed.append(celsius)
            else:
                failure = ValueError(f"{file} says {celsius:g} C")
        self._files = files if believed else ()
        if not believed and failure is not None:
            raise failure
        return max(believed, default=None)

    def _find(self) -> tuple[Path, ...]:
        # Jetson's PMIC-Die is no measurement: tegrastats shows PMIC@100C or @50C whatever the load.
        return tuple(
            zone / "temp"
            for zone in sorted(self._directory.glob("thermal_zone*"))
            if "pmic" not in (read_text_if_there(zone / "type") or "").lower()
        )


class CoolingDevices:
    """What the kernel slows down to keep the device cool."""

    def __init__(self, root: Path) -> None:
        """Name the place; `sys` is looked for under `root`."""
        self._directory = root / "sys/class/thermal"
        self._devices: tuple[Path, ...] = ()

    def engaged_fraction(self) -> float | None:
        """State over highest state of the device most engaged, 0..1; None without such devices.

        Raises:
            OSError, ValueError: No device is believable, and why the last one is not.
        """
        devices = self._devices or self._find()
        engaged = []
        failure: OSError | ValueError | None = None
        for device in devices:
            try:
                state, highest = int(read_text(device / "cur_state")), int(read_text(device / "max_state"))
            except (OSError, ValueError) as error:
                failure = error
                continue
            if highest > 0 and 0 <= state <= highest:
                engaged.append(state / highest)
            elif highest != 0 and state != -1:  # no states to choose from; switched off
                failure = ValueError(f"{device} is in state {state} of {highest}")
        self._devices = devices if engaged else ()
        if not engaged and failure is not None:
            raise failure
        return max(engaged, default=None)

    def _find(self) -> tuple[Path, ...]:
        return tuple(
            device
            for device in sorted(self._directory.glob("cooling_device*"))
            if not any(word in (read_text_if_there(device / "type") or "").lower() for word in NOT_SLOWING)
        )
