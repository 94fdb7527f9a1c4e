"""From candidates to a table: what is measured, what is dropped, what an interrupted run finds again."""

from __future__ import annotations

import csv
import gzip
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.errors import DynhatError, SettingsError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.offline import export_points, point_scorer
from dynhat_runtime.offline.evaluate import dev_loss_as_decoded
from dynhat_runtime.offline.export_points import ExportOptions, PointExporter
from dynhat_runtime.offline.figure_cache import FigureCache
from dynhat_runtime.offline.point_scorer import PointScorer
from dynhat_runtime.offline.point_selection import Contender
from dynhat_runtime.offline.profile import PointToMeasure, ProfileOptions
from dynhat_runtime.operating_point import LatencyMeasurement, OperatingPointTable, Precision
from tests.listed_tokens import random_shortlist
from tests.native_library import native_library
from tests.tiny_bundle import SENTENCES, SPACE, point_configs

QUIET = Console(quiet=True)
PROFILE = ProfileOptions(num_runs=5, beam_size=2, lengths=(10, 30), num_turns=1)
SMALL, MIDDLE, LARGE = point_configs()
SPANNING = LARGE.model_copy(update={"cross_attention_spans": (2, 1, 1)})
LATENCY_MS = {SMALL: 10.0, MIDDLE: 20.0, LARGE: 40.0, SPANNING: 30.0}
LOSS = {SMALL: 4.0, MIDDLE: 3.0, LARGE: 2.0, SPANNING: 3.5}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A test set of twelve pairs."""
    path = tmp_path / "text.tsv.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{sentence}\t{sentence}\n" for sentence in SENTENCES[:12])
    return path


def exporter(
    bundle: Bundle,
    tmp_path: Path,
    dev: Path,
    test: Path | None = None,
    precisions: tuple[Precision, ...] = ("fp32",),
    **options: Any,
) -> PointExporter:
    """An exporter with few runs; its cache stays in `tmp_path`."""
    cache = FigureCache(tmp_path / "figures.jsonl")
    scorer = PointScorer(
        bundle,
        dev,
        test,
        beam_size=PROFILE.beam_size,
        cache=cache,
        console=QUIET,
        precisions=precisions,
    )
    return PointExporter(bundle, scorer, ExportOptions(profile=PROFILE, **options), QUIET)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[SubTransformerConfig]:
    """Losses and reference latencies as in the tables above; lists whose loss was measured."""
    measured: list[SubTransformerConfig] = []

    def loss(_: SuperTransformer, config: SubTransformerConfig, *rest: object) -> float:
        measured.append(config)
        return LOSS[config]

    def latencies(
        _: SuperTransformer, points: Sequence[PointToMeasure], *rest: object
    ) -> dict[str, LatencyMeasurement]:
        return {point.id: _row(LATENCY_MS[point.config]) for point in points}

    real = export_points.profile_points

    def profiled(
        bundle: Bundle, network: SuperTransformer, points: Sequence[PointToMeasure], *rest: Any
    ) -> OperatingPointTable:
        table = real(bundle, network, points, *rest)
        told = [point.model_copy(update={"latencies": (_row(LATENCY_MS[point.config]),)}) for point in table]
        ordered = sorted(told, key=lambda point: point.latencies[0].total_ms)
        return table.model_copy(update={"points": tuple(ordered)})

    monkeypatch.setattr(point_scorer, "dev_loss", loss)
    monkeypatch.setattr(export_points, "reference_latencies", latencies)
    monkeypatch.setattr(export_points, "profile_points", profiled)
    return measured


def _row(total_ms: float) -> LatencyMeasurement:
    return LatencyMeasurement(
        num_cpus=2,
        num_src_tokens=30,
        num_tgt_tokens=30,
        encoder_ms=total_ms / 2,
        decoder_ms=total_ms / 2,
        total_ms=total_ms,
        std_ms=0.0,
        num_runs=5,
    )


def test_everything_is_measured(tiny_bundle: Bundle, tmp_path: Path, text: Path) -> None:
    """Latency at every length and state, dev loss, BLEU and chrF with signatures; loadable by the daemon."""
    found = exporter(tiny_bundle, tmp_path, text, text).export(
        [Contender(SMALL, id="mine"), Contender(LARGE, predicted_ms=9.0)]
    )
    table = found.table
    assert "mine" in {point.id for point in table}
    for point in table:
        assert {row.num_src_tokens for row in point.latencies} == {10, 30}
        assert {row.num_busy_neighbours for row in point.latencies} == {0, 1}
        assert point.dev_loss is not None
        assert point.bleu is not None
        assert point.chrf is not None
        assert str(point.bleu_signature).startswith("text|nrefs:1|")
        assert str(point.bleu_signature).endswith("|beam:2")
        assert "chrF" not in str(point.bleu_signature)
        assert "nc:6" in str(point.chrf_signature)
    table.check_against(SPACE)
    table.save(tmp_path / "table.json")
    assert OperatingPointTable.load(tmp_path / "table.json") == table


def test_what_something_faster_says_as_well_is_dropped(
    tiny_bundle: Bundle, tmp_path: Path, text: Path, told: list[SubTransformerConfig]
) -> None:
    """The front stays, fastest first, with names; every candidate's fate is told."""
    subject = exporter(tiny_bundle, tmp_path, text)
    found = subject.export([Contender(c, predicted_ms=1.0) for c in (LARGE, SPANNING, SMALL, MIDDLE, SMALL)])
    assert [(point.id, point.config) for point in found.table] == [
        ("l1", SMALL),
        ("l2", MIDDLE),
        ("l3", LARGE),
    ]
    assert [point.dev_loss for point in found.table] == [4.0, 3.0, 2.0]
    assert told == [LARGE, SPANNING, SMALL, MIDDLE]
    rows = list(csv.DictReader(io.StringIO(subject.fates_csv(found))))
    assert [(row["id"], row["latency_ms"], row["fate"]) for row in rows] == [
        ("l1", "10.0", "operating point"),
        ("l2", "20.0", "operating point"),
        ("", "30.0", "dominated"),
        ("l3", "40.0", "operating point"),
    ]
    assert rows[0]["gene"] == "-".join(map(str, SPACE.gene(SMALL)))


def test_every_precision_contends(
    tiny_bundle: Bundle, tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every architecture is measured at every precision; what stays is named for it, with figures of its own."""
    native_library()
    losses = {("fp32", SMALL): 4.0, ("int8", SMALL): 4.5, ("fp32", LARGE): 2.0, ("int8", LARGE): 2.1}
    monkeypatch.setattr(PointScorer, "dev_loss", lambda _, config, precision: losses[precision, config])
    latencies = {("fp32", SMALL): 9.0, ("int8", SMALL): 10.0, ("fp32", LARGE): 40.0, ("int8", LARGE): 20.0}
    monkeypatch.setattr(
        export_points,
        "reference_latencies",
        lambda _, points, *rest: {p.id: _row(latencies[p.precision, p.config]) for p in points},
    )
    subject = exporter(tiny_bundle, tmp_path, text, precisions=("fp32", "int8"))
    monkeypatch.setattr(subject, "_without_dominated", lambda table: table)
    found = subject.export([Contender(LARGE, predicted_ms=2.0), Contender(SMALL, id="mine")])
    assert {(point.id, point.precision, point.config) for point in found.table} == {
        ("mine", "fp32", SMALL),
        ("l3-int8", "int8", LARGE),
        ("l3", "fp32", LARGE),
    }
    rows = list(csv.DictReader(io.StringIO(subject.fates_csv(found))))
    assert [(row["precision"], row["fate"]) for row in rows] == [
        ("fp32", "operating point"),
        ("int8", "dominated"),
        ("int8", "operating point"),
        ("fp32", "operating point"),
    ]


def test_a_shortlist_contends(
    tiny_bundle: Bundle,
    tmp_path: Path,
    text: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the bundle has a shortlist every architecture is measured with it and without; of the same loss the faster
    one stays, is named for it, and has scores of its own."""
    copied = Bundle.open(Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle")))
    sizes = copied.spec.src_vocab_size, copied.spec.tgt_vocab_size
    bundle = copied.with_shortlist(random_shortlist(*sizes, per_token=5).as_bytes({}))
    monkeypatch.setattr(PointScorer, "dev_loss", lambda _, config, precision: LOSS[config])
    latencies = {(SMALL, True): 8.0, (SMALL, False): 10.0, (LARGE, True): 41.0, (LARGE, False): 40.0}
    monkeypatch.setattr(
        export_points,
        "reference_latencies",
        lambda _, points, *rest: {p.id: _row(latencies[p.config, p.has_shortlist]) for p in points},
    )
    candidates = [Contender(LARGE, predicted_ms=2.0), Contender(SMALL, id="mine")]
    subject = exporter(bundle, tmp_path, text, text)
    monkeypatch.setattr(subject, "_without_dominated", lambda table: table)
    found = subject.export(candidates)
    chosen = {point.id: point for point in found.table}
    assert {point_id: point.has_shortlist for point_id, point in chosen.items()} == {
        "mine-short": True,
        "l3": False,
    }
    assert found.table.shortlist_sha256 == bundle.shortlist_sha256
    without = subject._scorer.quality(SMALL, "fp32", "mine")
    assert chosen["mine-short"].chrf != without.chrf
    rows = list(csv.DictReader(io.StringIO(subject.fates_csv(found))))
    assert [(row["has_shortlist"], row["fate"]) for row in rows] == [
        ("True", "operating point"),
        ("False", "dominated"),
        ("False", "operating point"),
        ("True", "dominated"),
    ]
    subject = exporter(bundle, tmp_path, text, have_shortlists=(False,))
    monkeypatch.setattr(subject, "_without_dominated", lambda table: table)
    without_any = subject.export(candidates).table
    assert [point.has_shortlist for point in without_any] == [False, False]
    assert without_any.shortlist_sha256 is None


def test_a_loss_is_that_of_the_precision(tiny_bundle: Bundle, tmp_path: Path, text: Path) -> None:
    """An int8 point's loss is measured on its int8 weights: near the fp32 one, and not it."""
    native_library()
    scorer = PointScorer(
        tiny_bundle, text, None, beam_size=2, cache=FigureCache(tmp_path / "figures.jsonl"), console=QUIET
    )
    assert scorer.precisions == ("fp32", "int8")
    fp32, int8 = scorer.dev_loss(LARGE), scorer.dev_loss(LARGE, "int8")
    assert fp32 != int8
    assert int8 == pytest.approx(fp32, rel=0.01)
    as_decoded = dev_loss_as_decoded(
        scorer.decoding.extract(LARGE), scorer._dev_batches, tiny_bundle.spec.pad_id
    )
    assert as_decoded == pytest.approx(fp32, abs=2e-4)


def test_a_long_front_is_thinned(
    tiny_bundle: Bundle, tmp_path: Path, text: Path, told: list[SubTransformerConfig]
) -> None:
    """To so many points, both ends kept; so are the candidates that are measured at all."""
    candidates = [Contender(c, predicted_ms=LATENCY_MS[c]) for c in (SMALL, MIDDLE, LARGE)]
    found = exporter(tiny_bundle, tmp_path, text, max_points=2).export(candidates)
    assert [point.config for point in found.table] == [SMALL, LARGE]
    assert [fate for _, fate in found.fates][1] == "on the front, left out for a shorter table"
    told.clear()
    other = exporter(tiny_bundle, tmp_path / "other", text, max_candidates=2).export(candidates)
    assert told == [SMALL, LARGE]
    assert [fate for _, fate in other.fates][-1] == "not measured"


def test_an_interrupted_run_goes_on(
    tiny_bundle: Bundle, tmp_path: Path, text: Path, told: list[SubTransformerConfig]
) -> None:
    """Losses that were measured are found again."""
    candidates = [Contender(c, predicted_ms=1.0) for c in (SMALL, MIDDLE, LARGE)]
    first = exporter(tiny_bundle, tmp_path, text).export(candidates)
    told.clear()
    again = exporter(tiny_bundle, tmp_path, text).export(candidates)
    assert told == []
    assert [point.dev_loss for point in again.table] == [point.dev_loss for point in first.table]


def test_other_text_is_measured_anew(
    tiny_bundle: Bundle, tmp_path: Path, text: Path, told: list[SubTransformerConfig]
) -> None:
    """A loss belongs to the text it was measured on."""
    exporter(tiny_bundle, tmp_path, text).export([Contender(SMALL)])
    shorter = tmp_path / "shorter.tsv.gz"
    with gzip.open(shorter, "wt", encoding="utf-8") as file:
        file.write("a\tb\n")
    exporter(tiny_bundle, tmp_path, shorter).export([Contender(SMALL)])
    assert told == [SMALL, SMALL]


def test_bad_input_is_named(tiny_bundle: Bundle, tmp_path: Path, text: Path) -> None:
    """No candidate; a text that is not there."""
    with pytest.raises(SettingsError, match="no candidate"):
        exporter(tiny_bundle, tmp_path, text).export([])
    with pytest.raises(DynhatError, match="nowhere"):
        exporter(tiny_bundle, tmp_path, tmp_path / "nowhere.tsv.gz")
