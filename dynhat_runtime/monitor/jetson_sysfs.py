"""What a Jetson tells in plain files: its GPU (devfreq) and its power mode (nvpmodel). Needs no service, forks nothing.

Changes nothing. Each reader looks for its files at the first reading, and again after it lost them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dynhat_runtime.monitor.files import (
    FASTEST_BELIEVED_HZ,
    believable,
    frequency_hz,
    read_text,
    read_text_if_there,
)

GPU_NAMES = ("gpu", "gv11b", "gp10b", "ga10b")
"""One of these is in the device-tree name of every Jetson's GPU; Thor has `gpu-gpc-0` as the device's own name."""


@dataclass(frozen=True, slots=True)
class GpuReading:
    """The GPU's clock and its ceiling."""

    current_hz: float
    """0 while it is switched off."""
    max_hz: float
    load_fraction: float | None


class DevfreqGpu:
    """The GPU in /sys/class/devfreq, wherever the board has it."""

    def __init__(self, root: Path) -> None:
        """Name the place; `sys` is looked for under `root`."""
        self._directory = root / "sys/class/devfreq"
        self._device: Path | None = None

    def read(self) -> GpuReading | None:
        """Clock, ceiling and load; None on a device without such a GPU.

        Raises:
            OSError, ValueError: It is there, but cannot be read or is absurd.
        """
        device, self._device = self._device or self.find(), None
        if device is None:
            return None
        # As text: joining paths would take longer than reading the files.
        names = f"{device}/cur_freq", f"{device}/max_freq", f"{device}/device/load"
        current = believable(int(read_text(names[0])), 0, FASTEST_BELIEVED_HZ, names[0])
        ceiling = frequency_hz(int(read_text(names[1])), names[1])
        load = read_text_if_there(names[2])
        fraction = None if load is None else believable(int(load), 0, 1000, names[2]) / 1000.0
        self._device = device
        return GpuReading(current, ceiling, fraction)

    def find(self) -> Path | None:
        """Its directory, if there is one."""
        for device in sorted(self._directory.glob("*")):
            named = read_text_if_there(device / "device/of_node/name")
            name = device.name if named is None else named
            if any(part in name.lower() for part in GPU_NAMES):
                return device
        return None


class PowerMode:
    """The power mode that nvpmodel set last."""

    def __init__(self, root: Path) -> None:
        """Name the place; `var` and `etc` are looked for under `root`."""
        self._status = root / "var/lib/nvpmodel/status"
        self._conf = root / "etc/nvpmodel.conf"
        self._names: tuple[int, dict[int, str]] | None = None

    def read(self) -> str | None:
        """Its name, its number where no name is known; None where nvpmodel left no word.

        Raises:
            ValueError: The status is not nvpmodel's.
        """
        text = read_text_if_there(self._status)
        if text is None:
            return None
        found = re.match(r"\s*pmode:(\d{1,6})\b", text)
        if found is None:
            raise ValueError(f"{self._status} says {text[:40]!r}, not pmode: and a number")
        number = int(found[1])
        return self._known_names().get(number, str(number))

    def _known_names(self) -> dict[int, str]:
        """The modes of /etc/nvpmodel.conf, read again when it changed."""
        try:
            changed_ns = self._conf.stat().st_mtime_ns
            if self._names is None or self._names[0] != changed_ns:
                lines = self._conf.read_text(errors="replace")
                names = re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", lines)
                self._names = (changed_ns, {int(number): name for number, name in names})
        except OSError:  # a container may lack it; the number says enough
            return {}
        return self._names[1]
