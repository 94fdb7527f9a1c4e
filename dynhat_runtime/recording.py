"""Writes what a running daemon holds in its flight recorder, and goes on as it happens: `dynhat record`.

The daemon knows nothing of the file: a full disk ends the recording and nothing else.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from dynhat_runtime.daemon_client import ask_trace
from dynhat_runtime.errors import DaemonUnreachableError, SettingsError, TraceError
from dynhat_runtime.trace import MAX_PAGE_EVENTS, Gap, as_line

POLL_S = 0.5
PATIENCE_S = 10.0
"""A daemon that answered before may be silent for so long until it is given up."""


@dataclass(slots=True)
class Recorded:
    """What a recording holds."""

    num_events: int = 0
    num_lost: int = 0
    """Events that the daemon no longer held when it was asked."""
    ended_by: str = "told to stop"


class TraceRecording:
    """One recording of one run of a daemon, into one file."""

    def __init__(self, base_url: str, path: Path, max_mib: float) -> None:
        """Set up; nothing is asked or written yet.

        Args:
            base_url: Where the daemon listens.
            path: File to write; it must not hold anything yet.
            max_mib: Size at which to end.

        Raises:
            SettingsError: The size is none.
        """
        if not 0 < max_mib < math.inf:
            raise SettingsError(f"max_mib={max_mib}: give MiB above 0")
        self._base_url = base_url
        self._path = path
        self._max_bytes = max_mib * 2**20
        self._num_bytes = 0
        self._recorded = Recorded()

    def run(self, stopping: threading.Event, seconds: float | None = None) -> Recorded:
        """Record until `stopping` is set, time is up, the file is large enough, or the daemon ends.

        The daemon is asked once more at the end: everything until then is in the file.

        Args:
            stopping: Set by another thread or a signal handler.
            seconds: None sets no end.

        Raises:
            SettingsError: `seconds` is no time.
            DaemonUnreachableError: No daemon answers at first.
            TraceError: The file cannot be written. What is in it stays usable.
        """
        if seconds is not None and not 0 <= seconds < math.inf:
            raise SettingsError(f"seconds={seconds}: give seconds, 0 or more, or leave it out")
        page = ask_trace(self._base_url, 0)
        header = page["header"]
        ends_s = None if seconds is None else time.monotonic() + seconds
        is_last = False
        with self._opened() as file:
            self._write(file, json.dumps(header, separators=(",", ":")))
            while True:
                self._write_page(file, page)
                if self._num_bytes >= self._max_bytes:
                    self._recorded.ended_by = f"{self._path} has reached its size"
                    break
                has_more = len(page["events"]) == MAX_PAGE_EVENTS
                if is_last and not has_more:
                    break
                is_last = is_last or (not has_more and _wait(stopping, ends_s))
                following = self._ask(page["next"], stopping)
                if following is None or following["header"] != header:
                    self._recorded.ended_by = "the daemon ended"
                    break
                page = following
        return self._recorded

    def _ask(self, after: int, stopping: threading.Event) -> dict[str, Any] | None:
        """The next page; None from a daemon that stays away."""
        gives_up_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                return ask_trace(self._base_url, after)
            except DaemonUnreachableError:
                if time.monotonic() > gives_up_s or stopping.wait(POLL_S):
                    return None

    def _write_page(self, file: TextIO, page: dict[str, Any]) -> None:
        if page["lost"]:
            self._recorded.num_lost += page["lost"]
            self._write(file, as_line(Gap(num_lost=page["lost"])))
        for event in page["events"]:
            self._write(file, json.dumps(event, separators=(",", ":")))
            self._recorded.num_events += 1
        file.flush()

    def _write(self, file: TextIO, line: str) -> None:
        self._num_bytes += file.write(line + "\n")

    @contextmanager
    def _opened(self) -> Iterator[TextIO]:
        """The file; what goes wrong with it is said in our words."""
        if self._path.is_file() and self._path.stat().st_size:
            raise TraceError(f"trace {self._path}: is there already: give --out another name")
        try:
            with self._path.open("w", encoding="ascii") as file:
                yield file
        except OSError as error:
            raise TraceError(
                f"trace {self._path}: cannot be written ({os.strerror(error.errno or 0)}) after "
                f"{self._recorded.num_events} events: make room or give --out another place; the daemon goes on"
            ) from error


def _wait(stopping: threading.Event, ends_s: float | None) -> bool:
    """Wait for the next time to ask; True if that is the last one."""
    left_s = POLL_S if ends_s is None else min(POLL_S, max(ends_s - time.monotonic(), 0.0))
    return stopping.wait(left_s) or left_s < POLL_S


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, instead of what they do else."""
    stopping = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in numbers}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
