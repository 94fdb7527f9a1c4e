"""What `dynhat evaluate` found, as CSV for programs and Markdown for people. Scores nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from dynhat_runtime.decoding.output_guard import FAULTS
from dynhat_runtime.offline.output_counts import COUNT_NAMES

COLUMNS = (
    "id", "latency_ms", "bleu", "chrf", "compound_split_bleu", "num_sentences", "beam_size", "length_penalty",
    "bleu_signature", "chrf_signature", "compound_split_bleu_signature", *COUNT_NAMES,
)  # fmt: skip
"""Of a row; those that no row has are left out."""
FAULT_COUNTS = tuple(f"num_{fault}" for fault in FAULTS)
KEPT_COUNTS = ("num_numbers", "num_names", "num_final_marks", "num_initial_cases")
SIGNATURES = {
    "bleu_signature": "BLEU",
    "chrf_signature": "chrF",
    "compound_split_bleu_signature": "Compound-split BLEU",
}


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Comma-separated values with a heading."""
    columns = [column for column in COLUMNS if any(column in row for row in rows)]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_markdown(rows: Sequence[Mapping[str, Any]], device: str) -> str:
    """A table, what it was made with, and the signatures that reproduce it.

    Args:
        rows: Of one test set, at least one.
        device: Whose latencies the rows have.
    """
    has_split = "compound_split_bleu" in rows[0]
    headings = ["point", "latency ms", "BLEU", "chrF", *(["compound-split BLEU"] if has_split else [])]
    lines = [f"| {' | '.join(headings)} |", f"|---|{'--:|' * (len(headings) - 1)}"]
    for row in rows:
        scores = [row["bleu"], row["chrf"], *([row["compound_split_bleu"]] if has_split else [])]
        cells = [row["id"], f"{row['latency_ms']:.1f}", *(f"{score:.2f}" for score in scores)]
        lines.append(f"| {' | '.join(cells)} |")
    first = rows[0]
    lines += [
        "",
        f"{first['num_sentences']} sentences, beam {first['beam_size']}, length penalty {first['length_penalty']:g}; "
        f"latency of one sentence of reference length, measured on {device}.",
        "",
    ]
    lines += [f"- {name}: `{first[key]}`" for key, name in SIGNATURES.items() if key in first]
    if COUNT_NAMES[0] in first:
        lines += ["", *counts_table(rows), "", COUNTS_LEGEND]
    return "\n".join(lines) + "\n"


COUNTS_LEGEND = (
    "Degenerate sentences by the output guard's definition. Lost: numbers, names (capitalised words), final marks and "
    "initial case that source and reference share and the translation lacks, of so many."
)


def counts_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of what is wrong in form, a line per row; a row has its `id` and the counts of `OutputCounts`."""
    headings = ["point", *(name.removeprefix("num_").replace("_", " ") for name in FAULT_COUNTS)]
    headings += [f"{what} lost" for what in ("numbers", "names", "final marks", "initial case")]
    lines = [f"| {' | '.join(headings)} |", f"|---|{'--:|' * (len(headings) - 1)}"]
    for row in rows:
        cells = [str(row["id"]), *(str(row[name]) for name in FAULT_COUNTS)]
        cells += [f"{row[name + '_lost']} of {row[name]:,}" for name in KEPT_COUNTS]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
