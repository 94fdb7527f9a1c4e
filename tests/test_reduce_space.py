"""The reduced design space: the paper's from its points, ours from ours, and recipes that train it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dynhat_runtime.cli import app
from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.design_space_presets import preset
from dynhat_runtime.errors import SettingsError
from dynhat_runtime.model.checkpoint import PAPER_POINTS, shipped_bundle_path
from dynhat_runtime.offline.commands import reduce_design_space
from dynhat_runtime.offline.recipe import Recipe
from dynhat_runtime.offline.reduce_space import ALL_POINTS, TABLE_II, Reduction
from dynhat_runtime.offline.train import train
from tests.toy_training import TOY_SPACE, as_toml, toy_fields, write_toy_data

AUTHORS = Path(__file__).parent / "data" / "searched" / "jetson_nano.json"
HAT = AUTHORS.with_name("hat_published.json")
RECIPE = Path(__file__).parent.parent / "recipes" / "en-de-wide.toml"
TABLE = next((shipped_bundle_path() / "tables").glob("*.json"))


def _reduce(points: Path, **options: Any) -> Reduction:
    none = dict.fromkeys(("device", "space", "name", "recipe", "out"))
    return reduce_design_space(points, **{**none, **options})


def _choices(space: DesignSpace) -> dict[str, Any]:
    return space.model_dump(exclude={"name"})


@pytest.fixture
def table_ii(tmp_path: Path) -> Path:
    """The six entries of the authors' list that are Table II's."""
    path = tmp_path / "table_ii.json"
    path.write_text(json.dumps([e for e in json.loads(AUTHORS.read_text()) if e["table_ii"]]))
    return path


def _search_result(path: Path, configs: list[SubTransformerConfig], **fields: Any) -> Path:
    front = [{"config": config.model_dump(), "dev_loss": 3.0} for config in configs]
    whole = {"format_version": 1, "design_space": "toy", "front": front, "history": [], **fields}
    path.write_text(json.dumps(whole))
    return path


# --- the paper's reduction ---


def _is_the_papers(reduction: Reduction) -> bool:
    """512 only, {2048, 3072} everywhere, span {1, 2}, all heads and depths; 7.3e10 of 4.2e14."""
    numbers = reduction.original.num_configurations(), reduction.reduced.num_configurations()
    by_hand = 2 * 2 * 6**6 * sum(36**n for n in range(1, 7)), 4**6 * sum(16**n for n in range(1, 7))
    assert [f"{number:.1e}" for number in by_hand] == ["4.2e+14", "7.3e+10"]
    return numbers == by_hand and _choices(reduction.reduced) == _choices(preset("reduced-wmt14-ende"))


@pytest.mark.parametrize("source", ["authors", "six", "published"])
def test_table_ii_gives_the_papers_reduction(source: str, table_ii: Path) -> None:
    """The operating points of Table II give exactly the paper's space and counts, from any file that has them."""
    published = shipped_bundle_path("wmt14-en-de") / PAPER_POINTS
    path = {"authors": AUTHORS, "six": table_ii, "published": published}[source]
    reduction = _reduce(path, device=None if source == "six" else "jetson-nano-gpu")
    assert _is_the_papers(reduction)
    deciding = reduction.deciding
    assert (len(deciding.points), deciding.rule, deciding.device) == (6, TABLE_II, "jetson-nano-gpu")
    assert deciding.num_left_out == (0 if source == "six" else 18)


def test_usage_counts_every_layer(table_ii: Path) -> None:
    """A choice counts once for every layer and point that takes it, over encoder and decoder together."""
    entries = [entry["config"] for entry in json.loads(table_ii.read_text())]
    ffn = [w for c in entries for side in ("encoder", "decoder") for w in c[f"{side}_ffn_embed_dim_all"]]
    usage = _reduce(table_ii).usage
    assert usage["ffn_dim"] == {width: ffn.count(width) for width in (3072, 2048, 1024)}
    assert usage["embed_dim"] == {640: 0, 512: 12}
    assert usage["cross_attention_span"][3] == 0
    assert usage["decoder_num_layers"] == dict.fromkeys((6, 5, 4, 3, 2, 1), 1)


def test_device_without_table_ii(tmp_path: Path) -> None:
    """Where no point of the device is of Table II all of them decide; the device's name is taken leniently."""
    reduction = _reduce(AUTHORS, device="Jetson Nano CPU")
    assert (len(reduction.deciding.points), reduction.deciding.rule) == (15, ALL_POINTS)
    assert reduction.deciding.num_left_out == 0


# --- other files ---


def test_own_points(tmp_path: Path) -> None:
    """Our own table gives a recipe that loads, on the space the table names; all other fields stay."""
    out = tmp_path / "new.toml"
    reduction = _reduce(TABLE, recipe=RECIPE, out=out)
    assert reduction.original.name == "quarter-wide"
    assert reduction.reduced.cross_attention_span == (1,)
    before, after = Recipe.load(RECIPE), Recipe.load(out)
    assert after.model.space == reduction.reduced
    model = before.model.model_copy(update={"design_space": reduction.reduced})
    assert after == before.model_copy(update={"model": model})


def test_reduced_recipe_trains(tmp_path: Path) -> None:
    """A search's result on a space of the recipe's own gives a recipe that trains."""
    space = DesignSpace.model_validate(TOY_SPACE)
    points = _search_result(tmp_path / "found.json", [space.smallest()])
    (tmp_path / "toy.toml").write_text(as_toml(toy_fields(optimizer={"max_updates": 1})))
    reduction = _reduce(points, recipe=tmp_path / "toy.toml", out=tmp_path / "new.toml")
    assert reduction.reduced.encoder_ffn_dim == (16,)
    assert reduction.reduced.decoder_num_layers == (2, 1)
    assert (reduction.deciding.device, reduction.reduced.name) == (None, "toy-reduced")
    run = train(
        Recipe.load(tmp_path / "new.toml"), write_toy_data(tmp_path), tmp_path / "run", device_name="cpu"
    )
    assert len(run.weights()) == 1


def test_hats_list_by_task(tmp_path: Path) -> None:
    """Of HAT's list the points of the space's own task decide; the space of another task takes its own."""
    paper = _reduce(HAT, device="xeon").deciding
    assert {point.task for point in paper.points} == {"wmt14ende"}
    iwslt = _reduce(HAT, space="hat-iwslt14-deen")
    assert (iwslt.deciding.device, iwslt.original.name) == ("titanxp", "hat-iwslt14-deen")


def test_choices_stay_where_the_original_has_them(tmp_path: Path) -> None:
    """Taken together, a width that the decoder uses stays in the encoder too, but only where it was a choice."""
    fields = {**TOY_SPACE, "decoder_ffn_dim": [32, 24, 16], "encoder_ffn_dim": [24, 16, 12]}
    space = DesignSpace.model_validate(fields)
    config = space.smallest().model_copy(update={"encoder_ffn_dims": (12, 12), "decoder_ffn_dims": (24,)})
    (tmp_path / "toy.toml").write_text(as_toml(toy_fields(model={"design_space": fields})))
    reduced = _reduce(
        _search_result(tmp_path / "found.json", [config]),
        recipe=tmp_path / "toy.toml",
        out=tmp_path / "new.toml",
    ).reduced
    assert (reduced.encoder_ffn_dim, reduced.decoder_ffn_dim) == ((24, 12), (24,))


def test_name_of_ones_own(table_ii: Path) -> None:
    """The reduced space is called as asked, otherwise after the original and the device."""
    assert _reduce(table_ii, name="nano").reduced.name == "nano"
    assert _reduce(table_ii).reduced.name == "paper-wmt14-ende-reduced-jetson-nano-gpu"


# --- what is refused ---


def _refusal(points: Path, **options: Any) -> str:
    with pytest.raises(SettingsError) as raised:
        _reduce(points, **options)
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_several_devices_are_listed() -> None:
    """Points of several devices, or of an unknown one, are refused with the devices there are."""
    assert "choose one with --device: jetson-nano-cpu, jetson-nano-gpu" in _refusal(AUTHORS)
    assert _refusal(AUTHORS, device="toaster") == (
        "no points for device 'toaster': choose one of jetson-nano-cpu, jetson-nano-gpu"
    )


def test_points_outside_the_space(table_ii: Path) -> None:
    """A point outside the original space is named with field, value and remedy."""
    message = _refusal(table_ii, space="half-wmt14-ende")
    assert message.startswith("point 'jetson-nano-gpu-run0-1000ms': encoder_embed_dim=512 is not in ")
    assert "--space" in message


def test_space_that_nobody_knows(tmp_path: Path) -> None:
    """A file that names a space which is no preset says how to give it."""
    space = DesignSpace.model_validate(TOY_SPACE)
    message = _refusal(_search_result(tmp_path / "found.json", [space.smallest()]))
    assert "found.json: design space 'toy' is unknown" in message
    assert "--space" in message


def test_recipe_that_does_not_fit(tmp_path: Path) -> None:
    """An anchor that asks for a dropped choice is refused by the recipe's name, and nothing is written."""
    space = DesignSpace.model_validate(TOY_SPACE)
    anchors = [{"size": "largest", "share": 0.5, "cross_attention_span": 2}]
    (tmp_path / "toy.toml").write_text(as_toml(toy_fields(sampling={"anchors": anchors})))
    points = _search_result(tmp_path / "found.json", [space.smallest()])
    message = _refusal(points, recipe=tmp_path / "toy.toml", out=tmp_path / "new.toml")
    assert "toy.toml: does not fit the reduced space: cross_attention_spans[0]=2 is not in" in message
    assert message.endswith("change [sampling] there")
    assert not (tmp_path / "new.toml").exists()


def test_nothing_is_overwritten(table_ii: Path, tmp_path: Path) -> None:
    """A file that is there already stays, and a recipe without a file to write is refused."""
    (tmp_path / "new.json").write_text("mine")
    assert "new.json: is there already" in _refusal(table_ii, out=tmp_path / "new.json")
    assert (tmp_path / "new.json").read_text() == "mine"
    assert "give --out" in _refusal(table_ii, recipe=RECIPE)
    assert "absent" in _refusal(table_ii, out=tmp_path / "absent" / "new.json")


# --- the command ---


def test_json(table_ii: Path, tmp_path: Path) -> None:
    """--json prints the reduced space, both counts exactly, and what was used; --out writes the space."""
    out = tmp_path / "space.json"
    result = CliRunner().invoke(app, ["reduce-space", str(table_ii), "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["num_configurations_before"], answer["num_configurations_after"]) == (
        417846678672384,
        73300770816,
    )
    assert DesignSpace.model_validate(answer["design_space"]) == DesignSpace.model_validate_json(
        out.read_bytes()
    )
    assert (answer["device"], answer["num_points"], answer["num_points_left_out"]) == (
        "jetson-nano-gpu",
        6,
        0,
    )
    assert answer["usage"]["embed_dim"] == {"640": 0, "512": 12}
    assert answer["dropped"] == {
        **{dimension: [] for dimension in answer["usage"]},
        "embed_dim": [640],
        "ffn_dim": [1024],
        "cross_attention_span": [3],
    }


def test_report_for_people() -> None:
    """Without --json a table says what is used and kept, and the counts are exact and short."""
    result = CliRunner().invoke(app, ["reduce-space", str(AUTHORS), "--device", "jetson-nano-gpu"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert any("embed_dim" in line and "640" in line and "dropped" in line for line in lines)
    assert "configurations before: 417846678672384 (4.2e14) in paper-wmt14-ende" in lines
    assert any(line.startswith("configurations after: 73300770816 (7.3e10) in ") for line in lines)
    assert "18 others of the device left out" in result.stdout
