"""A bundle on disk: what is written comes back, and what was tampered with is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from dynhat_runtime.errors import BundleError
from dynhat_runtime.model.checkpoint import (
    MANIFEST,
    MODEL,
    SENTENCEPIECE_MODEL,
    SHORTLIST,
    TRAINING_RECORD,
    WEIGHTS,
    Bundle,
    FileRecord,
    write_bundle,
)
from dynhat_runtime.model.super_transformer import SuperTransformer
from tests.listed_tokens import random_shortlist


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle's folder to spoil."""
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))


def test_weights_come_back(tiny_bundle: Bundle) -> None:
    """Weights are in single precision and equal to what was written, within half precision."""
    loaded = Bundle.open(tiny_bundle.path).super_transformer()
    written = SuperTransformer.random(tiny_bundle.spec, seed=5)
    for name, weight in loaded.weights.items():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight, written.weights[name], rtol=1e-3, atol=1e-6)


def test_opened_is_written(tiny_bundle: Bundle) -> None:
    """Languages, spec, record and table come back as they were written."""
    opened = Bundle.open(tiny_bundle.path)
    assert opened == tiny_bundle
    assert (opened.src_lang, opened.tgt_lang) == ("en", "de")
    assert opened.training_record() == {"updates": 0}
    assert [point.id for point in opened.table()] == ["small", "middle", "large"]


def test_what_is_loaded_is_what_was_checked(copy: Path) -> None:
    """Files that are replaced after the bundle was opened change nothing of what is loaded from it."""
    opened = Bundle.open(copy)
    before = opened.super_transformer().weights
    for name in opened.manifest.files:
        (copy / name).unlink()
        (copy / name).write_bytes(b"something else")
    after = opened.super_transformer().weights
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    assert opened.training_record() == {"updates": 0}
    assert [point.id for point in opened.table()] == ["small", "middle", "large"]
    assert len(opened.text_file(SENTENCEPIECE_MODEL)) == opened.manifest.files[SENTENCEPIECE_MODEL].size_bytes


@pytest.mark.parametrize("fault", ["cut short", "overwritten"])
def test_files_written_to_in_their_place(copy: Path, fault: str) -> None:
    """So do files that another program writes into, or cuts short, after the bundle was opened."""
    opened = Bundle.open(copy)
    before = opened.super_transformer().weights
    for name, record in opened.manifest.files.items():
        with (copy / name).open("r+b") as file:
            file.truncate(0) if fault == "cut short" else file.write(b"\xff" * record.size_bytes)
    after = opened.super_transformer().weights
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    with pytest.raises(BundleError, match="restore the file"):
        Bundle.open(copy)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_loaded_weights_are_not_the_files(tiny_bundle: Bundle, tmp_path: Path, dtype: torch.dtype) -> None:
    """Loaded weights live in memory of their own, whatever the precision at rest: changing them changes neither the
    file nor the next load."""
    write_bundle(
        tmp_path, name="tiny", languages=("en", "de"), spec=tiny_bundle.spec,
        weights=tiny_bundle.super_transformer().weights, training_record={}, max_src_tokens=20, dtype=dtype,
        text_files={SENTENCEPIECE_MODEL: tiny_bundle.text_file(SENTENCEPIECE_MODEL)},
    )  # fmt: skip
    opened = Bundle.open(tmp_path)
    opened.super_transformer().weights["encoder.embedding"].zero_()
    assert opened.super_transformer().weights["encoder.embedding"].abs().sum() > 0
    Bundle.open(tmp_path)


@pytest.mark.parametrize(
    "name", [MANIFEST, MODEL, WEIGHTS, SENTENCEPIECE_MODEL, TRAINING_RECORD, "tables/made-up.json"]
)
def test_missing_file(copy: Path, name: str) -> None:
    """A missing file is named, with the remedy."""
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"{name}.*cannot be read.*restore the file"):
        Bundle.open(copy)


@pytest.mark.parametrize(
    "name", [MODEL, WEIGHTS, SENTENCEPIECE_MODEL, TRAINING_RECORD, "tables/made-up.json"]
)
def test_truncated_file(copy: Path, name: str) -> None:
    """A truncated file is named with both sizes."""
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-3])
    with pytest.raises(
        BundleError, match=f"{name}: has {len(content) - 3} bytes, should have {len(content)}"
    ):
        Bundle.open(copy)


@pytest.mark.parametrize(
    "name", [MODEL, WEIGHTS, SENTENCEPIECE_MODEL, TRAINING_RECORD, "tables/made-up.json"]
)
def test_altered_file(copy: Path, name: str) -> None:
    """One flipped bit is noticed and the file named."""
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name}: was altered"):
        Bundle.open(copy)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format_version": 99}', b"\xff\xfe"])
def test_broken_manifest(copy: Path, content: bytes) -> None:
    """A manifest that is none is named."""
    (copy / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Bundle.open(copy)


def test_manifest_of_another_format(copy: Path) -> None:
    """A manifest of another format version is refused with both versions and where to turn."""
    manifest = {**json.loads((copy / MANIFEST).read_text()), "format_version": 2, "new_field": 1}
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(
        BundleError, match=r"format version 2, this dynhat reads version 1: install the dynhat"
    ):
        Bundle.open(copy)


def test_manifest_without_weights(copy: Path) -> None:
    """A manifest that lists no weights is refused."""
    manifest = json.loads((copy / MANIFEST).read_text())
    del manifest["files"][WEIGHTS]
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="lists no super_transformer"):
        Bundle.open(copy)


def test_impossible_design_space(copy: Path) -> None:
    """A model.json whose space contradicts itself is named, though the manifest vouches for it."""
    content = json.loads((copy / MODEL).read_text())
    content["design_space"]["encoder_attention_heads"] = [3]
    (copy / MODEL).write_text(json.dumps(content))
    manifest = json.loads((copy / MANIFEST).read_text())
    manifest["files"][MODEL] = FileRecord.of((copy / MODEL).read_bytes()).model_dump()
    (copy / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=rf"{MODEL}: encoder_attention_heads choice 3 does not divide"):
        Bundle.open(copy)


def test_table_of_other_weights(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """A table measured on other weights is refused, with the command that makes a new one."""
    other = tiny_bundle.table().model_copy(update={"weights_sha256": "0" * 64})
    other.save(tmp_path / "other.json")
    with pytest.raises(BundleError, match=r"measured on other weights.*dynhat profile"):
        tiny_bundle.table(tmp_path / "other.json")


def shortlist_content(bundle: Bundle, seed: int = 0) -> bytes:
    """A shortlist for this bundle."""
    sizes = bundle.spec.src_vocab_size, bundle.spec.tgt_vocab_size
    return random_shortlist(*sizes, per_token=5, seed=seed).as_bytes({})


def test_a_shortlist_is_one_more_file(copy: Path) -> None:
    """A bundle without has none; with one it is checked like every file, and loaded."""
    bundle = Bundle.open(copy)
    assert (bundle.shortlist(), bundle.shortlist_sha256) == (None, None)
    bundle.with_shortlist(shortlist_content(bundle))
    opened = Bundle.open(copy)
    shortlist = opened.shortlist()
    assert shortlist is not None
    assert len(shortlist.listed([7, 8, 2])) > 5
    assert opened.shortlist_sha256 == opened.manifest.files[SHORTLIST].sha256
    (copy / SHORTLIST).write_bytes(shortlist_content(bundle, seed=1))
    with pytest.raises(BundleError, match=rf"{SHORTLIST}: was altered"):
        Bundle.open(copy)


def test_a_shortlist_of_another_vocabulary(copy: Path) -> None:
    """It is refused by name when it is loaded."""
    bundle = Bundle.open(copy).with_shortlist(random_shortlist(9, 9, per_token=2).as_bytes({}))
    with pytest.raises(BundleError, match=rf"{SHORTLIST}: is for 9 source tokens, the model has "):
        bundle.shortlist()


def test_a_table_knows_its_shortlist(copy: Path, tmp_path: Path) -> None:
    """Points measured with a shortlist are not served with another, nor is it replaced beneath them."""
    bundle = Bundle.open(copy)
    bundle = bundle.with_shortlist(shortlist_content(bundle))
    first, *others = bundle.table()
    points = (first.model_copy(update={"has_shortlist": True}), *others)
    table = bundle.table().model_copy(update={"points": points, "shortlist_sha256": bundle.shortlist_sha256})
    assert bundle.with_table(table).table() == table
    other = table.model_copy(update={"shortlist_sha256": "0" * 64})
    other.save(tmp_path / "other.json")
    with pytest.raises(BundleError, match=r"measured with another vocabulary shortlist.*dynhat profile"):
        bundle.table(tmp_path / "other.json")
    served = Bundle.open(copy)
    assert served.with_shortlist(shortlist_content(bundle)).table() == table
    with pytest.raises(BundleError, match=r"made up were measured with the shortlist.*--no-shortlist"):
        served.with_shortlist(shortlist_content(bundle, seed=1))


def test_no_table_yet(tiny_bundle: Bundle) -> None:
    """A bundle without a table says how to measure one."""
    files = {
        name: record for name, record in tiny_bundle.manifest.files.items() if not name.startswith("tables")
    }
    manifest = tiny_bundle.manifest.model_copy(update={"files": files})
    bare = Bundle(tiny_bundle.path, manifest, tiny_bundle.spec, tiny_bundle.contents)
    with pytest.raises(BundleError, match=r"no operating points yet.*dynhat profile --points"):
        bare.table()


def test_table_of_this_device_is_preferred(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several tables the one measured on this device is served."""
    bundle = Bundle.open(copy)
    table = bundle.table()
    here = table.model_copy(
        update={"device": table.device.model_copy(update={"name": "a board", "num_cpus": 7})}
    )
    bundle = bundle.with_table(here)
    monkeypatch.setattr("dynhat_runtime.model.checkpoint.device_name", lambda: "a board")
    assert Bundle.open(copy).table().device.num_cpus == 7
    monkeypatch.setattr("dynhat_runtime.model.checkpoint.device_name", lambda: "made up")
    assert Bundle.open(copy).table().device.num_cpus == 2
