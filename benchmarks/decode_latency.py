"""Latency of single sentences, both engines in turns, as rows: one per shape, length, beam, threads and precision.

A row that is finished is kept at once (`RowFile`), so that a run which was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.decode_engines import PRECISIONS, Absent, Decoder, Engines
from benchmarks.decode_floor import Roof, Work
from benchmarks.figures import BenchmarkError
from dynhat_runtime.operating_point import Precision

SETTLE_S = 0.02
"""Pause between turns at more than one thread: the other engine's threads look for work a while before they sleep."""


@dataclass(frozen=True, slots=True)
class Case:
    """What one row measures: `num_tokens` source tokens, and as many decoder steps."""

    shape: str
    num_tokens: int
    beam: int
    threads: int
    precision: Precision


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Of at least one sample."""
        if len(samples) == 1:
            return cls(samples[0], samples[0], samples[0])
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured of one case. `ratio_to_ctranslate2` is one of medians, its quartiles are of the pairs'.

    Attributes:
        why_not: Why `ours_ms` is None.
        eager_ms: The baseline, measured beside fp32 only.
        has_equal_output: Whether both engines said the same, eos aside; told of greedy search in fp32.
    """

    shape: str
    num_tokens: int
    beam: int
    threads: int
    precision: Precision
    num_pairs: int
    ours_ms: float | None
    ours_low_ms: float | None
    ours_high_ms: float | None
    ctranslate2_ms: float
    ctranslate2_low_ms: float
    ctranslate2_high_ms: float
    ratio_to_ctranslate2: float | None
    ratio_low: float | None
    ratio_high: float | None
    floor_ms: float
    encoder_floor_ms: float
    times_floor: float | None
    ctranslate2_times_floor: float
    eager_ms: float | None
    ratio_to_eager: float | None
    has_equal_output: bool | None
    why_not: str | None

    @property
    def case(self) -> Case:
        """What it measured."""
        return Case(self.shape, self.num_tokens, self.beam, self.threads, self.precision)


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured per row.

    Attributes:
        num_rounds: Turns of every engine, at most.
        row_s: No new round after this long, once there are `fewest_rounds`.
        num_eager_rounds: Turns of the baseline, which is slow; 0 leaves it out.
    """

    num_rounds: int
    row_s: float
    num_eager_rounds: int
    fewest_rounds: int = 2


def all_cases(
    shapes: Sequence[str],
    lengths: Sequence[int],
    beams: Sequence[int],
    threads: Sequence[int],
    precisions: Sequence[Precision] = PRECISIONS,
) -> list[Case]:
    """Every combination, shape by shape."""
    return [Case(*one) for one in itertools.product(shapes, lengths, beams, threads, precisions)]


class RowFile:
    """Finished rows in a file of JSON lines; the first line says what they belong to.

    Args:
        path: The file; None keeps nothing.
        identity: What rows have to agree on to stand side by side, such as device and commit.

    Raises:
        BenchmarkError: The file is of another identity, or cannot be read or written.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        self._path = path
        self.rows: list[Row] = []
        if path is None:
            return
        try:
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            if not lines:
                path.write_text(json.dumps(identity) + "\n", encoding="utf-8")
                return
            kept = json.loads(lines[0])
            self.rows = [Row(**json.loads(line)) for line in lines[1:]]
        except OSError as error:
            raise BenchmarkError(
                f"{path}: cannot be used ({error.strerror}): give --rows another file"
            ) from error
        except (ValueError, TypeError) as error:
            raise BenchmarkError(f"{path}: holds no rows of this benchmark ({error}): remove it") from error
        differing = [name for name in identity if kept.get(name) != identity[name]]
        if differing:
            name = differing[0]
            raise BenchmarkError(
                f"{path}: rows were measured with {name} {kept.get(name)!r}, now it is {identity[name]!r}: "
                "give --rows another file"
            )

    def row_of(self, case: Case) -> Row | None:
        """The row of a case, if it is finished."""
        return next((row for row in self.rows if row.case == case), None)

    def add(self, row: Row) -> None:
        """Keep one more."""
        self.rows.append(row)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(dataclasses.asdict(row)) + "\n")


def measure_rows(
    cases: Sequence[Case],
    engines_of: Callable[[str], Engines],
    roof: Roof,
    effort: Effort,
    is_time_up: Callable[[], bool] = lambda: False,
) -> Iterator[Row]:
    """Rows of `cases` as they are finished, until time is up; engines of a shape are dropped with its last case."""
    for shape, of_shape in itertools.groupby(cases, key=lambda case: case.shape):
        if is_time_up():
            return
        engines = engines_of(shape)
        for case in of_shape:
            if is_time_up():
                return
            yield measure_row(case, engines, roof, effort)


def measure_row(case: Case, engines: Engines, roof: Roof, effort: Effort) -> Row:
    """One row: a run of each engine to warm up, then turns."""
    ours, theirs = (
        engines.ours(case.precision, case.threads),
        engines.ctranslate2(case.precision, case.threads),
    )
    decoders: dict[str, Decoder] = {"ctranslate2": theirs}
    if not isinstance(ours, Absent):
        decoders = {"ours": ours, **decoders}
    num_eager_rounds = effort.num_eager_rounds if case.precision == "fp32" else 0
    if num_eager_rounds:
        decoders["eager"] = engines.eager(case.threads)
    src_ids = engines.shape.source(case.num_tokens)
    runs = {
        name: partial(decoder.decode, src_ids, case.num_tokens, case.beam)
        for name, decoder in decoders.items()
    }
    said = {name: run() for name, run in runs.items()}
    pause_s = SETTLE_S if case.threads > 1 else 0.0
    times_ms = take_turns(runs, effort, {"eager": num_eager_rounds}, pause_s)
    is_comparable = case.precision == "fp32" and case.beam == 1 and "ours" in said
    work = Work.of(engines.shape.stored(), case.precision)
    floor = roof.floor(work, case.precision, case.threads, case.num_tokens)
    return _row(
        case,
        times_ms,
        floor_ms=floor.total_ms,
        encoder_floor_ms=floor.encoder_ms,
        has_equal_output=said["ours"][:-1] == said["ctranslate2"][:-1] if is_comparable else None,
        why_not=ours.reason if isinstance(ours, Absent) else None,
    )


def take_turns(
    runs: Mapping[str, Callable[[], object]], effort: Effort, at_most: Mapping[str, int], pause_s: float
) -> dict[str, list[float]]:
    """Milliseconds of every run, in rounds of alternating order.

    Args:
        runs: What takes turns.
        effort: How many rounds.
        at_most: Rounds of those that take part in fewer.
        pause_s: Before every run.
    """
    times_ms: dict[str, list[float]] = {name: [] for name in runs}
    until_s = time.perf_counter() + effort.row_s
    for number in range(effort.num_rounds):
        if number >= effort.fewest_rounds and time.perf_counter() > until_s:
            break
        for name in runs if number % 2 == 0 else reversed(list(runs)):
            if number >= at_most.get(name, effort.num_rounds):
                continue
            time.sleep(pause_s)
            began_s = time.perf_counter()
            runs[name]()
            times_ms[name].append((time.perf_counter() - began_s) * 1e3)
    return times_ms


def _row(
    case: Case,
    times_ms: Mapping[str, Sequence[float]],
    *,
    floor_ms: float,
    encoder_floor_ms: float,
    has_equal_output: bool | None,
    why_not: str | None,
) -> Row:
    theirs = Spread.of(times_ms["ctranslate2"])
    ours = Spread.of(times_ms["ours"]) if "ours" in times_ms else None
    eager_ms = statistics.median(times_ms["eager"]) if times_ms.get("eager") else None
    pairs = list(zip(times_ms.get("ours", ()), times_ms["ctranslate2"], strict=False))
    ratios = Spread.of([a / b for a, b in pairs]) if pairs else None
    return Row(
        **dataclasses.asdict(case),
        num_pairs=len(pairs) or len(times_ms["ctranslate2"]),
        ours_ms=None if ours is None else ours.median,
        ours_low_ms=None if ours is None else ours.low,
        ours_high_ms=None if ours is None else ours.high,
        ctranslate2_ms=theirs.median,
        ctranslate2_low_ms=theirs.low,
        ctranslate2_high_ms=theirs.high,
        ratio_to_ctranslate2=None if ours is None else ours.median / theirs.median,
        ratio_low=None if ratios is None else ratios.low,
        ratio_high=None if ratios is None else ratios.high,
        floor_ms=floor_ms,
        encoder_floor_ms=encoder_floor_ms,
        times_floor=None if ours is None else ours.median / floor_ms,
        ctranslate2_times_floor=theirs.median / floor_ms,
        eager_ms=eager_ms,
        ratio_to_eager=None if ours is None or eager_ms is None else ours.median / eager_ms,
        has_equal_output=has_equal_output,
        why_not=why_not,
    )
