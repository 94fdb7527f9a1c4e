"""Encoder layer, decoder layer, feed-forward network and residual connections, as values of fixed shape.

Shapes: B sentences, K beams, N = B * K rows, S source length, T target length, E embedding, F feed-forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from dynhat_runtime.model.attention import CrossAttention, KVCache, SelfAttention
from dynhat_runtime.model.elastic import LayerNorm, Linear, apply_dropout


@dataclass(frozen=True, slots=True)
class Residual:
    """x + f(x) with layer norm before f (pre-norm) or after the sum (post-norm, HAT's default)."""

    norm: LayerNorm
    norm_first: bool
    dropout: float

    def __call__(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply `f` around the residual connection."""
        if self.norm_first:
            return x + apply_dropout(f(self.norm(x)), self.dropout)
        return self.norm(x + apply_dropout(f(x), self.dropout))


@dataclass(frozen=True, slots=True)
class FeedForward:
    """Two linear maps with a ReLU between."""

    expand: Linear
    contract: Linear
    activation_dropout: float

    def __call__(self, x_E: Tensor) -> Tensor:
        """Map (..., E) through (..., F) back to (..., E)."""
        return self.contract(apply_dropout(F.relu(self.expand(x_E)), self.activation_dropout))


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    """Self-attention and feed-forward network, each with its residual connection."""

    self_attention: SelfAttention
    self_attention_residual: Residual
    feed_forward: FeedForward
    feed_forward_residual: Residual

    def __call__(self, x_BSE: Tensor, mask: Tensor | None) -> Tensor:
        """Encode (B, S, E); `mask` (B, 1, 1, S) is True at real tokens, None when all are."""
        x_BSE = self.self_attention_residual(x_BSE, lambda x: self.self_attention(x, mask))
        return self.feed_forward_residual(x_BSE, self.feed_forward)


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """Self-attention, attention over the last `cross_attention_span` encoder outputs, feed-forward network."""

    self_attention: SelfAttention
    self_attention_residual: Residual
    cross_attention: CrossAttention
    cross_attention_residual: Residual
    feed_forward: FeedForward
    feed_forward_residual: Residual
    cross_attention_span: int

    def __call__(
        self, x_BTE: Tensor, self_mask: Tensor, keys_values: tuple[Tensor, Tensor], memory_mask: Tensor | None
    ) -> Tensor:
        """Decode all target positions (B, T, E) at once."""
        x_BTE = self.self_attention_residual(x_BTE, lambda x: self.self_attention(x, self_mask))
        x_BTE = self.cross_attention_residual(
            x_BTE, lambda x: self.cross_attention(x, keys_values, memory_mask)
        )
        return self.feed_forward_residual(x_BTE, self.feed_forward)

    def step(
        self,
        x_NE: Tensor,
        layer: int,
        cache: KVCache,
        keys_values: tuple[Tensor, Tensor],
        memory_mask: Tensor | None,
    ) -> Tensor:
        """Decode one new position of every row (N, E)."""
        num_sentences = keys_values[0].shape[0]

        def cross(x_NE: Tensor) -> Tensor:
            x_BKE = x_NE.view(num_sentences, -1, x_NE.shape[1])
            return self.cross_attention(x_BKE, keys_values, memory_mask).view(x_NE.shape)

        x_NE = self.self_attention_residual(x_NE, lambda x: self.self_attention.step(x, layer, cache))
        x_NE = self.cross_attention_residual(x_NE, cross)
        return self.feed_forward_residual(x_NE, self.feed_forward)
