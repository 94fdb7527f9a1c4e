"""The terms of which latency is a sum: what each layer of an architecture costs, as numbers to be weighed by a fit.

Latency is nearly additive: an encoding, then per decoding step every decoder layer and the output layer. So most terms
are sums over active layers of a width, a product of widths, heads or a span. Where only HAT's averages are known, a
layer counts as the mean layer. Fits nothing and knows no milliseconds.

Shapes: N architectures, L layers (one mean layer where only averages are known), T terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np

from dynhat_runtime.design_space import SubTransformerConfig

Array = np.ndarray[Any, np.dtype[np.float64]]
BasisName = Literal["plain", "stepped", "bent"]
BASIS_NAMES: tuple[BasisName, ...] = ("plain", "stepped", "bent")
"""Each has the terms of the one before and some more: additive costs; a step per decoder depth; bends and products."""


@dataclass(frozen=True, slots=True)
class Stacks:
    """Architectures as arrays: widths per architecture [N], and per layer [N, L] with how often the layer counts."""

    encoder_dim: Array
    num_encoder_layers: Array
    encoder_weight: Array
    """[N, L]: 1 for an active layer, 0 for none; the depth, where the only column is the mean layer."""
    encoder_ffn: Array
    encoder_heads: Array
    decoder_dim: Array
    num_decoder_layers: Array
    decoder_weight: Array
    decoder_ffn: Array
    decoder_heads: Array
    cross_heads: Array
    cross_span: Array

    @classmethod
    def of_configs(cls, configs: Sequence[SubTransformerConfig]) -> Stacks:
        """Every layer apart."""
        depths = np.array([[len(c.encoder_ffn_dims), len(c.decoder_ffn_dims)] for c in configs], dtype=float)
        num_encoder, num_decoder = depths[:, 0], depths[:, 1]
        return cls(
            encoder_dim=np.array([c.encoder_embed_dim for c in configs], dtype=float),
            num_encoder_layers=num_encoder,
            encoder_weight=_active(num_encoder),
            encoder_ffn=_padded([c.encoder_ffn_dims for c in configs], num_encoder),
            encoder_heads=_padded([c.encoder_attention_heads for c in configs], num_encoder),
            decoder_dim=np.array([c.decoder_embed_dim for c in configs], dtype=float),
            num_decoder_layers=num_decoder,
            decoder_weight=_active(num_decoder),
            decoder_ffn=_padded([c.decoder_ffn_dims for c in configs], num_decoder),
            decoder_heads=_padded([c.decoder_attention_heads for c in configs], num_decoder),
            cross_heads=_padded([c.cross_attention_heads for c in configs], num_decoder),
            cross_span=_padded([c.cross_attention_spans for c in configs], num_decoder),
        )

    @classmethod
    def of_features(cls, features: Array) -> Stacks:
        """Mean layers, of `LatencyFeatures` in rows [N, 10]."""
        column = [features[:, i] for i in range(features.shape[1])]
        return cls(
            encoder_dim=column[0],
            num_encoder_layers=column[1],
            encoder_weight=column[1][:, None],
            encoder_ffn=column[2][:, None],
            encoder_heads=column[3][:, None],
            decoder_dim=column[4],
            num_decoder_layers=column[5],
            decoder_weight=column[5][:, None],
            decoder_ffn=column[6][:, None],
            decoder_heads=column[7][:, None],
            cross_heads=column[8][:, None],
            cross_span=column[9][:, None],
        )

    def features(self) -> Array:
        """HAT's ten features [N, 10], as `latency_features` gives them."""

        def mean(values: Array, weight: Array) -> Array:
            return np.asarray((values * weight).sum(1) / weight.sum(1))

        return np.column_stack(
            [
                self.encoder_dim,
                self.num_encoder_layers,
                mean(self.encoder_ffn, self.encoder_weight),
                mean(self.encoder_heads, self.encoder_weight),
                self.decoder_dim,
                self.num_decoder_layers,
                mean(self.decoder_ffn, self.decoder_weight),
                mean(self.decoder_heads, self.decoder_weight),
                mean(self.cross_heads, self.decoder_weight),
                mean(self.cross_span, self.decoder_weight),
            ]
        )

    def averaged(self) -> Stacks:
        """The same with mean layers, for a model that was fitted on averages."""
        return Stacks.of_features(self.features())

    def take(self, rows: np.ndarray[Any, Any]) -> Stacks:
        """Some of the architectures."""
        return Stacks(*(getattr(self, name)[rows] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Bends:
    """Where the terms bend, as found in the training rows."""

    depth_steps: tuple[int, ...]
    """Decoder depths from which on one more step counts."""
    ffn_knots: tuple[float, ...]
    """Weights of one feed-forward matrix (width x FFN width) above which more of them cost another price."""

    @classmethod
    def of(cls, stacks: Stacks) -> Bends:
        """A step at every depth but the least, knots at one and two thirds of the range of feed-forward sizes."""
        sizes = (stacks.decoder_ffn * stacks.decoder_dim[:, None])[stacks.decoder_weight > 0]
        depths = np.unique(np.ceil(stacks.num_decoder_layers))
        return cls(
            depth_steps=tuple(int(depth) for depth in depths[1:]),
            ffn_knots=tuple(
                float(sizes.min() + part * (sizes.max() - sizes.min())) for part in (1 / 3, 2 / 3)
            ),
        )


def terms(stacks: Stacks, basis: BasisName, bends: Bends) -> dict[str, Array]:
    """The terms by name, each [N], without the constant one."""
    found = _plain_terms(stacks)
    if basis in ("stepped", "bent"):
        found |= _steps(stacks, bends)
    if basis == "bent":
        found |= _bends_and_products(stacks, bends)
    return found


def _encoder_sum(stacks: Stacks, values: Array | float) -> Array:
    return np.asarray((stacks.encoder_weight * values).sum(1))


def _decoder_sum(stacks: Stacks, values: Array | float) -> Array:
    return np.asarray((stacks.decoder_weight * values).sum(1))


def _plain_terms(s: Stacks) -> dict[str, Array]:
    """Costs that add up: matrices are a product of their widths, attention a number of heads and positions."""
    enc, dec = s.encoder_dim[:, None], s.decoder_dim[:, None]
    return {
        "encoder layers": s.num_encoder_layers,
        "encoder layers x encoder width": s.num_encoder_layers * s.encoder_dim,
        "sum of encoder FFN x encoder width": _encoder_sum(s, s.encoder_ffn * enc),
        "sum of encoder heads": _encoder_sum(s, s.encoder_heads),
        "decoder width": s.decoder_dim,
        "decoder layers": s.num_decoder_layers,
        "decoder layers x decoder width": s.num_decoder_layers * s.decoder_dim,
        "decoder layers x encoder width": s.num_decoder_layers * s.encoder_dim,
        "sum of decoder FFN": _decoder_sum(s, s.decoder_ffn),
        "sum of decoder FFN x decoder width": _decoder_sum(s, s.decoder_ffn * dec),
        "sum of decoder heads": _decoder_sum(s, s.decoder_heads),
        "sum of cross heads": _decoder_sum(s, s.cross_heads),
        "sum of span": _decoder_sum(s, s.cross_span),
        "sum of span x encoder width": _decoder_sum(s, s.cross_span * enc),
    }


def _steps(s: Stacks, bends: Bends) -> dict[str, Array]:
    """What having at least so many decoder layers costs, by itself and per width."""
    found = {}
    for depth in bends.depth_steps:
        reached = (s.num_decoder_layers >= depth).astype(float)
        found[f"decoder layers >= {depth}"] = reached
        found[f"decoder layers >= {depth} x decoder width"] = reached * s.decoder_dim
    return found


def _bends_and_products(s: Stacks, bends: Bends) -> dict[str, Array]:
    """What a device does not add up: another price above a size, and things that hide or hinder each other."""
    enc, dec = s.encoder_dim[:, None], s.decoder_dim[:, None]
    ffn, heads, cross, span = s.decoder_ffn, s.decoder_heads, s.cross_heads, s.cross_span
    summed: dict[str, Array] = {
        "cross heads squared": cross * cross,
        "decoder heads squared": heads * heads,
        "span squared": span * span,
        "decoder FFN squared": ffn * ffn,
        "decoder FFN squared x decoder width": ffn * ffn * dec,
        "span x decoder width": span * dec,
        "decoder heads x decoder width": heads * dec,
        "cross heads x decoder width": cross * dec,
        "decoder FFN x span": ffn * span,
        "decoder FFN x decoder heads": ffn * heads,
        "decoder FFN x cross heads": ffn * cross,
    }
    averaged: dict[str, Array] = {
        "decoder FFN": ffn,
        "decoder FFN x decoder width": ffn * dec,
        "decoder heads": heads,
        "cross heads": cross,
        "span": span,
    }
    for number, knot in enumerate(bends.ffn_knots, 1):
        above = np.maximum(0.0, ffn * dec - knot)
        summed[f"decoder FFN x decoder width above knot {number}"] = above
        averaged[f"decoder FFN x decoder width above knot {number}"] = above
    found = {f"sum of {name}": _decoder_sum(s, values) for name, values in summed.items()}
    found |= {
        f"mean of {name}": _decoder_sum(s, values) / s.num_decoder_layers for name, values in averaged.items()
    }
    found["decoder layers x both widths"] = s.num_decoder_layers * (enc * dec)[:, 0]
    return found


def _active(depths: Array) -> Array:
    """[N, L]: 1 where the layer is active."""
    return (np.arange(int(depths.max())) < depths[:, None]).astype(float)


def _padded(values: list[tuple[int, ...]], depths: Array) -> Array:
    """[N, L] with zeros beyond an architecture's depth."""
    num_layers = int(depths.max())
    zeros = (0,) * num_layers
    cells = chain.from_iterable(row + zeros[len(row) :] for row in values)
    return np.fromiter(cells, dtype=float, count=len(values) * num_layers).reshape(-1, num_layers)
