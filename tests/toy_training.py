"""A recipe that trains a SuperTransformer of a few thousand weights on the made-up language in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dynhat_runtime.offline.recipe import Recipe
from tests.toy_text import VOCAB_SIZE, toy_pairs, write_pairs

TOY_SPACE: dict[str, Any] = {
    "name": "toy",
    "qkv_dim": 8,
    "encoder_embed_dim": [16, 8],
    "encoder_num_layers": [2],
    "encoder_ffn_dim": [24, 16],
    "encoder_attention_heads": [4, 2],
    "decoder_embed_dim": [16, 8],
    "decoder_num_layers": [2, 1],
    "decoder_ffn_dim": [24, 16],
    "decoder_attention_heads": [4, 2],
    "cross_attention_heads": [4, 2],
    "cross_attention_span": [1, 2],
}


def toy_fields(**sections: dict[str, Any]) -> dict[str, Any]:
    """The recipe as TOML's tables, with changes by section."""
    fields: dict[str, dict[str, Any]] = {
        "model": {"design_space": TOY_SPACE, "norm_first": True, "max_positions": 64},
        "data": {
            "vocab_size": VOCAB_SIZE,
            "max_tokens_per_sentence": 60,
            "corpora": [{"file": "train.tsv.gz", "licence": "made up"}],
            "dev": [{"file": "dev.tsv.gz"}],
        },
        "optimizer": {"peak_lr": 1e-2, "num_warmup_updates": 2, "max_updates": 6, "attention_dropout": 0.0},
        "loop": {
            "max_tokens_per_batch": 400,
            "num_batches_per_update": 2,
            "log_every_updates": 1,
            "validate_every_updates": 4,
            "checkpoint_every_updates": 3,
        },
    }
    return {name: {**fields.get(name, {}), **sections.get(name, {})} for name in fields | sections}


def toy_recipe(**sections: dict[str, Any]) -> Recipe:
    """The recipe with changes by section."""
    return Recipe.model_validate(toy_fields(**sections))


def as_toml(value: Any) -> str:
    """Tables as TOML: sections at the top, everything inside them inline."""
    return "\n".join(
        f"[{section}]\n" + "\n".join(f"{key} = {_inline(item)}" for key, item in fields.items())
        for section, fields in value.items()
    )


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value)


def write_toy_data(folder: Path) -> Path:
    """Training and dev files."""
    write_pairs(folder / "train.tsv.gz", toy_pairs(300, seed=1))
    write_pairs(folder / "dev.tsv.gz", toy_pairs(20, seed=2))
    return folder
