"""What the decode benchmark found, as Markdown for people and as one JSON object."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.decode_engines import PRECISIONS
from benchmarks.decode_floor import Roof
from benchmarks.decode_latency import Case, Row
from benchmarks.figures import Result
from benchmarks.report import Environment, as_json, environment_lines, section

AIM_RATIO, AIM_EAGER, AIM_FLOOR = 0.8, 0.25, 1.5
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Found:
    """Everything of one run.

    Attributes:
        not_measured: Cases that were asked for and not reached.
        not_compared: Points that CTranslate2 cannot express, with the reason.
        results: Of the other sections.
        paper_sizes: Names of the shapes of the paper's size.
    """

    environment: Environment
    ctranslate2_version: str
    command: str
    rows: Sequence[Row]
    not_measured: Sequence[Case]
    not_compared: Mapping[str, str]
    roof: Roof
    results: Sequence[Result]
    paper_sizes: Sequence[str]


def found_as_json(found: Found) -> dict[str, Any]:
    """One object; `rows` first."""
    return {
        "rows": [dataclasses.asdict(row) for row in found.rows],
        "not_measured": [dataclasses.asdict(case) for case in found.not_measured],
        "not_compared": dict(found.not_compared),
        "aims": {
            "ratio_to_ctranslate2": AIM_RATIO, "ratio_to_eager": AIM_EAGER, "times_floor_at_paper_size": AIM_FLOOR
        },
        "memory_bytes_per_s": [
            {"threads": threads, "bytes_read": num_bytes, "bytes_per_s": rate}
            for (threads, num_bytes), rate in found.roof.memory_bytes_per_s.items()
        ],
        "flops_per_s": [
            {"precision": precision, "threads": threads, "flops_per_s": rate}
            for (precision, threads), rate in found.roof.flops_per_s.items()
        ],
        "ctranslate2_version": found.ctranslate2_version,
        **as_json(found.environment, found.command, found.results),
    }  # fmt: skip


def found_as_markdown(found: Found) -> str:
    """The report."""
    parts = [
        f"# Decoding, ours and CTranslate2's, {found.environment.measured_at[:10]}",
        "\n".join(
            [
                *environment_lines(found.environment),
                f"- CTranslate2 {found.ctranslate2_version}, its own threads",
            ]
        ),
        f"Reproduce with:\n\n    {found.command}",
    ]
    if found.rows:
        parts += _latency(found)
    parts += [section(result) for result in found.results]
    return "\n\n".join(parts) + "\n"


def _latency(found: Found) -> list[str]:
    parts = [
        "## Latency of one sentence",
        (
            "Same architecture and weights in both engines, cross-attention span 1 everywhere; as many target tokens "
            "as source tokens and exactly as many decoder steps; a warm-up of each, then turns of alternating order. "
            "The bundle's points have its weights, those of the paper's size random ones and 32,000 tokens. A time is "
            "a median, a ratio one of medians with the quartiles of the pairs' ratios. The floor is the weights that "
            "every step reads over the memory bandwidth measured on as many bytes in the same run, plus the encoder's "
            "arithmetic at the measured rate of large matrix products; `x floor` is how many times that an engine "
            "takes. Eager is plain PyTorch as HAT decodes (`benchmarks/eager_baseline.py`), fp32."
        ),
        _aims_table(found),
        _best_table(found.rows),
    ]
    for shape, rows in itertools.groupby(found.rows, key=lambda row: row.shape):
        parts += [f"### {shape}", _rows_table(list(rows))]
    reasons = sorted({row.why_not for row in found.rows if row.why_not is not None})
    parts += [f"Rows without our time: {reason}." for reason in reasons]
    parts += [
        f"Not compared: {name}: CTranslate2 cannot express it: {why}."
        for name, why in found.not_compared.items()
    ]
    if found.not_measured:
        parts.append(
            f"Not measured, since the run ended before: {len(found.not_measured)} of the cases asked for."
        )
    parts.append(_equality(found.rows))
    parts.append(_roof_table(found.roof))
    return parts


def _aims_table(found: Found) -> str:
    """How many rows meet each aim."""
    lines = ["| aim | rows that meet it | median | worst |", "|---|--:|--:|--:|"]
    for precision in PRECISIONS:
        ratios = [r.ratio_to_ctranslate2 for r in found.rows if r.precision == precision]
        lines.append(_aim_line(f"{precision}: ours / CTranslate2 <= {AIM_RATIO}", ratios, AIM_RATIO))
    lines.append(_aim_line(f"ours / eager <= {AIM_EAGER}", [r.ratio_to_eager for r in found.rows], AIM_EAGER))
    large = [row.times_floor for row in found.rows if row.shape in found.paper_sizes]
    lines.append(_aim_line(f"ours / floor <= {AIM_FLOOR} at the paper's size", large, AIM_FLOOR))
    return "\n".join(lines)


def _aim_line(name: str, values: Sequence[float | None], at_most: float) -> str:
    told = sorted(value for value in values if value is not None)
    if not told:
        return f"| {name} | nothing measured | – | – |"
    num_met = sum(value <= at_most for value in told)
    return f"| {name} | {num_met} of {len(told)} | {told[len(told) // 2]:.2f} | {told[-1]:.2f} |"


def _best_table(rows: Sequence[Row]) -> str:
    """The best precision and thread count of each engine against the other's."""
    lines = [
        "Each engine at its best precision and number of threads:\n",
        "| shape | tokens | beam | ours | CTranslate2 | ratio | ours / eager, 1 thread |",
        "|---|--:|--:|---|---|--:|--:|",
    ]

    def kind(row: Row) -> tuple[str, int, int]:
        return row.shape, row.num_tokens, row.beam

    for (shape, num_tokens, beam), of_kind in itertools.groupby(sorted(rows, key=kind), key=kind):
        alike = list(of_kind)
        theirs = min(alike, key=lambda row: row.ctranslate2_ms)
        ours = min(
            (row for row in alike if row.ours_ms is not None),
            key=lambda row: row.ours_ms or 0.0,
            default=None,
        )
        eager_ms = next(
            (row.eager_ms for row in alike if row.eager_ms is not None and row.threads == 1), None
        )
        cells = [shape, str(num_tokens), str(beam)]
        cells.append("–" if ours is None else f"{_ms(ours.ours_ms)} ({_how(ours)})")
        cells.append(f"{_ms(theirs.ctranslate2_ms)} ({_how(theirs)})")
        best_ms = None if ours is None else ours.ours_ms
        cells.append(_ratio(None if best_ms is None else best_ms / theirs.ctranslate2_ms))
        cells.append(_ratio(None if best_ms is None or eager_ms is None else best_ms / eager_ms))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _rows_table(rows: Sequence[Row]) -> str:
    lines = [
        "| tokens | beam | threads | precision | ours | CTranslate2 | ours / CTranslate2 [quartiles] | n "
        "| floor | ours x floor | CTranslate2 x floor | eager | ours / eager |",
        "|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        ratio = _ratio(row.ratio_to_ctranslate2)
        if row.ratio_low is not None and row.ratio_high is not None:
            ratio += f" [{row.ratio_low:.2f} – {row.ratio_high:.2f}]"
        cells = [
            str(row.num_tokens), str(row.beam), str(row.threads), row.precision, _ms(row.ours_ms),
            _ms(row.ctranslate2_ms), ratio, str(row.num_pairs), _ms(row.floor_ms), _ratio(row.times_floor),
            _ratio(row.ctranslate2_times_floor), _ms(row.eager_ms), _ratio(row.ratio_to_eager),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _equality(rows: Sequence[Row]) -> str:
    told = [row.has_equal_output for row in rows if row.has_equal_output is not None]
    return f"Greedy outputs in fp32 were the same in both engines in {sum(told)} of {len(told)} rows."


def _roof_table(roof: Roof) -> str:
    memory = [
        f"{rate / GIB:.1f} GiB/s on {num_bytes / 2**20:.1f} MiB with {threads} threads"
        for (threads, num_bytes), rate in roof.memory_bytes_per_s.items()
    ]
    arithmetic = [
        f"{rate / 1e9:.0f} G/s in {precision} with {threads} threads"
        for (precision, threads), rate in roof.flops_per_s.items()
    ]
    return f"Measured in this run: reading {', '.join(memory)}; operations {', '.join(arithmetic)}."


def _how(row: Row) -> str:
    return f"{row.precision}, {row.threads} threads" if row.threads > 1 else f"{row.precision}, 1 thread"


def _ms(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
