"""A training run that starts from a bundle's weights, in the same design space or a larger one.

`grown` makes the weights; `begin_from` puts them, the bundle's vocabulary and its training record into a run's folder.
Trains nothing. Source: Net2Net (Chen et al., ICLR 2016): what is added changes no output until it is trained.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from dynhat_runtime.errors import TrainingError
from dynhat_runtime.model.checkpoint import SENTENCEPIECE_MODEL, Bundle
from dynhat_runtime.model.spec import SuperTransformerSpec
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.offline.recipe import Recipe
from dynhat_runtime.offline.run_folder import RunFolder, whole_file
from dynhat_runtime.offline.trainer import spec_of

_INTO_THE_RESIDUAL = ("feed_forward.contract.weight", "attention.out.weight")
"""Weights that write into the residual stream: where they are zero, a new layer or hidden unit says nothing yet."""


def grown(small: SuperTransformer, spec: SuperTransformerSpec, seed: int) -> SuperTransformer:
    """`small` as the leading part of a larger SuperTransformer: wider feed-forward layers, more decoder layers.

    Rules: (1) every architecture of the smaller space computes what it did. (2) New hidden units and, with
    `norm_first`, new layers read from fresh weights and write nothing, so that a deeper architecture or one with a
    wider feed-forward begins as the one it extends. (3) Embeddings, attention and the encoder's depth do not
    grow: position signals, heads and spans are counted from the largest, so that other sizes change them.

    Args:
        small: Weights to start from.
        spec: Shape of the larger one.
        seed: Of the fresh weights.

    Raises:
        TrainingError: `spec` differs in what cannot grow, or is smaller somewhere; naming both values.
    """
    for field in ("src_vocab_size", "tgt_vocab_size", "tied_embeddings", "norm_first", "pad_id"):
        _must_agree(field, getattr(small.spec, field), getattr(spec, field))
    before, now = small.spec.design_space, spec.design_space
    _must_agree("qkv_dim", before.qkv_dim, now.qkv_dim)
    _must_agree("the largest encoder_embed_dim", max(before.encoder_embed_dim), max(now.encoder_embed_dim))
    _must_agree("the largest encoder_num_layers", before.max_encoder_layers, now.max_encoder_layers)
    _must_agree("the largest decoder_embed_dim", max(before.decoder_embed_dim), max(now.decoder_embed_dim))
    weights = SuperTransformer.random(spec, seed).weights
    for name, weight in weights.items():
        if name.endswith(_INTO_THE_RESIDUAL):
            weight.zero_()
    for name, old in small.weights.items():
        new = weights.get(name)
        if new is None or any(n < o for n, o in zip(new.shape, old.shape, strict=True)):
            has = "no such weight" if new is None else f"shape {tuple(new.shape)}"
            raise TrainingError(
                f"{name} of shape {tuple(old.shape)} does not fit the recipe's design space "
                f"{spec.design_space.name!r} ({has}): a run starts from a smaller or an equal one"
            )
        new[tuple(slice(size) for size in old.shape)] = old
    return SuperTransformer(spec, weights)


def begin_from(run: RunFolder, recipe: Recipe, bundle_path: Path) -> None:
    """Let a new run start from a bundle; a run that has trained already goes on from its own state.

    Raises:
        BundleError: The bundle cannot be read.
        TrainingError: The recipe's design space cannot hold its weights, its vocabulary is no sentencepiece model,
            or the run was begun with another start.
    """
    bundle = Bundle.open(bundle_path)
    if run.started_from.exists() and run.has_trained():
        begun = json.loads(run.started_from.read_text(encoding="utf-8"))["weights_sha256"]
        if begun != bundle.weights_sha256:
            raise TrainingError(
                f"{run.path} was begun from other weights (sha256 {begun[:12]}...) than {bundle_path}'s "
                f"({bundle.weights_sha256[:12]}...): give that bundle, or another --run-dir"
            )
        return
    if run.has_trained():
        raise TrainingError(
            f"{run.path} was begun from fresh weights: leave out --start-from, or give another --run-dir"
        )
    if bundle.manifest.text_pipeline != "sentencepiece":
        raise TrainingError(
            f"{bundle_path}: its text pipeline is {bundle.manifest.text_pipeline}: a recipe trains on sentencepiece"
        )
    small = bundle.super_transformer()
    _must_agree("data.vocab_size", small.spec.src_vocab_size, recipe.data.vocab_size)
    spec = spec_of(recipe, small.spec.src_vocab_size)
    weights = grown(small, spec, recipe.loop.seed).weights
    record: dict[str, Any] = {
        "weights_sha256": bundle.weights_sha256, "training_record": bundle.training_record(),
    }  # fmt: skip
    with whole_file(run, run.tokenizer) as partial:
        partial.write_bytes(bundle.text_file(SENTENCEPIECE_MODEL))
    with whole_file(run, run.start_weights) as partial:
        save_file(weights, partial)
    with whole_file(run, run.started_from) as partial:
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _must_agree(field: str, before: object, now: object) -> None:
    if before != now:
        raise TrainingError(
            f"the recipe says {field} = {now}, the bundle to start from {before}: they must be equal"
        )
