"""Reads the reference's numbers in `tests/data/golden` (see the README there) into our types."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.model.spec import SuperTransformerSpec, parameter_shapes
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.offline.import_hat import SPAN_OF_CODE, config_from_hat, weights_from_hat

GOLDEN = Path(__file__).parent / "data" / "golden"


def read_json(*parts: str) -> Any:
    """A JSON file below the golden folder."""
    return json.loads(GOLDEN.joinpath(*parts).read_text())


def hat_configs(model: str) -> dict[str, SubTransformerConfig]:
    """The architectures of one golden model by name."""
    return {name: config_from_hat(config) for name, config in read_json(model, "configs.json").items()}


def covering_space(
    name: str, qkv_dim: int, largest: dict[str, int], configs: list[SubTransformerConfig]
) -> DesignSpace:
    """A design space of the model's super sizes that holds all `configs`."""

    def choices(maximum: int, values: set[int]) -> tuple[int, ...]:
        return tuple(sorted(values | {maximum}, reverse=True))

    heads = {
        h
        for c in configs
        for h in c.encoder_attention_heads + c.decoder_attention_heads + c.cross_attention_heads
    }
    return DesignSpace(
        name=name,
        qkv_dim=qkv_dim,
        encoder_embed_dim=choices(largest["encoder_embed_dim"], {c.encoder_embed_dim for c in configs}),
        encoder_num_layers=choices(largest["encoder_layers"], {c.num_encoder_layers for c in configs}),
        encoder_ffn_dim=choices(
            largest["encoder_ffn_embed_dim"], {f for c in configs for f in c.encoder_ffn_dims}
        ),
        encoder_attention_heads=choices(largest["encoder_attention_heads"], heads),
        decoder_embed_dim=choices(largest["decoder_embed_dim"], {c.decoder_embed_dim for c in configs}),
        decoder_num_layers=choices(largest["decoder_layers"], {c.num_decoder_layers for c in configs}),
        decoder_ffn_dim=choices(
            largest["decoder_ffn_embed_dim"], {f for c in configs for f in c.decoder_ffn_dims}
        ),
        decoder_attention_heads=choices(largest["decoder_attention_heads"], heads),
        cross_attention_heads=choices(largest["decoder_attention_heads"], heads),
        cross_attention_span=(1, 2, 3),
    )


def space_of_choices(name: str, qkv_dim: int, choices: dict[str, dict[str, list[int]]]) -> DesignSpace:
    """The design space of HAT's `choices`, in their order."""
    encoder, decoder = choices["encoder"], choices["decoder"]
    return DesignSpace(
        name=name,
        qkv_dim=qkv_dim,
        encoder_embed_dim=encoder["encoder_embed_dim"],
        encoder_num_layers=encoder["encoder_layer_num"],
        encoder_ffn_dim=encoder["encoder_ffn_embed_dim"],
        encoder_attention_heads=encoder["encoder_self_attention_heads"],
        decoder_embed_dim=decoder["decoder_embed_dim"],
        decoder_num_layers=decoder["decoder_layer_num"],
        decoder_ffn_dim=decoder["decoder_ffn_embed_dim"],
        decoder_attention_heads=decoder["decoder_self_attention_heads"],
        cross_attention_heads=decoder["decoder_ende_attention_heads"],
        cross_attention_span=[SPAN_OF_CODE[code] for code in decoder["decoder_arbitrary_ende_attn"]],
    )


def tiny_super_transformer(model: str) -> SuperTransformer:
    """One of the stored tiny models."""
    args = read_json(model, "args.json")
    weights = weights_from_hat(load_file(GOLDEN / model / "weights.safetensors"))
    space = covering_space(model, args["qkv_dim"], args, list(hat_configs(model).values()))
    tied = (
        "all"
        if args["share_all_embeddings"]
        else "decoder"
        if args["share_decoder_input_output_embed"]
        else "none"
    )
    spec = SuperTransformerSpec(
        design_space=space,
        src_vocab_size=weights["encoder.embedding"].shape[0],
        tgt_vocab_size=weights.get("decoder.embedding", weights["encoder.embedding"]).shape[0],
        tied_embeddings=tied,
        norm_first=args["encoder_normalize_before"],
    )
    return SuperTransformer(spec, weights)


def hash_weight(key: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """The golden README's weight recipe for one tensor of HAT's state dict."""
    with np.errstate(over="ignore"):
        base = np.uint64((zlib.crc32(key.encode()) << 32) ^ (seed << 56))
        z = base + np.arange(math.prod(shape), dtype=np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    u = ((z >> np.uint64(40)).astype(np.float64) / 2**23 - 1).astype(np.float32).reshape(shape)
    if "layer_norm.weight" in key:
        return torch.from_numpy(1 + np.float32(0.2) * u)
    if key.endswith("bias"):
        return torch.from_numpy(np.float32(0.1) * u)
    is_embedding = "embed_tokens" in key or key.endswith("embed_out")
    scale = 1.6 * math.sqrt(3 / shape[1]) if is_embedding else math.sqrt(6 / (shape[0] + shape[1]))
    tensor = torch.from_numpy(u * np.float32(scale))
    if is_embedding:
        tensor[2] *= 2.5
    return tensor


def space0_super_transformer() -> SuperTransformer:
    """The reference model at the paper's real size, rebuilt from the recipe (seed 7)."""
    from dynhat_runtime.design_space_presets import preset

    check = read_json("space0_recipe", "weights_check.json")
    state = {
        key: hash_weight(key, tuple(shape), seed=7)
        for key, shape in check["shapes"].items()
        if not key.endswith(("version", "_float_tensor")) and key != "decoder.embed_tokens.weight"
    }
    weights = weights_from_hat(state)
    vocab_size = weights["encoder.embedding"].shape[0]
    spec = SuperTransformerSpec(
        design_space=preset("paper-wmt14-ende"), src_vocab_size=vocab_size, tgt_vocab_size=vocab_size
    )
    assert parameter_shapes(spec).keys() == weights.keys()
    return SuperTransformer(spec, weights)
