"""Elastic parts: plain layers whose weights are leading slices of larger ones, and share their storage.

Each part is a frozen value holding views. Nothing here copies a weight, and nothing here knows the
SuperTransformer: whoever cuts the slices (`super_transformer.py`) hands them in.

Shapes: O output features, I input features, V vocabulary, E embedding; `...` any leading dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True, slots=True)
class Linear:
    """x -> x W^T + b on views of larger matrices."""

    weight_OI: Tensor
    bias_O: Tensor | None

    def __call__(self, x_I: Tensor) -> Tensor:
        """Map (..., I) to (..., O)."""
        return F.linear(x_I, self.weight_OI, self.bias_O)


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """Layer normalisation over the sampled width, not the SuperTransformer's."""

    weight_E: Tensor
    bias_E: Tensor

    def __call__(self, x_E: Tensor) -> Tensor:
        """Normalise (..., E)."""
        return F.layer_norm(x_E, self.weight_E.shape, self.weight_E, self.bias_E, LAYER_NORM_EPS)


@dataclass(frozen=True, slots=True)
class Embedding:
    """Token embeddings times sqrt(sampled width), plus sinusoidal positions cut from the full width."""

    table_VE: Tensor
    positions_PE: Tensor
    pad_id: int
    dropout: float

    def __call__(self, tokens_BT: Tensor) -> Tensor:
        """Embed token ids (B, T) to (B, T, E); padding gets no position.

        The position of a token is `pad_id` plus its rank among the non-padding tokens of its row, so
        padding on the left or on the right makes no difference.
        """
        is_token_BT = tokens_BT.ne(self.pad_id)
        position_BT = torch.cumsum(is_token_BT, dim=1) * is_token_BT + self.pad_id
        x_BTE = F.embedding(tokens_BT, self.table_VE) * math.sqrt(self.table_VE.shape[1])
        return apply_dropout(x_BTE + F.embedding(position_BT, self.positions_PE), self.dropout)

    def step(self, tokens_N: Tensor, num_before: int) -> Tensor:
        """Embed one token (N, E) of every row, after `num_before` others; no dropout: nobody trains by steps."""
        position_E = self.positions_PE[self.pad_id + 1 + num_before]
        x_NE = F.embedding(tokens_N, self.table_VE)
        return torch.add(position_E, x_NE, alpha=math.sqrt(self.table_VE.shape[1]))


def apply_dropout(x: Tensor, rate: float) -> Tensor:
    """Dropout where the part was cut for training with a rate; the identity otherwise."""
    return F.dropout(x, rate, training=True) if rate > 0.0 else x
