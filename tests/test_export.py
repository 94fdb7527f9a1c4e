"""From a training run to a bundle: which weights, and what is written about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import save_file

from dynhat_runtime.decoding.tokenizer import SentencePieceTokenizer
from dynhat_runtime.errors import BundleError, TrainingError
from dynhat_runtime.model.checkpoint import SENTENCEPIECE_MODEL, Bundle
from dynhat_runtime.offline.export import export_bundle
from dynhat_runtime.offline.prepare import prepare
from dynhat_runtime.offline.recipe import Recipe
from tests.toy_bundle import toy_super_transformer
from tests.toy_text import toy_tokenizer_model
from tests.toy_training import toy_fields, toy_recipe, write_toy_data


def _recipe(**sections: dict[str, Any]) -> Recipe:
    return toy_recipe(**{"model": {"norm_first": False}, **sections})


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with three checkpoints of random weights and two validations."""
    folder = tmp_path / "run"
    (folder / "weights").mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(toy_tokenizer_model())
    for seed, update in enumerate((100, 200, 300)):
        weights = toy_super_transformer(seed).weights
        save_file(weights, folder / "weights" / f"update_{update:08d}.safetensors")
    rows = [
        {"kind": "train", "update": 100, "nll": 3.0},
        *(
            {
                "kind": "dev",
                "update": update,
                "num_tokens_seen": 50 * update,
                "dev_loss_largest": loss,
                "dev_nll_largest": loss - 0.5,
                "dev_loss_smallest": loss + 0.25,
                "dev_nll_smallest": loss + 0.125,
            }
            for update, loss in ((200, 3.5), (300, 3.0), (400, 2.5))
        ),
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_bundle_can_be_opened(run_dir: Path, tmp_path: Path) -> None:
    """An exported bundle passes every check, and has the recipe's space, languages and lengths."""
    export_bundle(_recipe(), run_dir, tmp_path / "out", num_averaged=2)
    bundle = Bundle.open(tmp_path / "out")
    assert bundle.manifest.no_repeat_size == 4
    assert bundle.design_space == _recipe().model.space
    assert (bundle.src_lang, bundle.tgt_lang, bundle.manifest.name) == ("en", "de", "en-de")
    assert bundle.manifest.max_src_tokens == 60
    assert bundle.spec.norm_first is False
    assert (
        SentencePieceTokenizer(bundle.text_file(SENTENCEPIECE_MODEL)).src_vocab_size
        == bundle.spec.src_vocab_size
    )


@pytest.mark.parametrize(("num_averaged", "seeds"), [(1, [2]), (2, [1, 2]), (10, [0, 1, 2])])
def test_weights_are_the_average_of_the_last(
    run_dir: Path, tmp_path: Path, num_averaged: int, seeds: list[int]
) -> None:
    """The bundle's weights are the mean of the last checkpoints, within half precision."""
    bundle = export_bundle(_recipe(), run_dir, tmp_path / "out", num_averaged)
    parts = [toy_super_transformer(seed).weights for seed in seeds]
    for name, weight in bundle.super_transformer().weights.items():
        mean = torch.stack([part[name] for part in parts]).mean(dim=0)
        torch.testing.assert_close(weight, mean, rtol=2**-11, atol=1e-7)
        assert weight.dtype == torch.float32


def test_points_can_be_cut_from_it(run_dir: Path, tmp_path: Path) -> None:
    """The bundle's SuperTransformer gives a SubTransformer that computes."""
    bundle = export_bundle(_recipe(), run_dir, tmp_path / "out", num_averaged=1)
    sub = bundle.super_transformer().extract(bundle.design_space.smallest())
    assert sub.logits(torch.tensor([[300, 2]]), torch.tensor([[2]])).isfinite().all()


def test_bundle_has_no_points_yet(run_dir: Path, tmp_path: Path) -> None:
    """Asked for its operating points, a fresh bundle says how to measure them."""
    bundle = export_bundle(_recipe(), run_dir, tmp_path / "out", num_averaged=1)
    with pytest.raises(BundleError, match="no operating points yet: measure them with 'dynhat profile"):
        bundle.table()


# --- the training record ---


def _record(run_dir: Path, out: Path, recipe: Recipe) -> dict[str, Any]:
    return export_bundle(recipe, run_dir, out, num_averaged=2).training_record()


def test_record_lists_data_and_licences(run_dir: Path, tmp_path: Path) -> None:
    """The training record names every corpus with its licence, and the dev set."""
    corpora = [
        {"file": "a.tsv.gz", "licence": "CC0"},
        {"file": "b.tsv.gz", "licence": "CC-BY 2.0 FR, Tatoeba contributors", "weight": 2.0},
    ]
    recipe = _recipe(data={**toy_fields()["data"], "corpora": corpora})
    record = _record(run_dir, tmp_path / "out", recipe)
    assert [(entry["file"], entry["licence"], entry["weight"]) for entry in record["data"]] == [
        ("a.tsv.gz", "CC0", 1.0),
        ("b.tsv.gz", "CC-BY 2.0 FR, Tatoeba contributors", 2.0),
    ]
    assert record["dev_set"] == ["dev.tsv.gz"]


def test_record_tells_of_the_last_checkpoint(run_dir: Path, tmp_path: Path) -> None:
    """Updates, tokens and dev losses are those at the last checkpoint averaged, not of what came after it."""
    record = _record(run_dir, tmp_path / "out", _recipe())
    assert (record["updates"], record["target_tokens_seen"], record["seed"]) == (300, 15_000, 1)
    assert record["checkpoints_averaged"] == ["update_00000200", "update_00000300"]
    assert record["dev_loss"]["dev_loss_largest"] == 3.0
    assert [row["update"] for row in record["dev_loss_history"]] == [200, 300]


def test_record_holds_the_recipe(run_dir: Path, tmp_path: Path) -> None:
    """The recipe can be read back from the record."""
    record = _record(run_dir, tmp_path / "out", _recipe())
    data = {**toy_fields()["data"], "corpora": record["data"]}
    assert Recipe.model_validate({**record["recipe"], "data": data}) == _recipe()


# --- what cannot be exported ---


def test_run_without_a_checkpoint(tmp_path: Path) -> None:
    """A run that has saved nothing yet is refused, saying so, and nothing is written."""
    (tmp_path / "run").mkdir()
    with pytest.raises(TrainingError, match="no checkpoint to average: train first"):
        export_bundle(_recipe(), tmp_path / "run", tmp_path / "out", num_averaged=2)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("metrics", [None, '{"kind": "train", "update": 100, "nll": 3.0}\n'])
def test_run_without_a_validation(run_dir: Path, tmp_path: Path, metrics: str | None) -> None:
    """A run that was never validated is refused by its metrics file, and nothing is written."""
    (run_dir / "metrics.jsonl").unlink()
    if metrics is not None:
        (run_dir / "metrics.jsonl").write_text(metrics)
    with pytest.raises(TrainingError, match=r"metrics\.jsonl: no dev loss yet"):
        export_bundle(_recipe(), run_dir, tmp_path / "out", num_averaged=2)
    assert not (tmp_path / "out").exists()


def test_run_of_another_recipe(run_dir: Path, tmp_path: Path) -> None:
    """A run exported with another recipe than it was trained with is refused, and nothing is written."""
    with pytest.raises(TrainingError, match=r"run was not trained with this recipe: weight '.*norm"):
        export_bundle(_recipe(model={"norm_first": True}), run_dir, tmp_path / "out", num_averaged=2)
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written(run_dir: Path, tmp_path: Path) -> None:
    """An output path that is a file is refused by name."""
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(BundleError, match="out: cannot be written"):
        export_bundle(_recipe(), run_dir, tmp_path / "out", num_averaged=1)


def test_record_has_what_stayed_of_the_data(run_dir: Path, tmp_path: Path) -> None:
    """The record says hours, tokens over the training, how text was cleaned, and what stayed of each corpus."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    rows = [{**row, "hours": row["update"] / 1000} for row in rows]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_toy_data(tmp_path)
    data = prepare(
        _recipe().data,
        tmp_path,
        tmp_path / "prepared",
        tokenizer=run_dir / "tokenizer.model",
        console=Console(quiet=True),
    )
    (run_dir / "data.json").write_bytes((data.path / "prepared.json").read_bytes())
    record = export_bundle(_recipe(), run_dir, tmp_path / "out", num_averaged=1).training_record()
    assert record["hours"] == 0.3
    assert [row["num_tokens_seen"] for row in record["dev_loss_history"]] == [10_000, 15_000]
    assert record["cleaning"]["max_length_ratio"] == 2.2
    (corpus,) = record["data"]
    assert corpus["num_pairs"] == data.manifest.corpora[0].num_pairs > 0
    assert corpus["num_lines"] == corpus["num_pairs"] + sum(corpus["removed"].values()) == 300
