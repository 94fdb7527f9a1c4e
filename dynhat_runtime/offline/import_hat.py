"""Names and codes of HAT / fairseq, translated at the door: state dicts, config dictionaries, args and YAML files.

The only place that knows HAT's keys and its span codes (-1, 1, 2). Reads no `.pt` file (`hat_pickle`) and writes
no bundle (`hat_bundle`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.errors import CheckpointError, DesignSpaceError, SettingsError, first_complaint

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


def config_from_args(args: Mapping[str, Any], suffix: str = "_subtransformer") -> SubTransformerConfig:
    """The SubTransformer that HAT's settings (with underscores) ask for; published lists leave out the suffix.

    Raises:
        CheckpointError: A setting is missing or is not what it should be.
        DesignSpaceError: The settings contradict each other.
    """

    def number(key: str) -> int:
        return positive(args, f"{key}{suffix}")

    def per_layer(key: str, depth: int) -> tuple[int, ...]:
        full_key = f"{key}_all{suffix}"
        values = _integers(args, full_key)
        if len(values) < depth:
            raise CheckpointError(f"{full_key}={list(values)} has fewer entries than the {depth} layers")
        return values[:depth]

    num_encoder, num_decoder = number("encoder_layer_num"), number("decoder_layer_num")
    return SubTransformerConfig(
        encoder_embed_dim=number("encoder_embed_dim"),
        encoder_ffn_dims=per_layer("encoder_ffn_embed_dim", num_encoder),
        encoder_attention_heads=per_layer("encoder_self_attention_heads", num_encoder),
        decoder_embed_dim=number("decoder_embed_dim"),
        decoder_ffn_dims=per_layer("decoder_ffn_embed_dim", num_decoder),
        decoder_attention_heads=per_layer("decoder_self_attention_heads", num_decoder),
        cross_attention_heads=per_layer("decoder_ende_attention_heads", num_decoder),
        cross_attention_spans=_spans(per_layer("decoder_arbitrary_ende_attn", num_decoder)),
    )


def space_from_args(args: Mapping[str, Any], name: str) -> DesignSpace:
    """The design space of HAT's `..._choice` settings, in their order.

    Raises:
        CheckpointError: A setting is missing or is not what it should be.
        DesignSpaceError: The choices contradict each other.
    """
    return DesignSpace(
        name=name,
        qkv_dim=positive(args, "qkv_dim"),
        encoder_embed_dim=_integers(args, "encoder_embed_choice"),
        encoder_num_layers=_integers(args, "encoder_layer_num_choice"),
        encoder_ffn_dim=_integers(args, "encoder_ffn_embed_dim_choice"),
        encoder_attention_heads=_integers(args, "encoder_self_attention_heads_choice"),
        decoder_embed_dim=_integers(args, "decoder_embed_choice"),
        decoder_num_layers=_integers(args, "decoder_layer_num_choice"),
        decoder_ffn_dim=_integers(args, "decoder_ffn_embed_dim_choice"),
        decoder_attention_heads=_integers(args, "decoder_self_attention_heads_choice"),
        cross_attention_heads=_integers(args, "decoder_ende_attention_heads_choice"),
        cross_attention_span=_spans(_integers(args, "decoder_arbitrary_ende_attn_choice")),
    )


def config_from_hat_yaml(path: Path) -> SubTransformerConfig:
    """The SubTransformer of one of HAT's YAML files.

    Raises:
        SettingsError: Naming the file and what is wrong with it.
    """
    settings = _read_yaml(path)
    try:
        return config_from_args(settings)
    except (CheckpointError, DesignSpaceError, ValidationError) as error:
        raise SettingsError(f"{path}: {_first_line(error)}") from error


def space_from_hat_yaml(path: Path) -> DesignSpace:
    """The design space of one of HAT's YAML files (SuperTransformer, search or latency dataset), named after it.

    Raises:
        SettingsError: Naming the file and what is wrong with it.
    """
    settings = _read_yaml(path)
    try:
        return space_from_args(settings, path.stem)
    except (CheckpointError, DesignSpaceError, ValidationError) as error:
        raise SettingsError(f"{path}: {_first_line(error)}") from error


class HatSearchSettings(BaseModel):
    """Evolutionary search as HAT's search files ask for it; the defaults are HAT's."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    evo_iter: Annotated[int, Field(gt=0)] = 30
    population_size: Annotated[int, Field(gt=0)] = 125
    parent_size: Annotated[int, Field(gt=0)] = 25
    mutation_size: Annotated[int, Field(ge=0)] = 50
    crossover_size: Annotated[int, Field(ge=0)] = 50
    mutation_prob: Annotated[float, Field(ge=0, le=1)] = 0.3
    latency_constraint: Annotated[float, Field(gt=0)]
    """Milliseconds."""
    feature_norm: tuple[float, ...] = (640, 6, 2048, 6, 640, 6, 2048, 6, 6, 2)
    """What the predictor divides the ten latency features by."""
    lat_norm: Annotated[float, Field(gt=0)] = 200
    """Milliseconds that the predictor's output is multiplied by."""


def search_from_hat_yaml(path: Path) -> HatSearchSettings:
    """The settings of one of HAT's search files; paths in it are ignored.

    Raises:
        SettingsError: Naming the file and what is wrong with it.
    """
    settings = _read_yaml(path)
    try:
        return HatSearchSettings.model_validate(settings)
    except ValidationError as error:
        raise SettingsError(f"{path}: {first_complaint(error)}") from error


def positive(args: Mapping[str, Any], key: str) -> int:
    """A positive whole number among HAT's settings.

    Raises:
        CheckpointError: It is missing or something else.
    """
    if args.get(key) is None:
        raise CheckpointError(f"{key!r} is missing")
    value = args[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"{key!r} is {value!r}, should be a positive whole number")
    return value


def _integers(args: Mapping[str, Any], key: str) -> tuple[int, ...]:
    values = args.get(key)
    if values is None:
        raise CheckpointError(f"{key!r} is missing")
    is_list = isinstance(values, list | tuple) and len(values) > 0
    if not is_list or not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        raise CheckpointError(f"{key!r} is {values!r}, should be a list of whole numbers")
    return tuple(values)


def _spans(codes: tuple[int, ...]) -> tuple[int, ...]:
    for code in codes:
        if code not in SPAN_OF_CODE:
            raise CheckpointError(
                f"'decoder_arbitrary_ende_attn' code {code} is not one of {list(SPAN_OF_CODE)}"
            )
    return tuple(SPAN_OF_CODE[code] for code in codes)


def _read_yaml(path: Path) -> dict[str, Any]:
    """HAT's settings with underscores for dashes, as its own parser turns them."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise SettingsError(f"{path}: no YAML file: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path}: no settings of HAT: should hold 'key: value' lines")
    return {str(key).replace("-", "_"): value for key, value in content.items()}


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return first_complaint(error)
    return str(error).splitlines()[0]


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

    Tied embeddings come out once. q, k and v may be packed or separate, in older fairseq's names or newer ones.
    Keys that hold no weight (`version`, `_float_tensor`) are dropped.
    """
    weights: dict[str, Tensor] = {}
    projections: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, tensor in state.items():
        if key.endswith(("version", "_float_tensor")):
            continue
        name = key.replace(".layers.", ".")
        if found := _PROJECTION.fullmatch(name):
            attention, letter, kind = found.groups()
            projections.setdefault((attention, kind), {})[letter] = tensor
        elif name.startswith(("encoder.layer_norm", "decoder.layer_norm")):
            weights[name.replace("layer_norm", "norm")] = tensor
        elif name.endswith("embed_tokens.weight"):
            weights[name.replace("embed_tokens.weight", "embedding")] = tensor
        elif name in ("decoder.embed_out", "decoder.output_projection.weight"):
            weights["decoder.output"] = tensor
        elif "encoder_attn.in_proj_" in name:
            prefix, kind = name.split("encoder_attn.in_proj_")
            qkv_dim = tensor.shape[0] // 3
            weights[f"{prefix}cross_attention.query.{kind}"] = tensor[:qkv_dim]
            weights[f"{prefix}cross_attention.key_value.{kind}"] = tensor[qkv_dim:]
        else:
            for old, new in _RENAMED:
                name = name.replace(old, new)
            weights[name] = tensor
    for (attention, kind), parts in projections.items():
        _add_projections(weights, attention, kind, parts)
    src, tgt = weights.get("encoder.embedding"), weights.get("decoder.embedding")
    if src is not None and tgt is not None and src.shape == tgt.shape and torch.equal(src, tgt):
        del weights["decoder.embedding"]
    return weights


_PROJECTION = re.compile(r"(.+(?:self|encoder)_attn)\.([qkv])_proj[._](weight|bias)")


def _add_projections(
    weights: dict[str, Tensor], attention: str, kind: str, parts: Mapping[str, Tensor]
) -> None:
    """q, k and v that came one by one; what is missing stays missing."""
    prefix, which = attention.rsplit(".", 1)
    if which == "self_attn":
        if parts.keys() == {"q", "k", "v"}:
            weights[f"{prefix}.self_attention.qkv.{kind}"] = torch.cat([parts["q"], parts["k"], parts["v"]])
        return
    if "q" in parts:
        weights[f"{prefix}.cross_attention.query.{kind}"] = parts["q"]
    if {"k", "v"} <= parts.keys():
        weights[f"{prefix}.cross_attention.key_value.{kind}"] = torch.cat([parts["k"], parts["v"]])
