"""Multi-head attention over a fixed q/k/v width, and the key/value cache of incremental decoding.

The width Q never shrinks: the number of heads only re-cuts it, so changing heads changes no weight.

Shapes: B sentences, K beams, N = B * K rows, T query positions, S key positions, H heads, D = Q / H,
Q the q/k/v width, E the embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dynhat_runtime.model.elastic import Linear


def split_heads(x_BTQ: Tensor, num_heads: int) -> Tensor:
    """View (B, T, Q) as (B, H, T, D)."""
    batch, length, width = x_BTQ.shape
    return x_BTQ.view(batch, length, num_heads, width // num_heads).transpose(1, 2)


def merge_heads(x_BHTD: Tensor) -> Tensor:
    """Join (B, H, T, D) to (B, T, Q)."""
    batch, heads, length, dim = x_BHTD.shape
    return x_BHTD.transpose(1, 2).reshape(batch, length, heads * dim)


def attend(
    query_BHTD: Tensor, key_BHSD: Tensor, value_BHSD: Tensor, mask: Tensor | None, dropout: float
) -> Tensor:
    """Scaled dot-product attention; `mask` is True where a key may be seen, broadcast to (B, H, T, S)."""
    return F.scaled_dot_product_attention(query_BHTD, key_BHSD, value_BHSD, attn_mask=mask, dropout_p=dropout)


class KVCache:
    """Keys and values of the target positions decoded so far, for all decoder layers in one tensor.

    Layers may differ in heads but share the width Q, so one (layer, row, position, 2Q) block holds them all and
    a beam reorder is one gather, into a second block that then takes the first one's place. Room grows by doubling.
    """

    def __init__(self, num_layers: int, num_rows: int, qkv_dim: int, *, capacity: int, like: Tensor) -> None:
        self.kv_LNTQ = like.new_empty(num_layers, num_rows, capacity, 2 * qkv_dim)
        self.spare_LNTQ: Tensor | None = None
        self.length = 0

    def update(self, layer: int, kv_NQ: Tensor) -> tuple[Tensor, Tensor]:
        """Write this position's keys and values (N, 2Q) of `layer`; return all of its keys and values (N, T, Q)."""
        self.kv_LNTQ[layer, :, self.length] = kv_NQ
        seen_NTQ = self.kv_LNTQ[layer, :, : self.length + 1]
        qkv_dim = kv_NQ.shape[1] // 2
        return seen_NTQ[..., :qkv_dim], seen_NTQ[..., qkv_dim:]

    def advance(self) -> None:
        """End a step: all layers have written their position."""
        self.length += 1
        layers, rows, capacity, width = self.kv_LNTQ.shape
        if self.length == capacity:
            grown = self.kv_LNTQ.new_empty(layers, rows, 2 * capacity, width)
            grown[:, :, :capacity] = self.kv_LNTQ
            self.kv_LNTQ, self.spare_LNTQ = grown, None

    def reorder(self, rows_N: Tensor) -> None:
        """Keep the cache rows `rows_N`, in that order; their number may shrink."""
        layers, _, capacity, width = self.kv_LNTQ.shape
        spare_LNTQ = self.spare_LNTQ
        if spare_LNTQ is None or spare_LNTQ.shape[1] != rows_N.shape[0]:
            spare_LNTQ = self.kv_LNTQ.new_empty(layers, rows_N.shape[0], capacity, width)
        seen_LNTQ, kept_LNTQ = self.kv_LNTQ[:, :, : self.length], spare_LNTQ[:, :, : self.length]
        torch.index_select(seen_LNTQ, 1, rows_N, out=kept_LNTQ)
        self.kv_LNTQ, self.spare_LNTQ = spare_LNTQ, self.kv_LNTQ

    @property
    def size_bytes(self) -> int:
        """Memory the cache holds."""
        spare = 0 if self.spare_LNTQ is None else self.spare_LNTQ.numel()
        return (self.kv_LNTQ.numel() + spare) * self.kv_LNTQ.element_size()


@dataclass(frozen=True, slots=True)
class SelfAttention:
    """Attention of a sequence over itself, with q, k and v in one projection (rows: q, then k, then v)."""

    qkv: Linear
    out: Linear
    num_heads: int
    dropout: float

    def __call__(self, x_BTE: Tensor, mask: Tensor | None) -> Tensor:
        """Attend over the whole sequence (B, T, E)."""
        query_BTQ, key_BTQ, value_BTQ = self.qkv(x_BTE).chunk(3, dim=-1)
        heads = self.num_heads
        context_BHTD = attend(
            split_heads(query_BTQ, heads),
            split_heads(key_BTQ, heads),
            split_heads(value_BTQ, heads),
            mask,
            self.dropout,
        )
        return self.out(merge_heads(context_BHTD))

    def step(self, x_NE: Tensor, layer: int, cache: KVCache) -> Tensor:
        """Attend from one new position (N, E) over the cached ones."""
        qkv_N3Q = self.qkv(x_NE)
        qkv_dim = qkv_N3Q.shape[1] // 3
        key_NTQ, value_NTQ = cache.update(layer, qkv_N3Q[:, qkv_dim:])
        rows, heads = x_NE.shape[0], self.num_heads
        query_NH1D = qkv_N3Q[:, :qkv_dim].view(rows, heads, 1, qkv_dim // heads)
        context_NH1D = attend(
            query_NH1D, split_heads(key_NTQ, heads), split_heads(value_NTQ, heads), None, 0.0
        )
        return self.out(context_NH1D.reshape(rows, qkv_dim))


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """Attention of the decoder over encoder outputs; the query width may differ from the key width."""

    query: Linear
    key_value: Linear
    out: Linear
    num_heads: int
    dropout: float

    def keys_values(self, memory_BSE: Tensor) -> tuple[Tensor, Tensor]:
        """Project encoder outputs once per sentence: keys and values (B, H, S, D)."""
        key_BSQ, value_BSQ = self.key_value(memory_BSE).chunk(2, dim=-1)
        return split_heads(key_BSQ, self.num_heads), split_heads(value_BSQ, self.num_heads)

    def __call__(self, x_BTE: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Attend from (B, T, E). In incremental decoding T counts the beams of a sentence, which share its keys."""
        query_BHTD = split_heads(self.query(x_BTE), self.num_heads)
        return self.out(merge_heads(attend(query_BHTD, *keys_values, mask, self.dropout)))


def causal_mask(length: int, device: torch.device) -> Tensor:
    """(T, T), True where a query may see a key: itself and what came before."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()
