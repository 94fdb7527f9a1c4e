"""What a SuperTransformer's weights are: the shape that everything else follows from, and weights of that shape.

Computes nothing, and needs no torch: serving with the native decoder loads a bundle by this alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from dynhat_runtime.design_space import DesignSpace
from dynhat_runtime.errors import BundleError


class SuperTransformerSpec(BaseModel):
    """Everything that fixes the shape of a SuperTransformer's weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    design_space: DesignSpace
    src_vocab_size: int = Field(gt=4)
    tgt_vocab_size: int = Field(gt=4)
    tied_embeddings: Literal["all", "decoder", "none"] = "all"
    """all: one matrix for source, target and output; decoder: target and output share; none: three matrices."""
    norm_first: bool = False
    """Pre-norm instead of HAT's default post-norm."""
    max_positions: int = Field(default=1024, gt=0)
    """Longest sequence in tokens that positions exist for."""
    pad_id: int = 1

    @property
    def num_positions(self) -> int:
        """Rows of a position table: a token's position is `pad_id` plus its rank, counted from 1."""
        return self.max_positions + self.pad_id + 1


@dataclass(frozen=True, slots=True)
class Weights:
    """A SuperTransformer's weights as arrays in single precision, by the names of `parameter_shapes`."""

    spec: SuperTransformerSpec
    by_name: Mapping[str, NDArray[np.float32]]

    def __post_init__(self) -> None:
        check_shapes(self.spec, ((name, weight.shape) for name, weight in self.by_name.items()))


def parameter_shapes(spec: SuperTransformerSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight, in the order they are stored."""
    space = spec.design_space
    enc, dec, qkv = max(space.encoder_embed_dim), max(space.decoder_embed_dim), space.qkv_dim
    shapes: dict[str, tuple[int, ...]] = {}

    def linear(name: str, num_out: int, num_in: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (num_out, num_in), (num_out,)

    def norm(name: str, dim: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (dim,), (dim,)

    def feed_forward(prefix: str, dim: int, ffn_dim: int) -> None:
        linear(f"{prefix}.feed_forward.expand", ffn_dim, dim)
        linear(f"{prefix}.feed_forward.contract", dim, ffn_dim)
        norm(f"{prefix}.feed_forward_norm", dim)

    def self_attention(prefix: str, dim: int) -> None:
        linear(f"{prefix}.self_attention.qkv", 3 * qkv, dim)
        linear(f"{prefix}.self_attention.out", dim, qkv)
        norm(f"{prefix}.self_attention_norm", dim)

    # One matrix for all is as wide as the wider of the two stacks.
    shapes["encoder.embedding"] = (
        spec.src_vocab_size,
        max(enc, dec) if spec.tied_embeddings == "all" else enc,
    )
    for i in range(space.max_encoder_layers):
        self_attention(f"encoder.{i}", enc)
        feed_forward(f"encoder.{i}", enc, max(space.encoder_ffn_dim))
    if spec.tied_embeddings != "all":
        shapes["decoder.embedding"] = (spec.tgt_vocab_size, dec)
    for i in range(space.max_decoder_layers):
        self_attention(f"decoder.{i}", dec)
        linear(f"decoder.{i}.cross_attention.query", qkv, dec)
        linear(f"decoder.{i}.cross_attention.key_value", 2 * qkv, enc)
        linear(f"decoder.{i}.cross_attention.out", dec, qkv)
        norm(f"decoder.{i}.cross_attention_norm", dec)
        feed_forward(f"decoder.{i}", dec, max(space.decoder_ffn_dim))
    if spec.tied_embeddings == "none":
        shapes["decoder.output"] = (spec.tgt_vocab_size, dec)
    if spec.norm_first:
        norm("encoder.norm", enc)
        norm("decoder.norm", dec)
    return shapes


def check_shapes(spec: SuperTransformerSpec, found: Iterable[tuple[str, tuple[int, ...]]]) -> None:
    """See that weights are those of `spec`.

    Raises:
        BundleError: One is missing, superfluous or of another shape.
    """
    shapes, found_shapes = parameter_shapes(spec), dict(found)
    for name in shapes.keys() ^ found_shapes.keys():
        raise BundleError(
            f"weight {name!r} is {'missing' if name in shapes else 'not part of this design space'}"
        )
    for name, shape in shapes.items():
        if found_shapes[name] != shape:
            raise BundleError(
                f"weight {name!r} has shape {found_shapes[name]}; the design space needs {shape}"
            )
