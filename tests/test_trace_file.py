"""Trace files: broken lines are named and left out, the rest stays usable, however large the file is."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest

from dynhat_runtime.errors import TraceError
from dynhat_runtime.trace import MAX_LINE_BYTES, Event, Gap, as_line
from dynhat_runtime.trace_file import MAX_NAMED_FLAWS, TraceFile
from tests.test_trace import DECISION, HEADER, OBSERVATION, SNAPSHOT

EVENTS: list[Event] = [SNAPSHOT, DECISION, OBSERVATION, replace(SNAPSHOT, monotonic_s=12.5)]


def file_of(folder: Path, *lines: str | bytes) -> Path:
    """A file of these lines, after the header."""
    path = folder / "trace.jsonl"
    encoded = [line if isinstance(line, bytes) else line.encode() for line in (as_line(HEADER), *lines)]
    path.write_bytes(b"".join(line + b"\n" for line in encoded))
    return path


def test_whole_file(tmp_path: Path) -> None:
    """Header and events come back as they were written, as often as they are asked for, and nothing is flawed."""
    trace = TraceFile(file_of(tmp_path, *map(as_line, EVENTS)))
    assert trace.header == HEADER
    assert list(trace.events()) == EVENTS
    assert list(trace.events()) == EVENTS
    assert list(trace.flaws.lines()) == []


def test_broken_lines_are_named_by_number(tmp_path: Path) -> None:
    """A broken line is named by its number in the file and what is wrong; all others are used."""
    broken = as_line(OBSERVATION).replace("41.5", '"soon"')
    lines = [as_line(SNAPSHOT), broken, as_line(DECISION), "", b"\x80junk", as_line(OBSERVATION)]
    trace = TraceFile(file_of(tmp_path, *lines))
    assert list(trace.events()) == [SNAPSHOT, DECISION, OBSERVATION]
    assert trace.flaws.num_broken == 3
    assert [line.split(":")[0] for line in trace.flaws.first] == ["line 3", "line 5", "line 6"]
    assert trace.flaws.first[0].startswith("line 3: elapsed_ms: ")
    assert list(trace.flaws.lines())[-1] == "3 lines are broken and were left out"


def test_a_cut_end_is_one_broken_line(tmp_path: Path) -> None:
    """A recording that ended in the middle of a line is usable up to that line."""
    path = file_of(tmp_path, *map(as_line, EVENTS))
    path.write_bytes(path.read_bytes()[:-20])
    trace = TraceFile(path)
    assert list(trace.events()) == EVENTS[:-1]
    assert trace.flaws.first[0].startswith("line 5: ")


def test_unknown_kinds_are_counted_apart(tmp_path: Path) -> None:
    """Lines of a later version's kinds are skipped with a count, and are not called broken."""
    trace = TraceFile(file_of(tmp_path, '{"kind":"weather"}', as_line(SNAPSHOT), '{"kind":"weather"}'))
    assert list(trace.events()) == [SNAPSHOT]
    assert (trace.flaws.num_unknown, trace.flaws.num_broken) == (2, 0)


def test_lost_events_are_counted(tmp_path: Path) -> None:
    """Gaps add up."""
    trace = TraceFile(file_of(tmp_path, *(as_line(Gap(num_lost=number)) for number in (3, 4))))
    assert len(list(trace.events())) == 2
    assert trace.flaws.num_lost == 7


def test_time_only_goes_on(tmp_path: Path) -> None:
    """A snapshot from before the one above it is broken, and does not become the measure of the next."""
    later, between = replace(SNAPSHOT, monotonic_s=20.0), replace(SNAPSHOT, monotonic_s=15.0)
    trace = TraceFile(file_of(tmp_path, *map(as_line, (later, SNAPSHOT, between, later))))
    assert list(trace.events()) == [later, later]
    assert [line[:6] for line in trace.flaws.first] == ["line 3", "line 4"]


def test_a_second_header_is_broken(tmp_path: Path) -> None:
    """Two recordings in one file are not taken for one."""
    trace = TraceFile(file_of(tmp_path, as_line(SNAPSHOT), as_line(HEADER)))
    assert list(trace.events()) == [SNAPSHOT]
    assert "second header" in trace.flaws.first[0]


@pytest.mark.parametrize("excess", [1, MAX_LINE_BYTES, 3 * MAX_LINE_BYTES + 7])
def test_an_overlong_line_is_one_broken_line(tmp_path: Path, excess: int) -> None:
    """A line of any length counts once, and the line after it is read from its beginning."""
    trace = TraceFile(file_of(tmp_path, "x" * (MAX_LINE_BYTES + excess), as_line(SNAPSHOT)))
    assert list(trace.events()) == [SNAPSHOT]
    assert trace.flaws.first == (f"line 2: is longer than {MAX_LINE_BYTES} bytes",)


def test_many_broken_lines_are_not_all_named(tmp_path: Path) -> None:
    """However many lines are broken, only the first are named; the count is of all."""
    trace = TraceFile(file_of(tmp_path, *["{"] * 500, as_line(SNAPSHOT)))
    assert list(trace.events()) == [SNAPSHOT]
    assert (trace.flaws.num_broken, len(trace.flaws.first)) == (500, MAX_NAMED_FLAWS)


def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    """Reading 12 MB of lines, one of 4 MB among them, holds less than 1 MB at any time."""
    path = file_of(tmp_path)
    line = as_line(OBSERVATION).encode() + b"\n"
    with path.open("ab") as file:
        for _ in range(10):
            file.write(line * (800_000 // len(line)))
        file.write(b"y" * 4_000_000 + b"\n")
    trace = TraceFile(path)
    tracemalloc.start()
    try:
        num_events = sum(1 for _ in trace.events())
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert num_events == 10 * (800_000 // len(line))
    assert peak_bytes < 1_000_000


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"\n", "line 1: is no JSON"),
        (b"\x7fELF\x00\x00", "line 1: is no JSON"),
        (as_line(SNAPSHOT).encode(), "line 1: is no header"),
        (b'{"kind":"weather"}', "line 1: is no header"),
        (
            as_line(HEADER).replace('"format_version":1', '"format_version":9').encode(),
            "line 1: format_version: 9",
        ),
    ],
)
def test_not_a_trace(tmp_path: Path, content: bytes, complaint: str) -> None:
    """A file that does not begin with a header of this format is refused, with its name and the remedy."""
    path = tmp_path / "other.jsonl"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=complaint) as raised:
        TraceFile(path)
    assert str(path) in str(raised.value)
    assert "dynhat record" in str(raised.value)


def test_no_such_file(tmp_path: Path) -> None:
    """A missing file and a folder are said to be unreadable, by name."""
    for path in (tmp_path / "missing.jsonl", tmp_path):
        with pytest.raises(TraceError, match=f"{path}: cannot be read"):
            TraceFile(path)
