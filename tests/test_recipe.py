"""Recipes: what a wrong one is told, before anything is computed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.errors import DesignSpaceError, TrainingError
from dynhat_runtime.offline.recipe import FixedRecipe, Recipe
from tests.toy_training import TOY_SPACE, as_toml, toy_fields, toy_recipe

RECIPES = Path(__file__).parent.parent / "recipes"


def _error(path: Path) -> str:
    """What loading says, having checked that it is one line that names the file."""
    with pytest.raises(TrainingError) as raised:
        Recipe.load(path)
    message = str(raised.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_shipped_recipe_loads() -> None:
    """The recipe of the shipped bundle is a valid one, with room for uniform draws beside its anchors."""
    recipe = Recipe.load(RECIPES / "en-de.toml")
    assert recipe.model.space.name == "quarter-wmt14-ende"
    assert sum(anchor.share for anchor in recipe.sampling.anchors) < 1


def test_recipe_with_a_space_of_its_own(tmp_path: Path) -> None:
    """A design space may stand in the recipe itself; the file says what the value says."""
    path = tmp_path / "toy.toml"
    path.write_text(as_toml(toy_fields()))
    assert Recipe.load(path) == toy_recipe()
    assert Recipe.load(path).model.space.max_decoder_layers == 2


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("optimizer", {"peak_lr": -1.0}, r"optimizer\.peak_lr: .*greater than 0 \(got -1\.0\)"),
        ("optimizer", {"schedule": "linear"}, r"optimizer\.schedule: .*'cosine'.*\(got 'linear'\)"),
        ("optimizer", {"momentum": 0.9}, r"optimizer\.momentum: Extra .*\(got 0\.9\)"),
        ("loop", {"num_batches_per_update": 0}, r"loop\.num_batches_per_update: .*\(got 0\)"),
        ("data", {"corpora": []}, r"data\.corpora: .*at least 1 item"),
        ("data", {"dev": [{"weight": 1.0}]}, r"data\.dev\.0\.file: Field required$"),
        ("model", {"design_space": "papier"}, r"design space 'papier' is unknown: choose one of .*half"),
        ("model", {"design_space": {**TOY_SPACE, "qkv_dim": 0}}, r"qkv_dim: .*greater than 0 \(got 0\)"),
        (
            "model",
            {"design_space": {**TOY_SPACE, "encoder_attention_heads": [3]}},
            r"encoder_attention_heads choice 3 does not divide qkv_dim=8",
        ),
        (
            "data",
            {"max_tokens_per_sentence": 65},
            r"max_tokens_per_sentence=65 exceeds model\.max_positions=64",
        ),
        (
            "sampling",
            {"anchors": [{"size": "largest", "share": 0.5, "num_decoder_layers": 3}]},
            r"num_decoder_layers=3 is not in design space 'toy': choose one of \(2, 1\)",
        ),
        (
            "sampling",
            {"anchors": [{"size": "largest", "share": 0.5, "num_decoder_layers": 0}]},
            r"sampling\.anchors\.0\.num_decoder_layers: .*\(got 0\)",
        ),
        (
            "sampling",
            {"anchors": [{"size": "largest", "share": 0.7}, {"size": "smallest", "share": 0.6}]},
            r"shares add up to 1\.3",
        ),
    ],
)
def test_wrong_field_is_named(tmp_path: Path, section: str, fields: dict[str, Any], message: str) -> None:
    """A wrong value is refused in one line with the file, the field and what was given."""
    path = tmp_path / "wrong.toml"
    path.write_text(as_toml(toy_fields(**{section: fields})))
    with pytest.raises(TrainingError, match=message):
        Recipe.load(path)
    _error(path)


def test_missing_section_is_named(tmp_path: Path) -> None:
    """A recipe without a model says so, without printing all of itself."""
    path = tmp_path / "wrong.toml"
    path.write_text(as_toml({"data": toy_fields()["data"]}))
    assert _error(path) == "model: Field required"


def test_file_that_is_no_recipe(tmp_path: Path) -> None:
    """A missing file, and one that is not TOML, are refused by name."""
    assert "cannot be read" in _error(tmp_path / "absent.toml")
    path = tmp_path / "broken.toml"
    path.write_text("[data\n")
    assert "not TOML" in _error(path)


# --- one architecture alone, and other budgets ---


def _mixed() -> SubTransformerConfig:
    """An architecture whose layers differ."""
    largest = toy_recipe().model.space.largest()
    return largest.model_copy(update={"encoder_ffn_dims": (16, 24), "cross_attention_spans": (2, 1)})


def test_recipe_for_one_architecture() -> None:
    """Alone, an architecture has a space of its own sizes, is what every update trains, and all else stays."""
    anchors = [{"size": "smallest", "share": 0.5}]
    recipe = toy_recipe(sampling={"anchors": anchors})
    alone = recipe.for_one("mixed", _mixed())
    space = alone.model.space
    assert space.name == "toy-mixed"
    assert (space.encoder_embed_dim, space.encoder_ffn_dim, space.decoder_num_layers) == (
        (16,),
        (24, 16),
        (2,),
    )
    assert alone.sampling.strategy == "fixed"
    assert alone.sampling.fixed == FixedRecipe(id="mixed", config=_mixed())
    assert (alone.data, alone.optimizer, alone.loop) == (recipe.data, recipe.optimizer, recipe.loop)
    assert Recipe.model_validate_json(alone.model_dump_json()) == alone


def test_architecture_outside_the_recipes_space() -> None:
    """An architecture that the recipe's space does not hold is refused by field and value."""
    outside = _mixed().model_copy(update={"encoder_embed_dim": 12})
    with pytest.raises(DesignSpaceError, match="encoder_embed_dim=12 is not in design space 'toy'"):
        toy_recipe().for_one("outside", outside)


@pytest.mark.parametrize(("max_updates", "warmup"), [(3, 1), (1, 0), (6, 2), (60, 2)])
def test_budget(max_updates: int, warmup: int) -> None:
    """Another number of updates leaves all else as it is, but for a warm-up of more than half of them."""
    recipe = toy_recipe().with_budget(max_updates)
    assert (recipe.optimizer.max_updates, recipe.optimizer.num_warmup_updates) == (max_updates, warmup)
    assert recipe.optimizer.peak_lr == toy_recipe().optimizer.peak_lr
    assert recipe.model_copy(update={"optimizer": toy_recipe().optimizer}) == toy_recipe()


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"strategy": "fixed"}, r"sampling: .*'fixed' needs \[sampling\.fixed\]"),
        (
            {"fixed": {"id": "a", "config": _mixed().model_dump(mode="json")}},
            r"sampling: .*strategy='single'.*others have none",
        ),
        (
            {
                "strategy": "fixed",
                "fixed": {"id": "a", "config": _mixed().model_dump(mode="json")},
                "anchors": [{"size": "smallest", "share": 0.5}],
            },
            r"sampling: .*leave out the anchors",
        ),
        (
            {
                "strategy": "fixed",
                "fixed": {"id": "a", "config": {**_mixed().model_dump(mode="json"), "decoder_embed_dim": 9}},
            },
            r"decoder_embed_dim=9 is not in design space 'toy'",
        ),
    ],
)
def test_fixed_architecture_that_contradicts(tmp_path: Path, sampling: dict[str, Any], message: str) -> None:
    """Strategy and fixed architecture come together, without anchors, and within the space."""
    path = tmp_path / "wrong.toml"
    path.write_text(as_toml(toy_fields(sampling=sampling)))
    assert re.search(message, _error(path))
