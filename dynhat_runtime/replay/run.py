"""Replays a trace file: the figures, and where asked for a folder with the decisions and the plot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from dynhat_runtime.errors import TraceError
from dynhat_runtime.governor.decision import Decision
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.replay.plot import draw
from dynhat_runtime.replay.plot_series import PlotSeries
from dynhat_runtime.replay.replayer import Decided, Replayer
from dynhat_runtime.replay.summary import ReplaySummary, Tally
from dynhat_runtime.trace import TraceHeader, as_line
from dynhat_runtime.trace_file import Flaws, TraceFile
from dynhat_runtime.trace_ring import traced

SUMMARY, DECISIONS, PLOT = "summary.json", "decisions.jsonl", "replay.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What came out."""

    header: TraceHeader
    rules: GovernorRules
    flaws: Flaws
    summary: ReplaySummary

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "trace": asdict(self.header),
            "flaws": asdict(self.flaws),
            "rules": asdict(self.rules),
            **asdict(self.summary),
        }


def replay_trace(
    trace: TraceFile, table: OperatingPointTable, rules: GovernorRules, out: Path | None = None
) -> Replay:
    """Run the governor over `trace`.

    Args:
        trace: The recording.
        table: The points that were served, as `find_table` gives them.
        rules: To decide by.
        out: Folder for `summary.json`, `decisions.jsonl` and `replay.png`; None writes nothing.

    Raises:
        TraceError: The trace has nothing to decide on, or the folder cannot be written.
        SettingsError: The rules ask what the table cannot answer, or what draws the plot is not installed.
        UnknownOperatingPointError: The trace names a point that the table does not have.
    """
    tally, series = Tally(table, rules), PlotSeries()
    with _decisions_file(out) as file:
        for step in Replayer(table, rules).steps(trace.events()):
            tally.add(step)
            series.add(step)
            if file is not None and isinstance(step, Decided):
                file.write(_decision_line(step.decision) + "\n")
    summary = tally.summary()
    if not summary.num_decisions:
        raise TraceError(f"trace {trace.path}: has no snapshot to decide on{_first_flaw(trace.flaws)}")
    replay = Replay(header=trace.header, rules=rules, flaws=trace.flaws, summary=summary)
    if out is not None:
        with _written_to(out):
            (out / SUMMARY).write_text(json.dumps(replay.as_dict(), indent=1) + "\n", encoding="utf-8")
            draw(series, table, rules, trace.header, out / PLOT)
    return replay


def _decision_line(decision: Decision) -> str:
    """As a trace has it, and why."""
    return as_line(replace(traced(decision), reason=decision.reason))


def _first_flaw(flaws: Flaws) -> str:
    return f" ({flaws.num_broken} broken lines, first {flaws.first[0]})" if flaws.first else ""


@contextmanager
def _decisions_file(out: Path | None) -> Iterator[TextIO | None]:
    if out is None:
        yield None
        return
    with _written_to(out):
        out.mkdir(parents=True, exist_ok=True)
        with (out / DECISIONS).open("w", encoding="utf-8", newline="\n") as file:
            yield file


@contextmanager
def _written_to(out: Path) -> Iterator[None]:
    """Say in our words what goes wrong with the folder."""
    try:
        yield
    except OSError as error:
        raise TraceError(
            f"{out}: cannot be written ({error.strerror}): give --out a folder you may write to"
        ) from error
