"""The report: its figures are those that were measured, the paper's are labelled, and what is missing says so."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from dynhat_runtime.errors import SettingsError, UnknownOperatingPointError
from dynhat_runtime.model.checkpoint import SENTENCEPIECE_MODEL, Bundle, write_bundle
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.offline.figure_cache import FigureCache
from dynhat_runtime.offline.paper_figures import TABLE_I, TABLE_II_GPU
from dynhat_runtime.offline.paper_points import PaperPoints
from dynhat_runtime.offline.report import earlier_report, folder_of, write_report
from dynhat_runtime.offline.report_figures import (
    FigureMaker,
    ReducedSpace,
    ReportFigures,
    Training,
)
from tests.tiny_bundle import SENTENCES, SPACE

QUIET = Console(quiet=True)
NARROW = SPACE.model_copy(update={"name": "narrow", "encoder_ffn_dim": (32,)})
TIMES = {
    "dynamic_switch_ms": (0.002, 0.004, 0.003),
    "dynamic_first_ms": (30.0, 31.0, 32.0),
    "static_load_ms": (70.0, 71.0, 72.0),
    "static_first_ms": (100.0, 110.0, 120.0),
    "static_process_ms": (1300.0, 1400.0, 1500.0),
    "weights_mib": 11.2,
}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A test set of twelve pairs."""
    path = tmp_path_factory.mktemp("text") / "text.tsv.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{sentence}\t{sentence}\n" for sentence in SENTENCES[:12])
    return path


@pytest.fixture(scope="module")
def narrow(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with other weights and a reduced space."""
    spec = tiny_bundle.spec.model_copy(update={"design_space": NARROW})
    return write_bundle(
        tmp_path_factory.mktemp("narrow") / "bundle",
        name="narrow",
        languages=("en", "de"),
        spec=spec,
        weights=SuperTransformer.random(spec, seed=6).weights,
        text_files={SENTENCEPIECE_MODEL: tiny_bundle.text_file(SENTENCEPIECE_MODEL)},
        training_record={"updates": 70, "target_tokens_seen": 9_500_000},
        max_src_tokens=24,
    )


@pytest.fixture(scope="module")
def maker(tiny_bundle: Bundle, text: Path, tmp_path_factory: pytest.TempPathFactory) -> FigureMaker:
    """Scores the tiny bundle's points on the text."""
    cache = FigureCache(tmp_path_factory.mktemp("cache") / "figures.jsonl")
    return FigureMaker(tiny_bundle.table(), text, text, cache, QUIET)


@pytest.fixture(scope="module")
def figures(tiny_bundle: Bundle, narrow: Bundle, maker: FigureMaker) -> ReportFigures:
    """Everything a report can have."""
    return ReportFigures(
        device=tiny_bundle.table().device,
        bundle="tiny",
        languages=("en", "de"),
        weights_sha256=tiny_bundle.weights_sha256,
        training=Training(updates=None, target_tokens=None),
        dev_set="dev",
        test_set="test",
        written_at="2026-01-02",
        points=maker.points(tiny_bundle),
        alone=maker.inherited_and_alone(tiny_bundle, {"large": narrow, "middle": narrow}),
        reduced=maker.original_and_reduced(tiny_bundle, narrow),
        reduced_space=ReducedSpace(
            name_before="tiny",
            name_after="narrow",
            num_configurations_before=SPACE.num_configurations(),
            num_configurations_after=NARROW.num_configurations(),
        ),
        switch_times=TIMES,
    )


# --- what is measured ---


def test_points_are_the_tables(tiny_bundle: Bundle, figures: ReportFigures) -> None:
    """In its order, with its latencies and with losses and scores measured now."""
    table = tiny_bundle.table()
    assert [row.id for row in figures.points] == [point.id for point in table]
    assert [row.latency_ms for row in figures.points] == [table.reference_latency_ms(p) for p in table]
    assert [row.num_decoder_layers for row in figures.points] == [1, 2, 3]
    for row in figures.points:
        assert 4 < row.quality.dev_loss < 10
        assert row.quality.bleu is not None
        assert row.quality.chrf is not None


def test_inherited_and_alone_are_two_networks(figures: ReportFigures) -> None:
    """The same architecture, other weights: other losses; fastest first."""
    comparison = figures.alone
    assert comparison is not None
    assert [row.id for row in comparison.rows] == ["middle", "large"]
    inherited = {row.id: row.quality.dev_loss for row in figures.points}
    for row in comparison.rows:
        assert row.first.dev_loss == inherited[row.id]
        assert row.second is not None
        assert row.second.dev_loss != row.first.dev_loss
    assert comparison.second_training[0] == Training(updates=70, target_tokens=9_500_000)


def test_what_the_reduced_space_has_not_is_left_open(figures: ReportFigures) -> None:
    """The smallest point's feed-forward is no choice of it."""
    comparison = figures.reduced
    assert comparison is not None
    assert [row.second is None for row in comparison.rows] == [True, False, False]


def test_a_model_that_is_not_the_point_is_refused(
    tiny_bundle: Bundle, narrow: Bundle, maker: FigureMaker
) -> None:
    """By name, as is an id that the table does not have."""
    with pytest.raises(SettingsError, match=r"is not operating point 'small' trained alone.*'narrow'"):
        maker.inherited_and_alone(tiny_bundle, {"small": narrow})
    with pytest.raises(UnknownOperatingPointError, match="'huge' is unknown"):
        maker.inherited_and_alone(tiny_bundle, {"huge": narrow})


# --- what is written ---


def test_the_page_has_all_of_the_papers_tables_and_figures(figures: ReportFigures, tmp_path: Path) -> None:
    """Tables I to III, Figures 3 to 5 as pictures that exist, ours and the paper's, the paper's labelled."""
    page = write_report(figures, tmp_path)
    assert page.parent == folder_of(figures.device.name, tmp_path) == tmp_path / "made-up"
    text = page.read_text()
    for heading in ("Table I:", "Table II:", "Table III:", "Figures 3 and 4:", "Figure 5:"):
        assert f"\n## {heading}" in text
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert pictures == ["figure-3.png", "figure-4.png", "figure-5.png"]
    for picture in pictures:
        content = (page.parent / picture).read_bytes()
        assert content.startswith(b"\x89PNG")
        assert len(content) < 150_000
    for figure in ("26.17", "27.21", "1527", "7310", "minutes to hours"):
        assert figure in text
    assert text.count("The paper's (Jetson Nano") == 4
    assert "70 updates, 9.5 M target tokens" in text
    for row in figures.points:
        assert f"| {row.id} | {row.latency_ms:.1f} | {row.quality.bleu:.2f} |" in text
    assert "| dynamic: switch the operating point | 0.0030 | 0.0020 | 0.0040 | 3 |" in text


def test_the_figures_can_be_read_again(figures: ReportFigures, tmp_path: Path) -> None:
    """The JSON beside the page holds all of it."""
    page = write_report(figures, tmp_path)
    saved = json.loads((page.parent / "figures.json").read_text())
    assert ReportFigures.model_validate(saved).points == figures.points


def test_what_was_not_measured_says_how(figures: ReportFigures, tmp_path: Path) -> None:
    """No empty table and no picture that is not there."""
    bare = figures.model_copy(update={"alone": None, "reduced": None, "reduced_space": None})
    text = write_report(bare, tmp_path).read_text()
    assert "dynhat report --alone POINT=BUNDLE" in text
    assert "dynhat report --reduced BUNDLE" in text
    assert "figure-5" not in text


def test_a_comparison_stays_with_its_date_until_it_is_measured_again(
    figures: ReportFigures, tmp_path: Path
) -> None:
    """A later report without its models keeps it, and one with them replaces it; another device's is not taken."""
    write_report(figures, tmp_path)
    earlier = earlier_report(figures.device.name, tmp_path)
    assert earlier is not None
    bare = figures.model_copy(
        update={"alone": None, "reduced": None, "reduced_space": None, "written_at": "2031-01-01"}
    )
    kept = bare.with_comparisons_of(earlier)
    page = write_report(kept, tmp_path).read_text()
    assert page.count(f"Measured {figures.written_at}, with the operating points of that day") == 2
    assert "Not measured" not in page
    once_more = bare.with_comparisons_of(kept)
    assert once_more.alone is not None
    assert once_more.alone.measured_at == figures.written_at
    assert figures.with_comparisons_of(kept) == figures
    elsewhere = bare.model_copy(update={"device": figures.device.model_copy(update={"name": "another"})})
    assert elsewhere.with_comparisons_of(earlier) == elsewhere


def test_an_earlier_report_that_is_none_is_named(figures: ReportFigures, tmp_path: Path) -> None:
    """The message says what to do; no report at all is no trouble."""
    assert earlier_report(figures.device.name, tmp_path) is None
    folder = folder_of(figures.device.name, tmp_path)
    folder.mkdir()
    (folder / "figures.json").write_text("{}")
    with pytest.raises(SettingsError, match="delete it"):
        earlier_report(figures.device.name, tmp_path)


def test_a_folder_that_cannot_be_made(figures: ReportFigures, tmp_path: Path) -> None:
    """It is named, with the remedy."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="give another --out"):
        write_report(figures, tmp_path / "file")


# --- the paper's figures ---


def test_table_ii_is_that_of_the_published_points() -> None:
    """Printed twice in this project, the same both times."""
    file = Path(__file__).parent.parent / "operating_points/wmt14-en-de/paper_points.json"
    published = [p for p in PaperPoints.load(file).points if p.source == "paper, Table II"]
    assert [
        (p.latency_ms.value, p.bleu.value, p.validation_loss.value, p.config.num_decoder_layers)
        for p in published
        if p.latency_ms and p.bleu and p.validation_loss
    ] == [tuple(row) for row in TABLE_II_GPU]


def test_table_i_loses_what_the_abstract_says() -> None:
    """At most 1.5 % on average."""
    losses = [1 - row.inherited_bleu / row.from_scratch_bleu for row in TABLE_I]
    assert 0 < sum(losses) / 3 < 0.018
