"""What the design-time commands leave in a bundle, on a tiny one of random weights."""

from __future__ import annotations

import contextlib
import csv
import sys
from pathlib import Path
from typing import Any

import pytest

from dynhat_runtime.decoding.translator import SentenceTranslation
from dynhat_runtime.errors import BundleError, SettingsError, UnknownOperatingPointError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.offline import commands, profile
from dynhat_runtime.offline.commands import EvaluateOptions, evaluate_bundle, profile_bundle
from dynhat_runtime.offline.profile import ProfileOptions
from dynhat_runtime.operating_point import OperatingPointTable
from tests.listed_tokens import shortlist_of
from tests.native_library import native_library
from tests.toy_bundle import write_toy_bundle
from tests.toy_text import toy_pairs, write_pairs

OPTIONS = ProfileOptions(num_runs=5, beam_size=2, lengths=(10,))
POINTS = """
[[points]]
id = "wide"
num_decoder_layers = 2
encoder_embed_dim = 16
encoder_ffn_dim = 24
decoder_embed_dim = 16
decoder_ffn_dim = 24
num_heads = 4

[[points]]
id = "narrow"
num_decoder_layers = 1
encoder_embed_dim = 8
encoder_ffn_dim = 16
decoder_embed_dim = 8
decoder_ffn_dim = 16
num_heads = 2
"""


@pytest.fixture(autouse=True)
def _made_up_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder layer takes 10 ms."""
    monkeypatch.setattr(profile, "busy_neighbours", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(profile, "measure_once", lambda sub, *_: (1.0, 10.0 * sub.config.num_decoder_layers))


@pytest.fixture
def bundle_path(tmp_path: Path) -> Path:
    """A bundle without operating points."""
    return write_toy_bundle(tmp_path / "bundle").path


@pytest.fixture
def points_file(tmp_path: Path) -> Path:
    """Two points chosen by hand."""
    (tmp_path / "points.toml").write_text(POINTS)
    return tmp_path / "points.toml"


@pytest.fixture
def test_set(tmp_path: Path) -> Path:
    """A few pairs."""
    return write_pairs(tmp_path / "toy_test.tsv.gz", toy_pairs(6, seed=3))


def _profile(
    path: Path,
    *,
    points_file: Path | None = None,
    dev: Path | None = None,
    test: Path | None = None,
    out: Path | None = None,
) -> Path:
    return profile_bundle(path, points_file=points_file, dev=dev, test=test, options=OPTIONS, out=out)


def test_points_go_into_the_bundle(bundle_path: Path, points_file: Path) -> None:
    """Measured points stand in the bundle's table, which its manifest vouches for."""
    _profile(bundle_path, points_file=points_file)
    table = Bundle.open(bundle_path).table()
    assert [point.id for point in table] == ["narrow", "wide"]
    assert [point.dev_loss for point in table] == [None, None]


def test_quality_is_measured_on_request_and_kept_afterwards(
    bundle_path: Path, points_file: Path, test_set: Path
) -> None:
    """Dev loss and BLEU are measured with --dev and --test, and carried over by a later profile without them."""
    _profile(bundle_path, points_file=points_file, dev=test_set, test=test_set)
    first = Bundle.open(bundle_path).table()
    for point in first:
        assert point.dev_loss is not None
        assert point.dev_loss > 3
        assert point.bleu is not None
        assert point.bleu_signature is not None
        assert point.bleu_signature.startswith("toy_test|nrefs:1|")
        assert point.bleu_signature.endswith("|beam:2")
    assert first["wide"].dev_loss != first["narrow"].dev_loss
    _profile(bundle_path)
    again = Bundle.open(bundle_path).table()
    assert [(p.id, p.dev_loss, p.bleu) for p in again] == [(p.id, p.dev_loss, p.bleu) for p in first]


def test_int8_points_have_scores_of_their_own(bundle_path: Path, points_file: Path, test_set: Path) -> None:
    """Points measured in int8 say so, with their threads; figures of fp32 are not theirs."""
    native_library()
    _profile(bundle_path, points_file=points_file, dev=test_set, test=test_set)
    first = Bundle.open(bundle_path).table()
    profile_bundle(
        bundle_path,
        points_file=None,
        dev=None,
        test=None,
        options=OPTIONS,
        out=None,
        precision="int8",
        num_threads=2,
    )
    again = Bundle.open(bundle_path).table()
    assert [(p.id, p.precision, p.num_threads) for p in again] == [("narrow", "int8", 2), ("wide", "int8", 2)]
    assert [(p.dev_loss, p.bleu) for p in again] == [(None, None), (None, None)]
    assert all(p.dev_loss is not None for p in first)
    assert [(p.precision, p.num_threads) for p in first] == [("fp32", 1), ("fp32", 1)]


def test_points_get_the_shortlist(bundle_path: Path, points_file: Path, test_set: Path) -> None:
    """Points measured with the shortlist say so and have scores of their own; the loss is the whole vocabulary's."""
    bundle = Bundle.open(bundle_path)
    # Only the end of a sentence is listed: what is said with it is nothing.
    sizes = bundle.spec.src_vocab_size, bundle.spec.tgt_vocab_size
    only_the_end = shortlist_of({}, src_vocab_size=sizes[0], tgt_vocab_size=sizes[1], common=[2, 300])
    bundle = bundle.with_shortlist(only_the_end.as_bytes({}))
    _profile(bundle_path, points_file=points_file, dev=test_set, test=test_set)
    without = Bundle.open(bundle_path).table()
    assert without.shortlist_sha256 is None
    for has_shortlist in (True, None):  # all get it; each keeps its own
        profile_bundle(
            bundle_path, points_file=None, dev=None, test=test_set, options=OPTIONS, out=None,
            has_shortlist=has_shortlist,
        )  # fmt: skip
        table = Bundle.open(bundle_path).table()
        assert table.shortlist_sha256 == bundle.shortlist_sha256
        assert all(point.has_shortlist for point in table)
        assert [point.dev_loss for point in table] == [point.dev_loss for point in without]
        assert all(with_it.chrf != point.chrf for with_it, point in zip(table, without, strict=True))
    profile_bundle(
        bundle_path, points_file=None, dev=None, test=None, options=OPTIONS, out=None, has_shortlist=False
    )
    again = Bundle.open(bundle_path).table()
    assert [(p.has_shortlist, p.bleu, p.dev_loss) for p in again] == [
        (False, None, point.dev_loss) for point in without
    ]
    (row, *_) = evaluate_bundle(bundle_path, test_set)
    assert row["chrf"] == without[row["id"]].chrf


def test_a_shortlist_that_is_not_there(bundle_path: Path, points_file: Path) -> None:
    """Points cannot be measured with one before it was made."""
    with pytest.raises(BundleError, match="the bundle has none: make it with 'dynhat make-shortlist'"):
        profile_bundle(
            bundle_path, points_file=points_file, dev=None, test=None, options=OPTIONS, out=None,
            has_shortlist=True,
        )  # fmt: skip


def test_table_elsewhere_leaves_the_bundle_alone(
    bundle_path: Path, points_file: Path, tmp_path: Path
) -> None:
    """With --out the table is written there and the bundle keeps having none."""
    assert _profile(bundle_path, points_file=points_file, out=tmp_path / "t.json") == tmp_path / "t.json"
    assert len(OperatingPointTable.load(tmp_path / "t.json")) == 2
    with pytest.raises(BundleError, match="no operating points yet"):
        Bundle.open(bundle_path).table()


def test_table_that_cannot_be_written(bundle_path: Path, points_file: Path, tmp_path: Path) -> None:
    """An --out in a folder that does not exist is refused by name."""
    with pytest.raises(SettingsError, match=r"t\.json: cannot be written .*--out"):
        _profile(bundle_path, points_file=points_file, out=tmp_path / "absent" / "t.json")


def test_evaluation_scores_every_point(bundle_path: Path, points_file: Path, test_set: Path) -> None:
    """Without a point all are scored, with signatures that name the test set; the limit is kept."""
    _profile(bundle_path, points_file=points_file)
    rows = evaluate_bundle(bundle_path, test_set, options=EvaluateOptions(beam_size=1, limit=4))
    assert [row["id"] for row in rows] == ["narrow", "wide"]
    for row in rows:
        assert (row["num_sentences"], row["beam_size"], row["length_penalty"]) == (4, 1, 0.6)
        assert 0 <= row["bleu"] <= 100
        assert row["bleu_signature"].startswith("toy_test|")
        assert row["chrf_signature"].startswith("toy_test|")


def test_evaluation_of_one_point(bundle_path: Path, points_file: Path, test_set: Path) -> None:
    """A named point is scored alone; an unknown one is refused, listing the known."""
    _profile(bundle_path, points_file=points_file)
    (row,) = evaluate_bundle(bundle_path, test_set, ["wide"], EvaluateOptions(beam_size=1, limit=2))
    assert row["id"] == "wide"
    with pytest.raises(UnknownOperatingPointError, match="'huge' is unknown: choose one of narrow, wide"):
        evaluate_bundle(bundle_path, test_set, ["huge"], EvaluateOptions(beam_size=1, limit=2))


def test_evaluation_with_split_compounds(bundle_path: Path, points_file: Path, test_set: Path) -> None:
    """On request the rows hold HAT's BLEU and its signature; otherwise they do not."""
    pytest.importorskip("sacremoses")
    _profile(bundle_path, points_file=points_file)
    (row,) = evaluate_bundle(
        bundle_path, test_set, ["wide"], EvaluateOptions(beam_size=1, limit=2, compound_split=True)
    )
    assert 0 <= row["compound_split_bleu"] <= 100
    assert row["compound_split_bleu_signature"].startswith("toy_test|words:moses-de|compounds:split|")
    (row,) = evaluate_bundle(bundle_path, test_set, ["wide"], EvaluateOptions(beam_size=1, limit=2))
    assert "compound_split_bleu" not in row


def test_evaluation_counts_what_is_wrong_in_form(
    bundle_path: Path, points_file: Path, test_set: Path
) -> None:
    """On request the rows hold counts of degenerate output and of what was lost; otherwise they do not."""
    _profile(bundle_path, points_file=points_file)
    (row,) = evaluate_bundle(bundle_path, test_set, ["wide"], EvaluateOptions(beam_size=1, check_output=True))
    assert row["num_final_marks"] == row["num_initial_cases"] == row["num_sentences"] == 6
    assert row["num_repetition"] + row["num_too_long"] > 0  # random weights ramble
    assert row["num_final_marks_lost"] > 0
    (row,) = evaluate_bundle(bundle_path, test_set, ["wide"], EvaluateOptions(beam_size=1, limit=2))
    assert "num_repetition" not in row


# --- what an evaluation leaves ---


def test_several_points_fastest_first(bundle_path: Path, points_file: Path, test_set: Path) -> None:
    """Points asked for come fastest first, once each, with the table's latency."""
    _profile(bundle_path, points_file=points_file)
    options = EvaluateOptions(beam_size=1, limit=2)
    rows = evaluate_bundle(bundle_path, test_set, ["wide", "narrow", "wide"], options)
    assert [(row["id"], row["latency_ms"]) for row in rows] == [("narrow", 11.0), ("wide", 21.0)]


def test_length_penalty(
    bundle_path: Path, points_file: Path, test_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search gets the bundle's own penalty, or the one asked for, and rows say which."""
    _profile(bundle_path, points_file=points_file)
    asked: list[float] = []

    def translate_all(_translator, _sub, sources, options, _progress) -> list[SentenceTranslation]:
        asked.append(options.length_penalty)
        return [SentenceTranslation(source, (), (), ()) for source in sources]

    monkeypatch.setattr(commands, "translate_all", translate_all)
    rows = [
        evaluate_bundle(bundle_path, test_set, ["wide"], EvaluateOptions(length_penalty=penalty))[0]
        for penalty in (None, 1.0, 0.0)
    ]
    assert asked == [row["length_penalty"] for row in rows] == [0.6, 1.0, 0.0]


def test_files_are_written_after_every_point(
    bundle_path: Path, points_file: Path, test_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CSV and Markdown hold every finished point when an evaluation is interrupted, and nothing half-written."""
    _profile(bundle_path, points_file=points_file)
    options = EvaluateOptions(beam_size=1, limit=2, csv=tmp_path / "s.csv", markdown=tmp_path / "s.md")
    real = commands.translate_all

    def interrupted_at_the_second(*arguments: Any) -> list[SentenceTranslation]:
        if options.csv and options.csv.exists():
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(commands, "translate_all", interrupted_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        evaluate_bundle(bundle_path, test_set, options=options)
    with (tmp_path / "s.csv").open() as file:
        assert [(row["id"], row["latency_ms"]) for row in csv.DictReader(file)] == [("narrow", "11.0")]
    assert "| narrow | 11.0 |" in (tmp_path / "s.md").read_text()
    assert list(tmp_path.glob("*.partial")) == []
    monkeypatch.setattr(commands, "translate_all", real)
    rows = evaluate_bundle(bundle_path, test_set, options=options)
    with (tmp_path / "s.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [float(row["bleu"]) for row in read] == [row["bleu"] for row in rows]
    assert read[1]["bleu_signature"] == rows[1]["bleu_signature"]


def test_files_that_cannot_be_written_are_named_first(
    bundle_path: Path, points_file: Path, test_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file in a folder that is not there is refused before anything is translated, and so is missing sacremoses."""
    _profile(bundle_path, points_file=points_file)
    monkeypatch.setattr(commands, "translate_all", None)
    for option in ("csv", "markdown"):
        options = EvaluateOptions(**{option: tmp_path / "absent" / "s"})
        with pytest.raises(SettingsError, match=rf"absent.*cannot be written .*give --{option}"):
            evaluate_bundle(bundle_path, test_set, options=options)
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    with pytest.raises(SettingsError, match=r"sacremoses is not installed.*\[hat\]"):
        evaluate_bundle(bundle_path, test_set, options=EvaluateOptions(compound_split=True))
