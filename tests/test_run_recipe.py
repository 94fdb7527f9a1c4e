"""One operating point trained alone, from the command to a bundle that serves it; other budgets; mixed-up runs."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from dynhat_runtime.cli import app
from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.errors import DynhatError, SettingsError, TrainingError, UnknownOperatingPointError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.offline import profile
from dynhat_runtime.offline.commands import EvaluateOptions, evaluate_bundle
from dynhat_runtime.offline.export import export_bundle
from dynhat_runtime.offline.recipe import Recipe
from dynhat_runtime.offline.run_folder import RunFolder
from dynhat_runtime.offline.run_recipe import recipe_to_run
from dynhat_runtime.offline.train import train
from dynhat_runtime.offline.trainer import Trainer, configs_to_validate, draw_configs
from tests.toy_text import toy_tokenizer_model
from tests.toy_training import TOY_SPACE, as_toml, toy_fields, toy_recipe, write_toy_data

SPACE = DesignSpace.model_validate(TOY_SPACE)
MIXED = SubTransformerConfig(
    encoder_embed_dim=8,
    encoder_ffn_dims=(16, 24),
    encoder_attention_heads=(2, 4),
    decoder_embed_dim=16,
    decoder_ffn_dims=(16,),
    decoder_attention_heads=(2,),
    cross_attention_heads=(4,),
    cross_attention_spans=(2,),
)
"""Two encoder layers that differ, one decoder layer."""


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up corpora."""
    return write_toy_data(tmp_path_factory.mktemp("toy_data"))


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    """The toy recipe as a file."""
    (tmp_path / "toy.toml").write_text(as_toml(toy_fields()))
    return tmp_path / "toy.toml"


@pytest.fixture
def points(tmp_path: Path) -> Path:
    """A search's result with one point in the recipe's space and one outside it."""
    outside = MIXED.model_copy(update={"encoder_embed_dim": 12})
    front = [{"id": name, "config": c.model_dump()} for name, c in (("mixed", MIXED), ("outside", outside))]
    (tmp_path / "found.json").write_text(json.dumps({"format_version": 1, "front": front}))
    return tmp_path / "found.json"


def _new_run(folder: Path) -> Path:
    """A run folder that already has its tokenizer."""
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(toy_tokenizer_model())
    return folder


def _rows(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in RunFolder(run_dir).metrics.read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


# --- which recipe ---


def test_point_of_a_file(recipe_path: Path, points: Path) -> None:
    """A point of any file of points is trained alone, though others of the file lie outside the recipe's space."""
    recipe = recipe_to_run(recipe_path, point_id="mixed", points_file=points, max_updates=3)
    assert recipe == toy_recipe().for_one("mixed", MIXED).with_budget(3)


def test_point_of_the_shipped_bundle() -> None:
    """Without a file or bundle the point is one of the shipped bundle's table."""
    path = Path(__file__).parent.parent / "recipes" / "en-de.toml"
    recipe = recipe_to_run(path, point_id="l3")
    assert recipe.model.space.name == "quarter-wmt14-ende-l3"
    assert recipe.model.space.num_configurations() == 1
    assert recipe.optimizer == Recipe.load(path).optimizer


def test_points_that_cannot_be_trained(recipe_path: Path, points: Path, tmp_path: Path) -> None:
    """Unknown points list the known; a point outside the recipe's space and idle options are named."""

    def refusal(kind: type[DynhatError] = SettingsError, **options: Any) -> str:
        with pytest.raises(kind) as raised:
            recipe_to_run(recipe_path, **options)
        return str(raised.value)

    assert "found.json: has no point 'x': choose one of mixed, outside" in refusal(
        point_id="x", points_file=points
    )
    assert "toy.toml: cannot train point 'outside': encoder_embed_dim=12" in refusal(
        point_id="outside", points_file=points
    )
    assert "'x' is unknown: choose one of l1-narrow" in refusal(UnknownOperatingPointError, point_id="x")
    assert "--subtransformer" in refusal(points_file=points)
    assert "--subtransformer" in refusal(bundle=tmp_path)
    assert "give one of them" in refusal(point_id="mixed", points_file=points, bundle=tmp_path)


# --- what is trained ---


def test_every_update_draws_it() -> None:
    """Each update trains the architecture itself, and validation measures it, once, under both names."""
    recipe = toy_recipe().for_one("mixed", MIXED)
    space = recipe.model.space
    assert {draw_configs(space, recipe.sampling, update) for update in range(20)} == {(MIXED,)}
    assert configs_to_validate(space, recipe.sampling) == {"largest": MIXED, "smallest": MIXED}
    assert MIXED not in (space.largest(), space.smallest())


def test_from_the_command_to_a_bundle(
    recipe_path: Path, points: Path, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`train` and `export` with the same options make a bundle of that architecture, which can be measured."""
    run_dir, out = _new_run(tmp_path / "run"), tmp_path / "out"
    which = ["--subtransformer", "mixed", "--points", str(points), "--max-updates", "4"]
    where = ["--data-dir", str(data_dir), "--run-dir", str(run_dir), "--device", "cpu"]
    result = CliRunner().invoke(app, ["train", str(recipe_path), *where, *which])
    assert result.exit_code == 0, result.output
    assert [row["update"] for row in _rows(run_dir, "train")] == [1, 2, 3, 4]
    (dev,) = _rows(run_dir, "dev")
    assert dev["dev_loss_largest"] == dev["dev_loss_smallest"] > 0
    weights = load_file(RunFolder(run_dir).weights()[-1])
    assert weights["encoder.0.feed_forward.expand.weight"].shape == (24, 8)
    assert weights["decoder.0.feed_forward.expand.weight"].shape == (16, 16)
    assert "decoder.1.feed_forward.expand.weight" not in weights

    result = CliRunner().invoke(
        app, ["export", str(recipe_path), "--run-dir", str(run_dir), "--out", str(out), *which]
    )
    assert result.exit_code == 0, result.output
    bundle = Bundle.open(out)
    assert bundle.manifest.name == "en-de-mixed"
    assert bundle.design_space.check(MIXED) == MIXED
    record = bundle.training_record()["recipe"]
    assert record["sampling"]["fixed"] == {"id": "mixed", "config": MIXED.model_dump(mode="json")}
    assert (record["optimizer"]["max_updates"], bundle.training_record()["updates"]) == (4, 4)

    monkeypatch.setattr(profile, "busy_neighbours", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(profile, "measure_once", lambda *_: (1.0, 2.0))
    result = CliRunner().invoke(app, ["profile", "--points", "--bundle", str(out), "--runs", "5"])
    assert result.exit_code == 0, result.output
    assert [(point.id, point.config) for point in Bundle.open(out).table()] == [("mixed", MIXED)]
    (row,) = evaluate_bundle(out, data_dir / "dev.tsv.gz", options=EvaluateOptions(beam_size=1, limit=2))
    assert row["id"] == "mixed"


def test_interrupted_run_of_one_architecture(data_dir: Path, tmp_path: Path) -> None:
    """An interrupted run of one architecture ends bit for bit like a whole one."""
    recipe = toy_recipe(optimizer={"max_updates": 4}).for_one("mixed", MIXED)
    whole = train(recipe, data_dir, _new_run(tmp_path / "whole"), device_name="cpu")
    parts = _new_run(tmp_path / "parts")
    real = Trainer.update

    def dies(self: Trainer, update: int, batches: Any) -> Any:
        if update == 3:
            raise KeyboardInterrupt
        return real(self, update, batches)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Trainer, "update", dies)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, data_dir, parts, device_name="cpu")
    resumed = train(recipe, data_dir, parts, device_name="cpu")
    one, other = load_file(whole.weights()[-1]), load_file(resumed.weights()[-1])
    assert [name for name in one if not one[name].equal(other[name])] == []


# --- runs are not mixed ---


@pytest.fixture
def finished(data_dir: Path, tmp_path: Path) -> Path:
    """A run of two updates."""
    run_dir = _new_run(tmp_path / "finished")
    train(toy_recipe(optimizer={"max_updates": 2}), data_dir, run_dir, device_name="cpu")
    return run_dir


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": {"max_updates": 3}}, "begun with optimizer.max_updates=2 \\(not 3\\)"),
        (
            {"sampling": {"strategy": "sandwich"}},
            "begun with sampling.strategy='single' \\(not 'sandwich'\\)",
        ),
        ({"loop": {"seed": 2}}, "begun with loop.seed=1 \\(not 2\\)"),
        (
            {"data": {"corpora": [{"file": "b.gz"}]}},
            "begun with data.corpora.0.file='train.tsv.gz' \\(not 'b.gz'\\)",
        ),
    ],
)
def test_run_of_another_recipe_is_not_continued(
    finished: Path, data_dir: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Neither training nor export takes a run that was begun otherwise: the field and both values are named."""
    recipe = toy_recipe(**{"optimizer": {"max_updates": 2}, **changes})
    with pytest.raises(TrainingError, match=message):
        train(recipe, data_dir, finished, device_name="cpu")
    with pytest.raises(TrainingError, match=message):
        export_bundle(recipe, finished, tmp_path / "out", num_averaged=1)
    assert not (tmp_path / "out").exists()


def test_what_no_weight_depends_on_may_change(finished: Path, data_dir: Path) -> None:
    """How often a run is logged, validated and saved may change within it."""
    recipe = toy_recipe(
        optimizer={"max_updates": 2}, loop={"log_every_updates": 7, "num_checkpoints_kept": 3}
    )
    assert train(recipe, data_dir, finished, device_name="cpu").weights()


def test_run_that_saved_nothing_may_begin_otherwise(data_dir: Path, tmp_path: Path) -> None:
    """A run that failed before its first checkpoint goes by the new recipe; its tokenizer's data may not change."""
    run_dir = tmp_path / "run"
    with pytest.raises(TrainingError, match="fewer than num_batches_per_update"):
        train(toy_recipe(loop={"max_tokens_per_batch": 100_000}), data_dir, run_dir, device_name="cpu")
    with pytest.raises(TrainingError, match=r"begun with data\.vocab_size="):
        train(toy_recipe(data={"vocab_size": 301}), data_dir, run_dir, device_name="cpu")
    assert train(toy_recipe(optimizer={"max_updates": 1}), data_dir, run_dir, device_name="cpu").weights()


def test_spoilt_recipe_is_named(finished: Path, data_dir: Path) -> None:
    """A recipe.json that cannot be read is refused by name."""
    (finished / "recipe.json").write_text("{")
    with pytest.raises(TrainingError, match=r"recipe\.json: cannot be read .*--run-dir"):
        train(toy_recipe(), data_dir, finished, device_name="cpu")
