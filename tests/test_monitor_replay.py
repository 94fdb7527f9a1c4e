"""A recorded trace as a monitor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dynhat_runtime.errors import MonitorError
from dynhat_runtime.monitor import Monitor
from dynhat_runtime.monitor.replay import ReplayMonitor
from dynhat_runtime.trace import as_line
from tests.test_trace import DECISION, OBSERVATION, SNAPSHOT
from tests.test_trace_file import file_of


def test_snapshots_one_by_one(tmp_path: Path) -> None:
    """Every reading is the next recorded snapshot with its own time; whatever else was recorded is passed over."""
    later = replace(SNAPSHOT, monotonic_s=13.0, usable_cpus=(0,))
    monitor: Monitor = ReplayMonitor(
        file_of(tmp_path, as_line(OBSERVATION), *map(as_line, (SNAPSHOT, DECISION, later)), "{")
    )
    assert monitor.read() == replace(SNAPSHOT, source="replay")
    assert monitor.read() == replace(later, source="replay")


def test_the_end_is_an_error(tmp_path: Path) -> None:
    """After the last snapshot every reading says so, instead of repeating it."""
    monitor = ReplayMonitor(file_of(tmp_path, as_line(SNAPSHOT)))
    monitor.read()
    for _ in range(2):
        with pytest.raises(MonitorError, match="no more snapshots"):
            monitor.read()
