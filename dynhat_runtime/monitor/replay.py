"""A recorded trace as a monitor: the snapshots that were read then, one per reading, with their own times.

Waits for nothing: who wants the pace of the recording has to keep it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from dynhat_runtime.errors import MonitorError
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from dynhat_runtime.trace_file import TraceFile


class ReplayMonitor:
    """Reads a trace to its end. Not thread-safe: one caller at a time."""

    def __init__(self, path: Path) -> None:
        """Open the trace.

        Raises:
            TraceError: It is none.
        """
        self._trace = TraceFile(path)
        self._snapshots = (event for event in self._trace.events() if isinstance(event, ResourceSnapshot))

    def read(self) -> ResourceSnapshot:
        """The next recorded snapshot; its source is `replay`.

        Raises:
            MonitorError: The trace has no more.
        """
        snapshot = next(self._snapshots, None)
        if snapshot is None:
            raise MonitorError(f"trace {self._trace.path}: has no more snapshots")
        return replace(snapshot, source="replay")
