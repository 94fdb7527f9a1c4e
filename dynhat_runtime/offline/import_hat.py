"""Names and codes of HAT / fairseq, translated at the door: state dicts and config dictionaries.

The only place that knows HAT's keys and its span codes (-1, 1, 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dynhat_runtime.design_space import SubTransformerConfig

SPAN_OF_CODE = {-1: 1, 1: 2, 2: 3}
"""HAT's `decoder_arbitrary_ende_attn` -> cross-attention span."""


def config_from_hat(hat_config: Mapping[str, Mapping[str, Any]]) -> SubTransformerConfig:
    """Read HAT's dictionary form; list entries beyond the depth are ignored, as the reference does."""
    encoder, decoder = hat_config["encoder"], hat_config["decoder"]
    num_encoder, num_decoder = encoder["encoder_layer_num"], decoder["decoder_layer_num"]
    return SubTransformerConfig(
        encoder_embed_dim=encoder["encoder_embed_dim"],
        encoder_ffn_dims=tuple(encoder["encoder_ffn_embed_dim"][:num_encoder]),
        encoder_attention_heads=tuple(encoder["encoder_self_attention_heads"][:num_encoder]),
        decoder_embed_dim=decoder["decoder_embed_dim"],
        decoder_ffn_dims=tuple(decoder["decoder_ffn_embed_dim"][:num_decoder]),
        decoder_attention_heads=tuple(decoder["decoder_self_attention_heads"][:num_decoder]),
        cross_attention_heads=tuple(decoder["decoder_ende_attention_heads"][:num_decoder]),
        cross_attention_spans=tuple(
            SPAN_OF_CODE[code] for code in decoder["decoder_arbitrary_ende_attn"][:num_decoder]
        ),
    )


_RENAMED = (
    ("self_attn.in_proj_", "self_attention.qkv."),
    ("self_attn.out_proj.", "self_attention.out."),
    ("self_attn_layer_norm.", "self_attention_norm."),
    ("encoder_attn.out_proj.", "cross_attention.out."),
    ("encoder_attn_layer_norm.", "cross_attention_norm."),
    ("fc1.", "feed_forward.expand."),
    ("fc2.", "feed_forward.contract."),
    ("final_layer_norm.", "feed_forward_norm."),
)


def weights_from_hat(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for HAT's state dict (or for gradients under the same keys).

    Tied embeddings come out once. q, k and v of encoder-decoder attention are split into query and key-value
    whether they were packed or not. Keys that hold no weight (`version`, `_float_tensor`) are dropped.
    """
    weights: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.endswith(("version", "_float_tensor")):
            continue
        name = key.replace(".layers.", ".")
        if name.startswith(("encoder.layer_norm", "decoder.layer_norm")):
            weights[name.replace("layer_norm", "norm")] = tensor
        elif name.endswith("embed_tokens.weight"):
            weights[name.replace("embed_tokens.weight", "embedding")] = tensor
        elif name.endswith("embed_out"):
            weights["decoder.output"] = tensor
        elif "encoder_attn." in name and "out_proj" not in name:
            _add_cross_attention(weights, name, tensor)
        else:
            for old, new in _RENAMED:
                name = name.replace(old, new)
            weights[name] = tensor
    src, tgt = weights.get("encoder.embedding"), weights.get("decoder.embedding")
    if src is not None and tgt is not None and src.shape == tgt.shape and torch.equal(src, tgt):
        del weights["decoder.embedding"]
    return weights


def _add_cross_attention(weights: dict[str, Tensor], name: str, tensor: Tensor) -> None:
    prefix, part = name.split("encoder_attn.")
    query, key_value = f"{prefix}cross_attention.query", f"{prefix}cross_attention.key_value.weight"
    if part.startswith("in_proj_"):
        kind = part.removeprefix("in_proj_")
        qkv_dim = tensor.shape[0] // 3
        weights[f"{query}.{kind}"] = tensor[:qkv_dim]
        weights[f"{prefix}cross_attention.key_value.{kind}"] = tensor[qkv_dim:]
    elif part == "q_proj_weight":
        weights[f"{query}.weight"] = tensor
    elif part == "k_proj_weight":
        weights[key_value] = torch.cat([tensor, weights[key_value]]) if key_value in weights else tensor
    else:  # v_proj_weight
        weights[key_value] = torch.cat([weights[key_value], tensor]) if key_value in weights else tensor
