"""What an evaluation found, for programs and for people."""

from __future__ import annotations

import csv
from typing import Any

from dynhat_runtime.offline.score_sheet import as_csv, as_markdown


def _row(point_id: str, **more: Any) -> dict[str, Any]:
    return {
        "id": point_id,
        "beam_size": 4,
        "bleu": 26.5,
        "bleu_signature": "toy|nrefs:1|case:mixed",
        "chrf": 51.25,
        "chrf_signature": "toy|nrefs:1|chars",
        "num_sentences": 40,
        "length_penalty": 0.6,
        "latency_ms": 12.34,
        **more,
    }


SPLIT = {"compound_split_bleu": 27.0, "compound_split_bleu_signature": "toy|compounds:split"}


def test_csv() -> None:
    """Every figure of a row can be read back under its name; a column that no row has is left out."""
    (plain,) = csv.DictReader(as_csv([_row("a")]).splitlines())
    assert plain == {key: str(value) for key, value in _row("a").items()}
    split = list(csv.DictReader(as_csv([_row("a", **SPLIT), _row("b", **SPLIT)]).splitlines()))
    assert [(row["id"], row["compound_split_bleu"]) for row in split] == [("a", "27.0"), ("b", "27.0")]


def test_markdown() -> None:
    """A row per point, what it was made with, whose latency it is, and every signature."""
    assert as_markdown([_row("a", **SPLIT), _row("b", **SPLIT)], "a board") == (
        "| point | latency ms | BLEU | chrF | compound-split BLEU |\n"
        "|---|--:|--:|--:|--:|\n"
        "| a | 12.3 | 26.50 | 51.25 | 27.00 |\n"
        "| b | 12.3 | 26.50 | 51.25 | 27.00 |\n"
        "\n"
        "40 sentences, beam 4, length penalty 0.6; latency of one sentence of reference length, measured on a board.\n"
        "\n"
        "- BLEU: `toy|nrefs:1|case:mixed`\n"
        "- chrF: `toy|nrefs:1|chars`\n"
        "- Compound-split BLEU: `toy|compounds:split`\n"
    )
    assert "compound" not in as_markdown([_row("a")], "a board")
