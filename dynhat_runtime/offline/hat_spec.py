"""The shape of a HAT / fairseq checkpoint: which SuperTransformer it is, and which design space it was trained for.

Rules of the space, the first that applies: (1) the space asked for; (2) a plain fairseq Transformer has one
architecture; (3) the preset whose sizes are the checkpoint's, its task told by language and architecture name;
(4) the checkpoint's own choices, as far as its weights hold them. Reads no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from dynhat_runtime.design_space import DesignSpace
from dynhat_runtime.design_space_presets import PRESETS
from dynhat_runtime.errors import CheckpointError, DesignSpaceError
from dynhat_runtime.model.spec import SuperTransformerSpec
from dynhat_runtime.offline.hat_pickle import HatCheckpoint
from dynhat_runtime.offline.import_hat import positive, space_from_args

_HAT_ARCH, _FAIRSEQ_ARCH = "transformersuper", "transformer"
_UNSUPPORTED = (
    "encoder_learned_pos", "decoder_learned_pos", "no_token_positional_embeddings", "adaptive_input",
    "adaptive_softmax_cutoff", "vocab_original_scaling", "max_relative_length", "layernorm_embedding",
)  # fmt: skip
_SAME_SIZES = {"fr": "hat-wmt14-enfr", "wmt19": "hat-wmt19-ende"}
DEFAULT_POSITIONS = 1024


def spec_of_checkpoint(checkpoint: HatCheckpoint, space: DesignSpace | None) -> SuperTransformerSpec:
    """The SuperTransformer that the checkpoint's settings describe; vocabulary sizes come from its weights.

    Raises:
        CheckpointError: Another architecture, or a setting is missing or impossible.
        DesignSpaceError: `space` has other sizes than the checkpoint.
    """
    args, path = checkpoint.args, checkpoint.path
    try:
        _check_architecture(args)
        sizes = _sizes(args)
        found = _space(args, sizes) if space is None else _same_sizes(space, sizes)
        tied = _tied(args)
        src_vocab_size = _num_rows(checkpoint, "encoder.embed_tokens.weight")
        tgt_vocab_size = _num_rows(checkpoint, "decoder.embed_tokens.weight")
        return SuperTransformerSpec(
            design_space=found,
            src_vocab_size=src_vocab_size,
            tgt_vocab_size=tgt_vocab_size,
            tied_embeddings=tied,
            norm_first=bool(args.get("encoder_normalize_before", False)),
            max_positions=max(
                args.get(key) or DEFAULT_POSITIONS for key in ("max_source_positions", "max_target_positions")
            ),
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (ValidationError, TypeError) as error:
        raise CheckpointError(f"{path}: impossible settings: {str(error).splitlines()[0]}") from error


def _check_architecture(args: Mapping[str, Any]) -> None:
    arch = args.get("arch")
    if (
        not isinstance(arch, str)
        or not arch.startswith((_HAT_ARCH, _FAIRSEQ_ARCH))
        or "lm" in arch.split("_")
    ):
        raise CheckpointError(f"architecture {arch!r} is not HAT's {_HAT_ARCH}_... nor fairseq's Transformer")
    for flag in _UNSUPPORTED:
        if args.get(flag):
            raise CheckpointError(f"{flag}={args[flag]!r} is not part of HAT's architecture")
    if args.get("activation_fn", "relu") != "relu":
        raise CheckpointError(f"activation_fn={args['activation_fn']!r} is not HAT's: should be 'relu'")
    if bool(args.get("encoder_normalize_before")) != bool(args.get("decoder_normalize_before")):
        raise CheckpointError("encoder and decoder normalise at different places: not HAT's architecture")


def _sizes(args: Mapping[str, Any]) -> dict[str, int]:
    """The SuperTransformer's sizes, under the names of `DesignSpace`'s choices; spans have none."""
    sizes = {
        "encoder_embed_dim": positive(args, "encoder_embed_dim"),
        "encoder_num_layers": positive(args, "encoder_layers"),
        "encoder_ffn_dim": positive(args, "encoder_ffn_embed_dim"),
        "encoder_attention_heads": positive(args, "encoder_attention_heads"),
        "decoder_embed_dim": positive(args, "decoder_embed_dim"),
        "decoder_num_layers": positive(args, "decoder_layers"),
        "decoder_ffn_dim": positive(args, "decoder_ffn_embed_dim"),
        "decoder_attention_heads": positive(args, "decoder_attention_heads"),
    }
    is_plain = not str(args["arch"]).startswith(_HAT_ARCH)
    qkv_dim = sizes["encoder_embed_dim"] if is_plain else positive(args, "qkv_dim")
    return {**sizes, "qkv_dim": qkv_dim, "cross_attention_heads": sizes["decoder_attention_heads"]}


def _tied(args: Mapping[str, Any]) -> Literal["all", "decoder", "none"]:
    for flag in ("share_all_embeddings", "share_decoder_input_output_embed"):
        if flag not in args:
            raise CheckpointError(f"{flag!r} is missing")
    if args["share_all_embeddings"]:
        return "all"
    return "decoder" if args["share_decoder_input_output_embed"] else "none"


def _num_rows(checkpoint: HatCheckpoint, key: str) -> int:
    weight = checkpoint.state.get(key)
    if weight is None and checkpoint.args.get("share_all_embeddings"):
        weight = checkpoint.state.get("encoder.embed_tokens.weight")
    if weight is None:
        raise CheckpointError(f"key {key!r} is missing")
    return int(weight.shape[0])


def _space(args: Mapping[str, Any], sizes: Mapping[str, int]) -> DesignSpace:
    """Rules 2 to 4."""
    if not str(args["arch"]).startswith(_HAT_ARCH):
        choices = {key: size if key == "qkv_dim" else (size,) for key, size in sizes.items()}
        return DesignSpace.model_validate(
            {**choices, "name": str(args["arch"]), "cross_attention_span": (1,)}
        )
    alike = [space.name for space in PRESETS.values() if _sizes_of(space) == sizes]
    if alike:
        told_by = {"fr": args.get("target_lang") == "fr" or str(args["arch"]).endswith("_fr")}
        told_by["wmt19"] = "wmt19" in str(args.get("data"))
        others = [name for sign, name in _SAME_SIZES.items() if told_by[sign] and name in alike]
        return PRESETS[(others or alike)[0]]
    return _covering_space(args, sizes)


def _covering_space(args: Mapping[str, Any], sizes: Mapping[str, int]) -> DesignSpace:
    """Rule 4: the checkpoint's choices without those larger than its weights, and with its own sizes."""
    asked = space_from_args({**args, **_harmless_heads(args, sizes)}, f"imported-{args['arch']}")
    held: dict[str, Any] = {"name": asked.name, "qkv_dim": sizes["qkv_dim"]}
    for key, size in sizes.items():
        if key == "qkv_dim":
            continue
        smaller = tuple(value for value in getattr(asked, key) if value <= size)
        held[key] = smaller if size in smaller else (size, *smaller)
    spans = tuple(span for span in asked.cross_attention_span if span <= sizes["encoder_num_layers"])
    held["cross_attention_span"] = spans or (1,)
    return DesignSpace.model_validate(held)


def _harmless_heads(args: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    """Choices of heads without those that cannot cut q, k and v evenly, and spans without those too long."""
    harmless: dict[str, Any] = {}
    for stack in ("encoder_self", "decoder_self", "decoder_ende"):
        key = f"{stack}_attention_heads_choice"
        values = args.get(key)
        if isinstance(values, list | tuple) and all(isinstance(value, int) and value > 0 for value in values):
            harmless[key] = [v for v in values if sizes["qkv_dim"] % v == 0] or [
                sizes["encoder_attention_heads"]
            ]
    layers = args.get("encoder_layer_num_choice")
    if isinstance(layers, list | tuple):
        harmless["encoder_layer_num_choice"] = list(
            dict.fromkeys([*layers, max(3, sizes["encoder_num_layers"])])
        )
    return harmless


def _sizes_of(space: DesignSpace) -> dict[str, int]:
    fields = (
        "encoder_embed_dim", "encoder_num_layers", "encoder_ffn_dim", "encoder_attention_heads",
        "decoder_embed_dim", "decoder_num_layers", "decoder_ffn_dim", "decoder_attention_heads",
        "cross_attention_heads",
    )  # fmt: skip
    return {**{field: max(getattr(space, field)) for field in fields}, "qkv_dim": space.qkv_dim}


def _same_sizes(space: DesignSpace, sizes: Mapping[str, int]) -> DesignSpace:
    """`space` if it has the checkpoint's sizes. Heads may differ: they change no weight."""
    for field, size in _sizes_of(space).items():
        if size != sizes[field] and not field.endswith("heads"):
            raise DesignSpaceError(
                f"design space {space.name!r} has {field}={size}; the checkpoint has {sizes[field]}"
            )
    return space
