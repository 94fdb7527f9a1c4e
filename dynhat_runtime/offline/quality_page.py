"""The page about a bundle's quality: training, scores, order, form of the output, samples. Measures nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dynhat_runtime.offline.quality_figures import MIN_SAMPLE_WORDS, QualityRow
from dynhat_runtime.offline.score_sheet import COUNTS_LEGEND, SIGNATURES, counts_table
from dynhat_runtime.operating_point import OperatingPoint, OperatingPointTable

MAX_BLEU_DROP = 0.3
"""From one point to the next slower one; more is named as a breach of the order."""
LANGUAGES = {"en": "English", "de": "German", "fr": "French"}


@dataclass(frozen=True, slots=True)
class QualityFigures:
    """Everything the page tells.

    Attributes:
        points: Those scored, fastest first.
        beam_sizes: The first is the one that counts for order, form and samples.
        earlier: Rows of another bundle before this one, for the form of its output; may be empty.
        limit: Sentences of each test set, where not all were taken.
        attribution: Of the samples' text.
        command: That measured all this.
    """

    written_at: str
    languages: tuple[str, str]
    weights_sha256: str
    training: Mapping[str, Any]
    table: OperatingPointTable
    points: Sequence[OperatingPoint]
    test_sets: Sequence[str]
    beam_sizes: Sequence[int]
    rows: Sequence[QualityRow]
    earlier: Sequence[QualityRow]
    earlier_weights_sha256: str | None
    limit: int | None
    attribution: str
    command: str
    curve_file: str | None

    def row(self, point_id: str, test_set: str, beam_size: int) -> QualityRow:
        """One point's row."""
        wanted = (point_id, test_set, beam_size)
        return next(row for row in self.rows if (row.id, row.test_set, row.beam_size) == wanted)


def quality_page(figures: QualityFigures) -> str:
    """The page as Markdown."""
    return "\n".join(_page(figures)) + "\n"


def _page(figures: QualityFigures) -> Iterable[str]:
    src, tgt = (LANGUAGES.get(code, code) for code in figures.languages)
    limit = (
        "" if figures.limit is None else f" **Only the first {figures.limit} sentences of each test set.**"
    )
    yield f"# {src}-{tgt}: what the operating points translate, and how well"
    yield ""
    yield (
        f"Written {figures.written_at} by the command below. Weights {figures.weights_sha256[:12]}; latency of one "
        f"sentence of {figures.table.reference_num_tokens} tokens, measured on {figures.table.device.name}.{limit}"
    )
    yield ""
    yield f"    {figures.command}"
    yield from _training(figures)
    yield from _scores(figures)
    yield from _order(figures)
    yield from _form(figures)
    yield from _samples(figures)
    yield from _signatures(figures)


def _spent(record: Mapping[str, Any]) -> str:
    """What a training took, as its record says."""
    updates, tokens, hours = (record.get(name) for name in ("updates", "target_tokens_seen", "hours"))
    spent = (
        "not recorded" if updates is None else f"{updates:,} updates",
        "target tokens not recorded" if tokens is None else f"{tokens / 1e6:.1f} M target tokens",
        "hours not recorded" if hours is None else f"{hours:.1f} hours",
    )
    return ", ".join(spent)


def _training(figures: QualityFigures) -> Iterable[str]:
    start = figures.training.get("started_from")
    yield from _heading("Training")
    yield f"{_spent(figures.training)}; the record in the bundle has the recipe."
    if start is not None:
        yield ""
        yield f"Begun with the weights {start['weights_sha256'][:12]}: {_spent(start['training_record'])}."
    if figures.curve_file is not None:
        yield ""
        yield f"![dev loss over the training]({figures.curve_file})"
    corpora = figures.training.get("data") or []
    if corpora:
        counted = any("num_pairs" in corpus for corpus in corpora)
        headings = ["corpus", "licence", "weight", *(["pairs", "target tokens"] if counted else [])]
        yield ""
        yield from _table(headings, [_corpus_cells(corpus, counted) for corpus in corpora], num_text=2)


def _corpus_cells(corpus: Mapping[str, Any], counted: bool) -> list[str]:
    cells = [str(corpus["file"]), str(corpus.get("licence") or "-"), f"{corpus['weight']:g}"]
    counts = [corpus.get(name) for name in ("num_pairs", "num_tgt_tokens")] if counted else []
    return cells + ["-" if count is None else f"{count:,}" for count in counts]


def _scores(figures: QualityFigures) -> Iterable[str]:
    for test_set in figures.test_sets:
        first = figures.row(figures.points[0].id, test_set, figures.beam_sizes[0]).figures
        measures = [("bleu", "BLEU"), ("chrf", "chrF")]
        if "compound_split_bleu" in first:
            measures.append(("compound_split_bleu", "compound-split BLEU"))
        columns = [(beam, key, name) for beam in figures.beam_sizes for key, name in measures]
        yield from _heading(f"Scores on {test_set}, {first['num_sentences']:,} sentences")
        yield from _table(
            ["point", "latency ms", *(f"{name}, {_search(beam)}" for beam, _, name in columns)],
            [
                [
                    point.id,
                    f"{figures.table.reference_latency_ms(point):.1f}",
                    *(
                        f"{figures.row(point.id, test_set, beam).figures[key]:.2f}"
                        for beam, key, _ in columns
                    ),
                ]
                for point in figures.points
            ],
        )


def _search(beam_size: int) -> str:
    return "greedy" if beam_size == 1 else f"beam {beam_size}"


def _order(figures: QualityFigures) -> Iterable[str]:
    yield from _heading("Order")
    breaches = list(order_breaches(figures))
    yield (
        f"From each point to the next slower one dev loss should fall, and BLEU ({_search(figures.beam_sizes[0])}) not "
        f"fall by more than {MAX_BLEU_DROP}: "
        + ("it is so everywhere." if not breaches else f"it is not so {len(breaches)} times:")
    )
    if breaches:
        yield ""
        yield from (f"- {breach}" for breach in breaches)


def order_breaches(figures: QualityFigures) -> Iterable[str]:
    """Where a slower point is no better, in words."""
    for fast, slow in zip(figures.points, figures.points[1:], strict=False):
        if fast.dev_loss is not None and slow.dev_loss is not None and slow.dev_loss >= fast.dev_loss:
            yield f"dev loss: {fast.id} {fast.dev_loss:.4f}, {slow.id} {slow.dev_loss:.4f}"
        for test_set in figures.test_sets:
            first, second = (
                float(figures.row(point.id, test_set, figures.beam_sizes[0]).figures["bleu"] or 0)
                for point in (fast, slow)
            )
            if second < first - MAX_BLEU_DROP:
                yield f"BLEU on {test_set}: {fast.id} {first:.2f}, {slow.id} {second:.2f}"


def _form(figures: QualityFigures) -> Iterable[str]:
    yield from _heading(f"Form of the output, {_search(figures.beam_sizes[0])}")
    yield COUNTS_LEGEND
    for test_set in figures.test_sets:
        yield ""
        yield f"{test_set}:"
        yield ""
        yield from counts_table(_counts(figures.rows, test_set, figures.beam_sizes[0]))
        earlier = _counts(figures.earlier, test_set, figures.beam_sizes[0])
        if earlier and figures.earlier_weights_sha256 is not None:
            yield ""
            yield f"{test_set}, before (weights {figures.earlier_weights_sha256[:12]}):"
            yield ""
            yield from counts_table(earlier)


def _counts(rows: Sequence[QualityRow], test_set: str, beam_size: int) -> list[dict[str, Any]]:
    return [
        {"id": row.id, **row.figures}
        for row in rows
        if (row.test_set, row.beam_size) == (test_set, beam_size)
    ]


def _samples(figures: QualityFigures) -> Iterable[str]:
    shown = [row for row in figures.rows if row.samples]
    if not shown:
        return
    yield from _heading("Translations, good and bad")
    yield (
        f"Nobody picked them: of the sentences of {MIN_SAMPLE_WORDS} words or more in {shown[0].test_set}, ranked by "
        "the translation's own sentence chrF, those at fixed quantiles, for the slowest and the fastest point. "
        f"Text: {figures.attribution}."
    )
    for row in sorted(shown, key=lambda row: row.id != figures.points[-1].id):
        yield ""
        yield f"{row.id}, {_search(row.beam_size)}:"
        yield ""
        yield from _table(
            ["quantile", "chrF", "source", "reference", "translation"],
            [
                [
                    f"{sample['quantile']:.2f}",
                    f"{sample['chrf']:.1f}",
                    *(_cell(sample[side]) for side in ("source", "reference", "translation")),
                ]
                for sample in row.samples
            ],
            num_text=5,
        )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _signatures(figures: QualityFigures) -> Iterable[str]:
    yield from _heading("Signatures")
    for test_set in figures.test_sets:
        for beam in figures.beam_sizes:
            scored = figures.row(figures.points[0].id, test_set, beam).figures
            yield from (f"- {name}: `{scored[key]}`" for key, name in SIGNATURES.items() if key in scored)


def _heading(text: str) -> Iterable[str]:
    yield from ("", f"## {text}", "")


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], num_text: int = 1) -> Iterable[str]:
    """A table whose first columns are text, the others numbers."""
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * num_text}{'--:|' * (len(headings) - num_text)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
