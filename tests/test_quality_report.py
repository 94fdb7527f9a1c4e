"""The page about a bundle's quality, on a tiny bundle of random weights; and by what rule samples are shown."""

from __future__ import annotations

import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dynhat_runtime import cli
from dynhat_runtime.errors import SettingsError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.offline import quality_figures
from dynhat_runtime.offline.evaluate import translate_all
from dynhat_runtime.offline.figure_cache import FigureCache, file_sha256
from dynhat_runtime.offline.output_counts import COUNT_NAMES
from dynhat_runtime.offline.quality_figures import (
    SAMPLE_QUANTILES,
    QualityRow,
    TestSet,
    chosen_samples,
    quality_rows,
)
from dynhat_runtime.offline.quality_page import QualityFigures, order_breaches, quality_page
from dynhat_runtime.offline.quality_report import QualityOptions, draw_learning_curve, report_quality
from tests.listed_tokens import random_shortlist
from tests.tiny_bundle import POINT_IDS, SENTENCES
from tests.toy_text import write_pairs

HISTORY = [
    {"update": 10, "num_tokens_seen": 1000, "dev_nll_largest": 4.0, "dev_nll_smallest": 4.5},
    {"update": 20, "num_tokens_seen": 2000, "dev_nll_largest": 3.0, "dev_nll_smallest": 3.5},
]
RECORD = {
    "updates": 20,
    "target_tokens_seen": 2_000_000,
    "hours": 1.25,
    "dev_loss_history": HISTORY,
    "data": [
        {"file": "a.tsv.gz", "licence": "CC0", "weight": 0.5, "num_pairs": 1234, "num_tgt_tokens": 56789},
        {"file": "b.tsv.gz", "licence": "", "weight": 1.0},
    ],
}
OPTIONS = QualityOptions(beam_sizes=(2, 1), split=("toynews",), samples="toy")
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle with a training record."""
    path = tmp_path_factory.mktemp("quality") / "bundle"
    shutil.copytree(tiny_bundle.path, path)
    (path / "training_record.json").write_text(json.dumps(RECORD))
    manifest = json.loads((path / "manifest.json").read_text())
    record = path / "training_record.json"
    manifest["files"][record.name] = {"sha256": file_sha256(record), "size_bytes": record.stat().st_size}
    (path / "manifest.json").write_text(json.dumps(manifest))
    return Bundle.open(path)


@pytest.fixture
def sets(tmp_path: Path) -> list[Path]:
    """Two test sets."""
    pairs = list(zip(SENTENCES[:16], reversed(SENTENCES[:16]), strict=True))
    return [
        write_pairs(tmp_path / "toy.tsv.gz", pairs),
        write_pairs(tmp_path / "toynews.tsv.gz", pairs[:5]),
    ]


def test_page(bundle: Bundle, sets: list[Path], tmp_path: Path) -> None:
    """The page has training, scores of every point, set and beam, form of the output, and samples of one set alone."""
    pytest.importorskip("sacremoses")
    out = tmp_path / "en-de.md"
    assert report_quality(bundle, sets, out, OPTIONS, earlier=bundle, console=QUIET) == out
    page, content = out.read_text(), json.loads(out.with_suffix(".json").read_text())
    assert "20 updates, 2.0 M target tokens, 1.2 hours" in page
    assert "| a.tsv.gz | CC0 | 0.5 | 1,234 | 56,789 |" in page
    assert "![dev loss over the training](en-de-training.png)" in page
    assert (tmp_path / "en-de-training.png").read_bytes()[:4] == b"\x89PNG"
    for name, count in (("toy", 16), ("toynews", 5)):
        assert f"## Scores on {name}, {count} sentences" in page
        assert f"- BLEU: `{name}|nrefs:1|" in page
        assert f"{name}, before (weights {bundle.weights_sha256[:12]}):" in page
    assert page.count("compound-split BLEU, greedy") == 1
    rows = content["rows"]
    wanted = [(point, name, beam) for name in ("toy", "toynews") for beam in (2, 1) for point in POINT_IDS]
    assert [(row["id"], row["test_set"], row["beam_size"]) for row in rows] == wanted
    assert "compound_split_bleu" in rows[-1]["figures"]
    assert "compound_split_bleu" not in rows[0]["figures"]
    assert [bool(row["samples"]) for row in rows] == [True, False, True] + [False] * 9
    assert all(sample["source"] in SENTENCES for sample in rows[0]["samples"])
    assert len(content["earlier"]) == 6
    assert (
        "dynhat report-quality --bundle bundle --test toy.tsv.gz --test toynews.tsv.gz --beam 2 --beam 1"
        in page
    )


def test_interrupted_report_goes_on(
    bundle: Bundle, sets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C nothing that was scored is translated again; a finished report translates nothing."""
    out, calls = tmp_path / "en-de.md", 0
    options = replace(OPTIONS, beam_sizes=(1,), split=())

    def dies_at_the_third(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return translate_all(*arguments)

    monkeypatch.setattr(quality_figures, "translate_all", dies_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        report_quality(bundle, sets, out, options, console=QUIET)
    assert not out.exists()
    output = io.StringIO()
    report_quality(bundle, sets, out, options, console=Console(file=output, width=120))
    assert calls == 3 + 4
    assert "point 4 of 4: large on toynews, beam 1  BLEU" in output.getvalue()
    assert "ETA 0 min" in output.getvalue()
    first = out.read_bytes()
    report_quality(bundle, sets, out, options, console=QUIET)
    assert calls == 3 + 4
    assert out.read_bytes() == first


def test_another_shortlist_is_scored_anew(
    bundle: Bundle, sets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kept score is of the shortlist that it was made with, and of none where the point has none."""
    calls = 0

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return translate_all(*arguments)

    monkeypatch.setattr(quality_figures, "translate_all", counted)
    sizes = bundle.spec.src_vocab_size, bundle.spec.tgt_vocab_size
    cache, tests = (
        FigureCache(tmp_path / "scores.jsonl"),
        [TestSet.read(sets[1], None, split=(), samples=None)],
    )
    (plain, *_) = bundle.table()
    listed = plain.model_copy(update={"has_shortlist": True})
    for number, seed in enumerate((1, 1, 2)):
        copied = Bundle.open(Path(shutil.copytree(bundle.path, tmp_path / str(number))))
        other = copied.with_shortlist(random_shortlist(*sizes, per_token=5, seed=seed).as_bytes({}))
        quality_rows(other, other.table(), [plain, listed], tests, [1], cache, QUIET)
    assert calls == 3


def test_a_part_says_that_it_is_one(bundle: Bundle, sets: list[Path], tmp_path: Path) -> None:
    """With a limit and a point, only those are scored and the page says so; no set's text is shown unasked."""
    options = replace(OPTIONS, beam_sizes=(1,), point_ids=("small",), limit=3, split=(), samples=None)
    page = report_quality(bundle, sets, tmp_path / "p.md", options, console=QUIET).read_text()
    assert "Only the first 3 sentences" in page
    assert "| middle |" not in page
    assert not any(sentence in page for sentence in SENTENCES)
    assert "--point small --limit 3" in page


def test_what_cannot_be_reported(bundle: Bundle, sets: list[Path], tmp_path: Path) -> None:
    """Two test sets of one name, and a page that cannot be written, are refused before anything is translated."""
    with pytest.raises(SettingsError, match="two files have the same name"):
        report_quality(bundle, [sets[0], sets[0]], tmp_path / "p.md", OPTIONS, console=QUIET)
    with pytest.raises(SettingsError, match=r"absent.*give --out"):
        report_quality(bundle, sets, tmp_path / "absent" / "p.md", OPTIONS, console=QUIET)


def test_command(
    bundle: Bundle, sets: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """The command scores what it is asked for and says where the page is."""
    out = tmp_path / "page.md"
    arguments = ["--test", str(sets[1]), "--bundle", str(bundle.path), "--point", "small", "--beam", "1"]
    monkeypatch.setattr(sys, "argv", ["dynhat", "report-quality", *arguments, "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert f"wrote {out}" in capsys.readouterr().err
    assert "| small | 10.0 |" in out.read_text()


# --- rules ---


def test_samples_are_chosen_by_rank_alone() -> None:
    """Samples stand at fixed quantiles of the scores, worst first; short sentences count not."""
    pairs = [(f"this source has number {i}", f"Ziel {i}") for i in range(101)] + [("short one", "kurz")]
    scores = [float((i * 37) % 101) for i in range(101)] + [-1.0]
    samples = chosen_samples(pairs, [f"out {i}" for i in range(102)], scores)
    assert [sample["chrf"] for sample in samples] == [round(100 * quantile) for quantile in SAMPLE_QUANTILES]
    for sample in samples:
        number = int(sample["source"].rsplit(" ", 1)[1])
        assert (sample["reference"], sample["translation"]) == (f"Ziel {number}", f"out {number}")
        assert scores[number] == sample["chrf"]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_sentences_give_few_samples(count: int) -> None:
    """No sentence is shown twice."""
    pairs = [(f"this source has number {i}", "Ziel") for i in range(count)]
    samples = chosen_samples(pairs, ["out"] * count, [float(i) for i in range(count)])
    assert len({sample["source"] for sample in samples}) == len(samples) == count


def _figures(bundle: Bundle, bleus: list[float], losses: list[float]) -> QualityFigures:
    table = bundle.table()
    points = [point.model_copy(update={"dev_loss": loss}) for point, loss in zip(table, losses, strict=True)]
    rows = [QualityRow(p.id, "toy", 1, {"bleu": bleu}) for p, bleu in zip(points, bleus, strict=True)]
    return QualityFigures(
        written_at="2026-01-01",
        languages=("en", "de"),
        weights_sha256="0" * 64,
        training={},
        table=table,
        points=points,
        test_sets=["toy"],
        beam_sizes=(1,),
        rows=rows,
        earlier=[],
        earlier_weights_sha256=None,
        limit=None,
        attribution="",
        command="",
        curve_file=None,
    )


def test_order(bundle: Bundle) -> None:
    """A slower point with no smaller dev loss, or with more than 0.3 BLEU less, is a breach; 0.3 is none."""
    assert list(order_breaches(_figures(bundle, [20.0, 19.7, 25.0], [3.0, 2.9, 2.8]))) == []
    assert list(order_breaches(_figures(bundle, [20.0, 19.6, 25.0], [3.0, 3.0, 2.8]))) == [
        "dev loss: small 3.0000, middle 3.0000",
        "BLEU on toy: small 20.00, middle 19.60",
    ]


def test_record_that_says_nothing(bundle: Bundle, tmp_path: Path) -> None:
    """Without a training record nothing is drawn, and the page says what is not recorded."""
    assert not draw_learning_curve({}, tmp_path / "curve.png")
    assert not (tmp_path / "curve.png").exists()
    figures = _figures(bundle, [1, 2, 3], [3, 2, 1])
    for row in figures.rows:
        row.figures.update({"chrf": 1.0, "num_sentences": 1} | dict.fromkeys(COUNT_NAMES, 0))
    assert "not recorded, target tokens not recorded, hours not recorded" in quality_page(figures)
    start = {
        "weights_sha256": "ab" * 32,
        "training_record": {"updates": 7000, "target_tokens_seen": 18_400_000},
    }
    begun = quality_page(replace(figures, training={"updates": 20, "started_from": start}))
    assert "20 updates, target tokens not recorded" in begun
    assert (
        "Begun with the weights abababababab: 7,000 updates, 18.4 M target tokens, hours not recorded."
        in begun
    )
