"""A monitor and an engine for tests of the control loop: the one reads, the other does, what the test says."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from dynhat_runtime.resource_snapshot import ResourceSnapshot

FOUR_CPUS = ResourceSnapshot(monotonic_s=100.0, source="scripted", usable_cpus=(0, 1, 2, 3))
ONE_CPU = replace(FOUR_CPUS, usable_cpus=(0,))


class ScriptedMonitor:
    """Reads whatever the test put there; time goes on by one second per reading."""

    def __init__(self, snapshot: ResourceSnapshot) -> None:
        self.snapshot = snapshot
        self.failure: Exception | None = None
        self.num_reads = 0

    def read(self) -> ResourceSnapshot:
        """The scripted snapshot, a second later each time, or the scripted failure."""
        self.num_reads += 1
        if self.failure is not None:
            raise self.failure
        return replace(self.snapshot, monotonic_s=self.snapshot.monotonic_s + self.num_reads)


class HangingMonitor(ScriptedMonitor):
    """Hangs in every reading until it is released."""

    def __init__(self, snapshot: ResourceSnapshot) -> None:
        super().__init__(snapshot)
        self.hanging, self.release = threading.Event(), threading.Event()

    def read(self) -> ResourceSnapshot:
        """The scripted snapshot, once released."""
        self.hanging.set()
        self.release.wait(10.0)
        return super().read()


class RecordingEngine:
    """Switches at once and remembers every call in order."""

    def __init__(self, active_point_id: str) -> None:
        self.active_point_id = active_point_id
        self.calls: list[tuple[str, object]] = []
        self.switch_failure: Exception | None = None
        self.follow_failure: Exception | None = None

    def switch_to(self, point_id: str) -> None:
        """Switch, or fail as told."""
        self.calls.append(("switch_to", point_id))
        if self.switch_failure is not None:
            raise self.switch_failure
        self.active_point_id = point_id

    def follow_cpus(self, cpus: tuple[int, ...]) -> None:
        """Take note, or fail as told."""
        self.calls.append(("follow_cpus", cpus))
        if self.follow_failure is not None:
            raise self.follow_failure


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait, at most five seconds, for the loop's thread to bring `condition` about."""
    end_s = time.monotonic() + 5.0
    while not condition():
        assert time.monotonic() < end_s, "the loop's thread did not get there"
        time.sleep(0.002)
