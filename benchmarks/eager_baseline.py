"""Beam search in plain eager PyTorch, as HAT's own generator does it: the baseline that speed is quoted against.

Weights as torch stores them, one operator per formula, keys and values joined anew at every step, log-softmax and a
sort over the whole vocabulary of every row. It shares weights and encoder with the SubTransformer it is given, and
nothing with the search or the decoder that serve. Only whole outputs of a set length.

Shapes: K beams, S source length, T target length so far, E embedding, Q q/k/v width, H heads, D head dim, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dynhat_runtime.decoding.tokenizer import EOS_ID, PAD_ID
from dynhat_runtime.model.attention import split_heads
from dynhat_runtime.model.layers import DecoderLayer, Residual
from dynhat_runtime.model.sub_transformer import SubTransformer


class EagerDecoder:
    """Decodes one sentence at a time with a SubTransformer whose matrices are as torch keeps them."""

    def __init__(self, sub: SubTransformer, num_threads: int) -> None:
        self._sub = sub
        self._num_threads = num_threads

    @torch.inference_mode()
    def decode(self, src_ids: Sequence[int], num_steps: int, beam_size: int) -> tuple[int, ...]:
        """The best output of exactly `num_steps` tokens, eos included."""
        torch.set_num_threads(self._num_threads)
        sub = self._sub
        memory_KSE = sub.encode(torch.tensor([src_ids])).last_BSE.repeat(beam_size, 1, 1)
        cross = [
            _split(layer.cross_attention.key_value(memory_KSE), 2, layer) for layer in sub.decoder_layers
        ]
        cache: list[tuple[Tensor, ...]] = []
        tokens_KT = torch.full((beam_size, 1), EOS_ID)
        totals_K = torch.full((beam_size,), -math.inf)
        totals_K[0] = 0.0  # the rows are equal before the first token
        for position in range(num_steps):
            logits_KV, cache = self._step(tokens_KT[:, -1], position, cross, cache)
            scores_KV = _allowed(logits_KV.log_softmax(dim=1), is_last=position == num_steps - 1)
            totals_K, flat_K = (scores_KV + totals_K[:, None]).view(-1).topk(beam_size)
            rows_K, next_K = flat_K // scores_KV.shape[1], flat_K % scores_KV.shape[1]
            tokens_KT = torch.cat([tokens_KT.index_select(0, rows_K), next_K[:, None]], dim=1)
            cache = [tuple(part.index_select(0, rows_K) for part in layer) for layer in cache]
        return tuple(tokens_KT[0, 1:].tolist())

    def _step(
        self,
        tokens_K: Tensor,
        position: int,
        cross: Sequence[tuple[Tensor, ...]],
        cache: Sequence[tuple[Tensor, ...]],
    ) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
        """Scores (K, V) of what follows, and the keys and values up to here."""
        sub, embedding = self._sub, self._sub.tgt_embedding
        x_KE = F.embedding(tokens_K, embedding.table_VE) * math.sqrt(embedding.table_VE.shape[1])
        x_KE = x_KE + embedding.positions_PE[embedding.pad_id + 1 + position]
        grown: list[tuple[Tensor, ...]] = []
        for index, layer in enumerate(sub.decoder_layers):
            before = cache[index] if cache else None
            x_KE, keys_values = _layer(layer, x_KE, cross[index], before)
            grown.append(keys_values)
        if sub.decoder_norm is not None:
            x_KE = sub.decoder_norm(x_KE)
        return F.linear(x_KE, sub.output.weight_OI), grown


def _layer(
    layer: DecoderLayer, x_KE: Tensor, cross: tuple[Tensor, ...], before: tuple[Tensor, ...] | None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """One decoder layer at one position, and its keys and values with this position's."""
    attention = layer.self_attention
    residual = layer.self_attention_residual
    query_KHTD, *now = _split(attention.qkv(_before(residual, x_KE)[:, None]), 3, layer)
    keys_values = (
        tuple(now)
        if before is None
        else tuple(torch.cat(pair, dim=2) for pair in zip(before, now, strict=True))
    )
    x_KE = _after(residual, x_KE, attention.out(_attend(query_KHTD, *keys_values)))
    residual = layer.cross_attention_residual
    (query_KHTD,) = _split(layer.cross_attention.query(_before(residual, x_KE)[:, None]), 1, layer)
    x_KE = _after(residual, x_KE, layer.cross_attention.out(_attend(query_KHTD, *cross)))
    residual = layer.feed_forward_residual
    hidden_KF = F.relu(layer.feed_forward.expand(_before(residual, x_KE)))
    return _after(residual, x_KE, layer.feed_forward.contract(hidden_KF)), keys_values


def _split(x_KTQ: Tensor, num_parts: int, layer: DecoderLayer) -> tuple[Tensor, ...]:
    """Queries, keys, values (K, H, T, D) out of one projection; all attention of a layer has the same heads here."""
    heads = layer.self_attention.num_heads
    return tuple(split_heads(part, heads) for part in x_KTQ.chunk(num_parts, dim=2))


def _attend(query_KHTD: Tensor, key_KHSD: Tensor, value_KHSD: Tensor) -> Tensor:
    """Softmax attention from one position, heads joined (K, Q)."""
    weights_KHTS = (query_KHTD * query_KHTD.shape[3] ** -0.5) @ key_KHSD.transpose(2, 3)
    context_KHTD = torch.matmul(weights_KHTS.softmax(dim=3), value_KHSD)
    return context_KHTD.flatten(1)


def _before(residual: Residual, x_KE: Tensor) -> Tensor:
    return residual.norm(x_KE) if residual.norm_first else x_KE


def _after(residual: Residual, x_KE: Tensor, change_KE: Tensor) -> Tensor:
    return x_KE + change_KE if residual.norm_first else residual.norm(x_KE + change_KE)


def _allowed(scores_KV: Tensor, *, is_last: bool) -> Tensor:
    """Nothing but eos at the last position, anything but eos before, pad never."""
    eos_K = scores_KV[:, EOS_ID].clone()
    if is_last:
        scores_KV = torch.full_like(scores_KV, -math.inf)
        scores_KV[:, EOS_ID] = eos_K
        return scores_KV
    scores_KV[:, [EOS_ID, PAD_ID]] = -math.inf
    return scores_KV
