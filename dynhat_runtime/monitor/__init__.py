"""Sense: readings of the device as `ResourceSnapshot` values. Decides nothing.

A module belongs here if it turns sensors (or a recording of them) into snapshots. It stamps the time, and
says None for what the device lacks or cannot tell. What a reading means is the governor's affair.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

from dynhat_runtime.resource_snapshot import ResourceSnapshot

MonitorKind = Literal["auto", "host", "jetson", "nvml"]


class Monitor(Protocol):
    """Whatever can be asked for the device's resources now."""

    def read(self) -> ResourceSnapshot:
        """One reading. A failing sensor is None in it.

        Raises:
            MonitorError: There is nothing left to read, such as the end of a recording.
        """
        ...


class DeviceMonitor(Monitor, Protocol):
    """A monitor of a real device: it has threads or a process to end."""

    def close(self) -> None:
        """End them; harmless twice."""
        ...


# Rules:
#   1  The host is always read, whatever the device has besides.
#   2  jetson, or auto on a Jetson board: its GPU, power mode and power too.
#   3  nvml, or auto anywhere: the first discrete GPU too, from the moment the library answers.
def choose_monitor(kind: MonitorKind = "auto", root: Path = Path("/")) -> DeviceMonitor:
    """The monitor for this device.

    Args:
        kind: What to look for beside the host; auto finds out.
        root: Where `proc`, `sys`, `etc`, `var` and `run` are looked for.
    """
    # Imported here: whoever only needs the protocols above loads nothing.
    from dynhat_runtime.monitor.host import HostMonitor
    from dynhat_runtime.monitor.jetson import JetsonMonitor, is_jetson
    from dynhat_runtime.monitor.merged import MergedMonitor, Part
    from dynhat_runtime.monitor.nvml import NvmlMonitor

    others: list[Part] = []
    if kind == "jetson" or (kind == "auto" and is_jetson(root)):
        others.append(JetsonMonitor(root))
    if kind in ("auto", "nvml"):
        others.append(NvmlMonitor())
    return MergedMonitor(HostMonitor(root), others)
