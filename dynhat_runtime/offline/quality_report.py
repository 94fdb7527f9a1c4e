"""What `dynhat report-quality` does: score a bundle on test sets, draw its learning curve, write the page."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console

from dynhat_runtime.errors import SettingsError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.offline.figure_cache import FigureCache
from dynhat_runtime.offline.quality_figures import TestSet, quality_rows
from dynhat_runtime.offline.quality_page import QualityFigures, quality_page
from dynhat_runtime.offline.whole_files import check_writable, write_text

TATOEBA = "Tatoeba contributors, CC-BY 2.0 FR, tatoeba.org"


@dataclass(frozen=True, slots=True)
class QualityOptions:
    """What to score, and how.

    Attributes:
        beam_sizes: 1 is greedy; the first counts for order, form and samples.
        limit: Only the first so many sentences of each test set.
        split: Names of the test sets that get HAT's BLEU, too.
        samples: Name of the test set whose sentences may be shown; None shows none.
        attribution: Of that text.
    """

    beam_sizes: tuple[int, ...] = (4, 1)
    point_ids: tuple[str, ...] = ()
    limit: int | None = None
    split: tuple[str, ...] = ("newstest2014",)
    samples: str | None = "tatoeba_test"
    attribution: str = TATOEBA


def report_quality(
    bundle: Bundle,
    tests: Sequence[Path],
    out: Path,
    options: QualityOptions = QualityOptions(),
    *,
    earlier: Bundle | None = None,
    cache: Path | None = None,
    console: Console,
) -> Path:
    """Measure and write the page, its learning curve (`.png`) and all its figures (`.json`); returns the page.

    Args:
        bundle: With a table of operating points.
        tests: Gzipped TSV files; a test set's name is its file's.
        out: The page, such as docs/results/en-de.md.
        options: What to score.
        earlier: Another bundle, whose output's form is counted, too.
        cache: Keeps scores as they come; by default beside the page. An interrupted report goes on from it.
        console: Shows progress.

    Raises:
        DynhatError: What is wrong with a bundle, a point, a test set or a file.
    """
    check_writable(out, "--out")
    table = bundle.table()
    wanted = {table[point_id].id for point_id in options.point_ids} or {point.id for point in table}
    points = [point for point in table if point.id in wanted]
    sets = [TestSet.read(path, options.limit, split=options.split, samples=options.samples) for path in tests]
    if len({test.name for test in sets}) < len(sets):
        raise SettingsError("--test: two files have the same name: give each test set a name of its own")
    kept = FigureCache(cache or out.with_name(f"{out.stem}-scores.jsonl"))
    rows = quality_rows(bundle, table, points, sets, options.beam_sizes, kept, console)
    before = []
    if earlier is not None:
        earlier_table = earlier.table()
        before = quality_rows(
            earlier, earlier_table, list(earlier_table), sets, options.beam_sizes[:1], kept, console
        )
    record = bundle.training_record()
    curve = out.with_name(f"{out.stem}-training.png")
    has_curve = draw_learning_curve(record, curve)
    figures = QualityFigures(
        written_at=datetime.now(timezone.utc).date().isoformat(),
        languages=(bundle.src_lang, bundle.tgt_lang),
        weights_sha256=bundle.weights_sha256,
        training=record,
        table=table,
        points=points,
        test_sets=[test.name for test in sets],
        beam_sizes=options.beam_sizes,
        rows=rows,
        earlier=before,
        earlier_weights_sha256=None if earlier is None else earlier.weights_sha256,
        limit=options.limit,
        attribution=options.attribution,
        command=_command(bundle, tests, out, options, earlier),
        curve_file=curve.name if has_curve else None,
    )
    write_text(out.with_suffix(".json"), _as_json(figures), "--out")
    write_text(out, quality_page(figures), "--out")
    return out


def _as_json(figures: QualityFigures) -> str:
    """Everything measured, for programs."""
    content = {
        "written_at": figures.written_at,
        "weights_sha256": figures.weights_sha256,
        "earlier_weights_sha256": figures.earlier_weights_sha256,
        "limit": figures.limit,
        "rows": [asdict(row) for row in figures.rows],
        "earlier": [asdict(row) for row in figures.earlier],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def draw_learning_curve(record: Mapping[str, Any], path: Path) -> bool:
    """Draw a training record's dev losses over the tokens seen, or over the updates; whether it has any.

    Raises:
        SettingsError: The picture cannot be written.
    """
    history = record.get("dev_loss_history") or []
    if not history:
        return False
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    by_tokens = all("num_tokens_seen" in row for row in history)
    steps = [row["num_tokens_seen"] / 1e6 if by_tokens else row["update"] for row in history]
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name in ("largest", "smallest"):
        axes.plot(steps, [row[f"dev_nll_{name}"] for row in history], label=f"dev nll, {name}")
    axes.set(
        xlabel="target tokens seen, millions" if by_tokens else "update", ylabel="nll per target token (nats)"
    )
    axes.legend()
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written ({error.strerror}): give another --out") from error
    finally:
        plt.close(figure)
    return True


def _command(
    bundle: Bundle, tests: Sequence[Path], out: Path, options: QualityOptions, earlier: Bundle | None
) -> str:
    """The command that measures the page again; files by their names, since folders differ."""
    words = ["dynhat", "report-quality", "--bundle", bundle.path.name]
    for test in tests:
        words += ["--test", test.name]
    for beam in options.beam_sizes:
        words += ["--beam", str(beam)]
    for point_id in options.point_ids:
        words += ["--point", point_id]
    if options.limit is not None:
        words += ["--limit", str(options.limit)]
    if earlier is not None:
        words += ["--before", earlier.path.name]
    return shlex.join([*words, "--out", out.name])
