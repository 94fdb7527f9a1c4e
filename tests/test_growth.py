"""A run that starts from a bundle: what the weights keep, what a resumed run does, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.errors import TrainingError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.spec import SuperTransformerSpec
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.offline.export import export_bundle
from dynhat_runtime.offline.growth import grown
from dynhat_runtime.offline.recipe import Recipe
from dynhat_runtime.offline.train import train
from tests.toy_text import VOCAB_SIZE
from tests.toy_training import TOY_SPACE, toy_recipe, write_toy_data

LARGER_SPACE: dict[str, Any] = {
    **TOY_SPACE,
    "name": "larger",
    "encoder_ffn_dim": [40, 24, 16],
    "decoder_num_layers": [3, 2, 1],
    "decoder_ffn_dim": [40, 24, 16],
}


def _spec(space: dict[str, Any], **changes: Any) -> SuperTransformerSpec:
    return SuperTransformerSpec(
        design_space=DesignSpace.model_validate(space),
        **{
            "src_vocab_size": VOCAB_SIZE, "tgt_vocab_size": VOCAB_SIZE, "norm_first": True, "max_positions": 64,
            **changes,
        },
    )  # fmt: skip


def _logits(weights: SuperTransformer, config: SubTransformerConfig) -> torch.Tensor:
    src, tgt = torch.tensor([[5, 9, 7, 2]]), torch.tensor([[2, 6, 8]])
    with torch.inference_mode():
        return weights.extract(config).logits(src, tgt)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up corpora."""
    return write_toy_data(tmp_path_factory.mktemp("toy_data"))


@pytest.fixture(scope="module")
def bundle(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """What a short run made."""
    folder = tmp_path_factory.mktemp("start")
    train(toy_recipe(), data_dir, folder / "run", device_name="cpu")
    return export_bundle(toy_recipe(), folder / "run", folder / "bundle", num_averaged=1)


def _larger_recipe(**sections: dict[str, Any]) -> Recipe:
    model = {"design_space": LARGER_SPACE, "norm_first": True, "max_positions": 64}
    return toy_recipe(**{"model": model, **sections})


@pytest.mark.parametrize("architecture", ["largest", "smallest"])
def test_grown_keeps_every_architecture(architecture: str) -> None:
    """An architecture of the smaller space computes bit for bit what it did."""
    small = SuperTransformer.random(_spec(TOY_SPACE), 1)
    config = getattr(small.spec.design_space, architecture)()
    assert torch.equal(_logits(grown(small, _spec(LARGER_SPACE), 2), config), _logits(small, config))


def test_deeper_and_wider_begin_as_what_they_extend() -> None:
    """More layers and hidden units change no output until they are trained."""
    small = SuperTransformer.random(_spec(TOY_SPACE), 1)
    largest = small.spec.design_space.largest()
    extended = largest.model_copy(
        update={
            "encoder_ffn_dims": (40,) * 2,
            "decoder_ffn_dims": (40,) * 3,
            "decoder_attention_heads": (4,) * 3,
            "cross_attention_heads": (4,) * 3,
            "cross_attention_spans": (2,) * 3,
        }
    )
    after = _logits(grown(small, _spec(LARGER_SPACE), 2), extended)
    torch.testing.assert_close(after, _logits(small, largest))


def test_new_parts_can_learn() -> None:
    """Every new hidden unit has a gradient after the first step, since what it reads from is not zero."""
    weights = grown(SuperTransformer.random(_spec(TOY_SPACE), 1), _spec(LARGER_SPACE), 2).weights
    assert all(bool((weights[f"decoder.{i}.feed_forward.expand.weight"] != 0).all()) for i in range(3))
    assert not weights["decoder.2.feed_forward.contract.weight"].any()


@pytest.mark.parametrize(
    ("space", "changes", "named"),
    [
        ({**TOY_SPACE, "encoder_ffn_dim": [16]}, {}, r"encoder\.0\.feed_forward.*\(24, 16\)"),
        ({**TOY_SPACE, "decoder_num_layers": [1]}, {}, r"decoder\.1\..*no such weight"),
        ({**LARGER_SPACE, "qkv_dim": 16}, {}, "qkv_dim = 16.* 8"),
        ({**LARGER_SPACE, "encoder_embed_dim": [24, 16]}, {}, "largest encoder_embed_dim = 24.* 16"),
        (LARGER_SPACE, {"norm_first": False}, "norm_first = False.* True"),
        (LARGER_SPACE, {"tgt_vocab_size": 300, "src_vocab_size": 300}, "src_vocab_size = 300"),
    ],
)
def test_what_cannot_grow_is_named(space: dict[str, Any], changes: dict[str, Any], named: str) -> None:
    """A smaller space, other heads' width, norms or vocabulary: refused with both values."""
    small = SuperTransformer.random(_spec(TOY_SPACE), 1)
    with pytest.raises(TrainingError, match=named):
        grown(small, _spec(space, **changes), 2)


def test_run_starts_from_bundle_and_says_so(bundle: Bundle, data_dir: Path, tmp_path: Path) -> None:
    """The first update begins at the bundle's loss, and the new bundle names the old one's weights and record."""
    run_dir = tmp_path / "run"
    recipe = _larger_recipe(optimizer={"max_updates": 1, "peak_lr": 1e-9}, loop={"validate_every_updates": 1})
    run = train(recipe, data_dir, run_dir, device_name="cpu", start_from=bundle.path)
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    (dev,) = (row for row in rows if row["kind"] == "dev")
    assert dev["dev_nll_smallest"] == pytest.approx(
        bundle.training_record()["dev_loss"]["dev_nll_smallest"], abs=1e-2
    )
    record = export_bundle(recipe, run_dir, tmp_path / "out", num_averaged=1).training_record()
    assert record["started_from"]["weights_sha256"] == bundle.weights_sha256
    assert record["started_from"]["training_record"] == bundle.training_record()


def test_resumed_run_keeps_its_start(bundle: Bundle, data_dir: Path, tmp_path: Path) -> None:
    """A run in two parts, the second with or without the option, ends where an uninterrupted one does."""
    recipe = _larger_recipe()
    whole = train(recipe, data_dir, tmp_path / "whole", device_name="cpu", start_from=bundle.path)
    parts = tmp_path / "parts"
    train(recipe, data_dir, parts, device_name="cpu", start_from=bundle.path)
    for file in (parts / "weights").iterdir():
        if file.name > "update_00000003":
            file.unlink()
    (parts / "last.pt").unlink()
    resumed = train(recipe, data_dir, parts, device_name="cpu")
    assert resumed.weights()[-1].read_bytes() == whole.weights()[-1].read_bytes()


def test_another_start_is_refused(bundle: Bundle, data_dir: Path, tmp_path: Path) -> None:
    """A run begun from fresh weights does not take a start; the message says what to do."""
    train(_larger_recipe(), data_dir, tmp_path / "run", device_name="cpu")
    with pytest.raises(TrainingError, match="begun from fresh weights: leave out --start-from"):
        train(_larger_recipe(), data_dir, tmp_path / "run", device_name="cpu", start_from=bundle.path)


def test_other_bundle_is_refused(bundle: Bundle, data_dir: Path, tmp_path: Path) -> None:
    """A run that goes on must be given the bundle it was begun with."""
    run_dir = tmp_path / "run"
    train(_larger_recipe(), data_dir, run_dir, device_name="cpu", start_from=bundle.path)
    other = export_bundle(_larger_recipe(), run_dir, tmp_path / "other", num_averaged=1)
    with pytest.raises(TrainingError, match="begun from other weights"):
        train(_larger_recipe(), data_dir, run_dir, device_name="cpu", start_from=other.path)
