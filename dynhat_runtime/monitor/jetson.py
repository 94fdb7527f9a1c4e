"""A Jetson board as a monitor: GPU, power mode, power, from plain files first, and from jtop what those lack.

Complete without jtop, which is asked only where a file is missing: each of its ticks costs the board a process.
Reads nothing that any Linux host has; `HostMonitor` does that, and `merged.py` joins them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dynhat_runtime.monitor import jtop_link
from dynhat_runtime.monitor.jetson_sysfs import DevfreqGpu, PowerMode
from dynhat_runtime.monitor.jtop_link import JtopLink, JtopValues
from dynhat_runtime.monitor.power import TotalRail
from dynhat_runtime.monitor.sensor import SLOW_S, Sensor, SensorReader
from dynhat_runtime.resource_snapshot import ResourceSnapshot

NVIDIA_BOARDS = ("jetson", "tegra", "nvidia")
"""One of these is in the device tree's model or compatible."""
IDLE_S = 30.0
"""jtop is let go when the files have told all for so long."""


class JetsonMonitor:
    """Reads what a Jetson has beyond a Linux host. Not thread-safe: one caller at a time."""

    def __init__(
        self,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
        jtop_command: Sequence[str] = jtop_link.COMMAND,
    ) -> None:
        """Name the sensors; each is looked for when it is first read.

        Args:
            root: Where `sys`, `var`, `etc` and `run` are looked for.
            clock: Stamps the snapshots, in seconds.
            jtop_command: Follows the jtop service.
        """
        self._link = JtopLink(root, clock, jtop_command)
        self._power_mode = Sensor("power mode", PowerMode(root).read)
        self._gpu = Sensor("gpu", DevfreqGpu(root).read)
        self._power = Sensor("power", TotalRail(root).power_mw, period_s=SLOW_S)
        self._jtop: Sensor[JtopValues] = Sensor("jtop", self._link.read, pauses=jtop_link.PAUSES)
        self._file_reader = SensorReader((self._power_mode, self._gpu, self._power), clock)
        self._jtop_reader = SensorReader((self._jtop,), clock)
        self._needed_s = float("-inf")

    def read(self) -> ResourceSnapshot:
        """One reading. Never raises for a failing sensor, never waits long for one that hangs."""
        return self.snapshot(self._file_reader.refresh())

    @property
    def sensors(self) -> tuple[Sensor[Any], ...]:
        """Those on files, which `snapshot` tells of."""
        return self._file_reader.sensors

    def snapshot(self, now_s: float) -> ResourceSnapshot:
        """What the files last said, and what jtop says where one lacks: it is asked here."""
        mode, gpu = self._power_mode.value(now_s), self._gpu.value(now_s)
        power_mw = self._power.value(now_s)
        if mode is None or gpu is None or power_mw is None:
            self._needed_s = now_s
        is_jtop_asked = now_s - self._needed_s <= IDLE_S
        if is_jtop_asked:
            if self._link.has_new_socket():
                self._jtop.hasten()
            now_s = self._jtop_reader.refresh()
        else:
            self._link.close()
        said = _AsSnapshot(self._jtop.value(now_s) or {})
        return ResourceSnapshot(
            monotonic_s=now_s,
            source="jetson",
            online_cpus=said.cpus("online_cpus"),
            cpu_current_frequency_hz=said.number("cpu_current_frequency_hz"),
            cpu_max_frequency_hz=said.number("cpu_max_frequency_hz"),
            gpu_current_frequency_hz=said.number("gpu_current_frequency_hz")
            if gpu is None
            else gpu.current_hz,
            gpu_max_frequency_hz=said.number("gpu_max_frequency_hz") if gpu is None else gpu.max_hz,
            gpu_load_fraction=said.number("gpu_load_fraction") if gpu is None else gpu.load_fraction,
            power_mode=said.text("power_mode") if mode is None else mode,
            power_mw=said.number("power_mw") if power_mw is None else power_mw,
            temperature_celsius=said.number("temperature_celsius"),
            memory_total_mib=said.number("memory_total_mib"),
            memory_available_mib=said.number("memory_available_mib"),
            sensors=(*self._file_reader.states(), *(self._jtop_reader.states() if is_jtop_asked else ())),
        )

    def close(self) -> None:
        """End the reading threads and jtop's process."""
        self._file_reader.close()
        self._jtop_reader.close()
        self._link.close()


class _AsSnapshot:
    """jtop's values with the snapshot's types; what it did not say is None."""

    def __init__(self, values: JtopValues) -> None:
        self._values = values

    def number(self, name: str) -> float | None:
        value = self._values.get(name)
        return value if isinstance(value, float) else None

    def text(self, name: str) -> str | None:
        value = self._values.get(name)
        return value if isinstance(value, str) else None

    def cpus(self, name: str) -> tuple[int, ...] | None:
        value = self._values.get(name)
        return value if isinstance(value, tuple) else None


def is_jetson(root: Path = Path("/")) -> bool:
    """Whether this is an NVIDIA board, by device tree, release file, GPU or jtop's socket."""
    for name in ("model", "compatible"):
        try:
            text = (root / "proc/device-tree" / name).read_text(errors="replace").lower()
        except OSError:
            continue
        if any(word in text for word in NVIDIA_BOARDS):
            return True
    if (root / "etc/nv_tegra_release").exists() or (root / jtop_link.SOCKET).exists():
        return True
    return DevfreqGpu(root).find() is not None
