"""A trace as a file, read line by line: a broken line is named and skipped, the rest stays usable. Writes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from dynhat_runtime.errors import TraceError
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from dynhat_runtime.trace import MAX_LINE_BYTES, Event, Gap, TraceHeader, parse_line

MAX_NAMED_FLAWS = 20
REMEDY = "record one with 'dynhat record'"


@dataclass(slots=True)
class Flaws:
    """What was not as it should be, as far as the file has been read."""

    num_broken: int = 0
    """Lines that could not be used."""
    num_unknown: int = 0
    """Lines of a kind that this version does not know."""
    num_lost: int = 0
    """Lines that were never written, by what the gaps say."""
    first: tuple[str, ...] = ()
    """The first of the broken lines, each by its number and with what is wrong."""

    def add_broken(self, number: int, error: TraceError) -> None:
        """Count a line, and name it if it is among the first."""
        self.num_broken += 1
        if len(self.first) < MAX_NAMED_FLAWS:
            self.first = (*self.first, f"line {number}: {error}")

    def lines(self) -> Iterator[str]:
        """All of it, for people."""
        yield from self.first
        if self.num_broken:
            yield f"{self.num_broken} lines are broken and were left out"
        if self.num_unknown:
            yield f"{self.num_unknown} lines are of a kind that this version does not know"
        if self.num_lost:
            yield f"{self.num_lost} events were not recorded"


class TraceFile:
    """One trace. However large it is, a line at a time is in memory."""

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            TraceError: There is no such file, or it does not begin with a header of this format.
        """
        self.path = path
        self.flaws = Flaws()
        self.header = self._read_header()

    def events(self) -> Iterator[Event]:
        """Everything after the header, in order; `flaws` counts from nothing again, and along."""
        self.flaws = Flaws()
        last_s: float | None = None
        with self._open() as file:
            for number, line in _lines(file):
                if number == 1:
                    continue
                try:
                    event = _parse_event(line, last_s)
                except TraceError as error:
                    self.flaws.add_broken(number, error)
                    continue
                if event is None:
                    self.flaws.num_unknown += 1
                    continue
                if isinstance(event, ResourceSnapshot):
                    last_s = event.monotonic_s
                elif isinstance(event, Gap):
                    self.flaws.num_lost += event.num_lost
                yield event

    def _read_header(self) -> TraceHeader:
        with self._open() as file:
            first = next(_lines(file), None)
        if first is None:
            raise TraceError(f"trace {self.path}: is empty: {REMEDY}")
        try:
            header = _parse(first[1])
        except TraceError as error:
            raise TraceError(f"trace {self.path}: line 1: {error}: {REMEDY}") from None
        if not isinstance(header, TraceHeader):
            raise TraceError(f"trace {self.path}: line 1: is no header: {REMEDY}")
        return header

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise TraceError(f"trace {self.path}: cannot be read ({error.strerror}): {REMEDY}") from error


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Number and content of every line, from 1; None where it is too long."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) <= MAX_LINE_BYTES or line.endswith(b"\n"):
            yield number, line.rstrip(b"\r\n")
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES)
        yield number, None


def _parse(line: bytes | None) -> Event | TraceHeader | None:
    if line is None:
        raise TraceError(f"is longer than {MAX_LINE_BYTES} bytes")
    return parse_line(line)


def _parse_event(line: bytes | None, last_s: float | None) -> Event | None:
    """The event on a line.

    Args:
        line: Its content.
        last_s: Of the snapshot before: time only goes on.
    """
    event = _parse(line)
    if isinstance(event, TraceHeader):
        raise TraceError("is a second header: every recording is a file of its own")
    if isinstance(event, ResourceSnapshot) and last_s is not None and event.monotonic_s < last_s:
        raise TraceError(f"monotonic_s: {event.monotonic_s} is before {last_s}, the snapshot before it")
    return event
