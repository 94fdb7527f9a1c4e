"""Tokenised pairs, and how they are cut into batches; deterministic. Reads no text and cleans none.

An epoch is drawn from weighted corpora, sorted into buckets of similar length and cut into batches of bounded
size; the same seed and epoch give the same batches in any process.

Shapes: B sentences, S source length, T target length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dynhat_runtime.decoding.tokenizer import EOS_ID, PAD_ID, Tokenizer
from dynhat_runtime.offline.parallel_text import Pair

Ids = npt.NDArray[np.integer[Any]]
"""Token ids in any width: prepared data keeps 16 bits, a batch has 64."""


@dataclass(frozen=True, slots=True)
class TokenisedCorpus:
    """Piece ids of many pairs in flat arrays; sequence i is `ids[offsets[i]:offsets[i + 1]]`, eos included."""

    src_ids: Ids
    src_offsets: npt.NDArray[np.int64]
    tgt_ids: Ids
    tgt_offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.src_offsets) - 1

    @property
    def src_lengths(self) -> npt.NDArray[np.int64]:
        """Source lengths in tokens, eos included."""
        return np.diff(self.src_offsets)

    @property
    def tgt_lengths(self) -> npt.NDArray[np.int64]:
        """Target lengths in tokens, eos included."""
        return np.diff(self.tgt_offsets)

    def source(self, index: int) -> Ids:
        """Source token ids of one pair, ending in eos."""
        return self.src_ids[self.src_offsets[index] : self.src_offsets[index + 1]]

    def target(self, index: int) -> Ids:
        """Target token ids of one pair, ending in eos."""
        return self.tgt_ids[self.tgt_offsets[index] : self.tgt_offsets[index + 1]]

    @classmethod
    def join(cls, corpora: Sequence[TokenisedCorpus]) -> TokenisedCorpus:
        """One corpus after another."""
        lengths = [
            np.concatenate([[0], *(getattr(c, side) for c in corpora)])
            for side in ("src_lengths", "tgt_lengths")
        ]
        return cls(
            np.concatenate([c.src_ids for c in corpora]),
            np.cumsum(lengths[0]),
            np.concatenate([c.tgt_ids for c in corpora]),
            np.cumsum(lengths[1]),
        )


def tokenise(pairs: Sequence[Pair], tokenizer: Tokenizer, max_tokens: int) -> TokenisedCorpus:
    """Tokenise pairs, leaving out those with a side longer than `max_tokens` (eos included)."""
    sources = tokenizer.encode_batch([source for source, _ in pairs])
    targets = tokenizer.encode_batch([target for _, target in pairs])
    kept = [
        ([*src, EOS_ID], [*tgt, EOS_ID])
        for src, tgt in zip(sources, targets, strict=True)
        if src and tgt and max(len(src), len(tgt)) < max_tokens
    ]
    src_rows, tgt_rows = [src for src, _ in kept], [tgt for _, tgt in kept]
    return TokenisedCorpus(
        np.fromiter(chain.from_iterable(src_rows), np.int32),
        np.cumsum([0, *map(len, src_rows)]),
        np.fromiter(chain.from_iterable(tgt_rows), np.int32),
        np.cumsum([0, *map(len, tgt_rows)]),
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded token ids: sources on the left, targets on the right (HAT)."""

    src_BS: Tensor
    prev_output_BT: Tensor
    target_BT: Tensor
    num_target_tokens: int

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`."""
        return Batch(
            self.src_BS.to(device),
            self.prev_output_BT.to(device),
            self.target_BT.to(device),
            self.num_target_tokens,
        )


def collate(corpus: TokenisedCorpus, indices: Sequence[int]) -> Batch:
    """Pad the pairs `indices` into one batch."""
    rows = np.asarray(indices, np.int64)
    src, _ = _padded(corpus.src_ids, corpus.src_offsets, rows, on_the_left=True)
    tgt, num_target_tokens = _padded(corpus.tgt_ids, corpus.tgt_offsets, rows, on_the_left=False)
    prev = np.full_like(tgt, EOS_ID)
    prev[:, 1:] = np.where(tgt[:, 1:] == PAD_ID, PAD_ID, tgt[:, :-1])
    return Batch(torch.from_numpy(src), torch.from_numpy(prev), torch.from_numpy(tgt), num_target_tokens)


def _padded(
    ids: Ids, offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], *, on_the_left: bool
) -> tuple[npt.NDArray[np.int64], int]:
    """Sequences `rows` (B, longest), padded, and the number of their tokens."""
    starts, ends = offsets[rows, None], offsets[rows + 1, None]
    columns = np.arange(int((ends - starts).max()))
    where = columns + (ends - len(columns) if on_the_left else starts)
    is_token = (where >= starts) & (where < ends)
    padded = np.where(is_token, ids[np.minimum(where, len(ids) - 1)], PAD_ID)
    return padded.astype(np.int64), int((ends - starts).sum())


def batches_by_tokens(
    corpus: TokenisedCorpus, order: npt.NDArray[np.int64], max_tokens: int
) -> list[npt.NDArray[np.int64]]:
    """Cut `order` (sorted by length) into batches whose padded longer side holds at most `max_tokens`."""
    longest = np.maximum(corpus.src_lengths, corpus.tgt_lengths)
    batches: list[npt.NDArray[np.int64]] = []
    begin, widest = 0, 0
    for position, index in enumerate(order):
        widest_with = max(widest, int(longest[index]))
        if position > begin and widest_with * (position - begin + 1) > max_tokens:
            batches.append(order[begin:position])
            begin, widest_with = position, int(longest[index])
        widest = widest_with
    if begin < len(order):
        batches.append(order[begin:])
    return batches


def padded_batches(corpus: TokenisedCorpus, order: npt.NDArray[np.int64], max_tokens: int) -> list[Batch]:
    """The pairs `order` (sorted by length), padded, in batches of at most `max_tokens` on the longer side."""
    return [collate(corpus, batch.tolist()) for batch in batches_by_tokens(corpus, order, max_tokens)]


def epoch_batches(
    corpus: TokenisedCorpus, weights: npt.NDArray[np.float64], *, max_tokens: int, seed: int, epoch: int
) -> list[npt.NDArray[np.int64]]:
    """The batches of one epoch in training order.

    Args:
        corpus: All pairs.
        weights: Expected number of times each pair occurs in an epoch.
        max_tokens: Bound on the padded tokens of the longer side of a batch.
        seed: Of the training run.
        epoch: Counted from 0.

    Returns:
        Index arrays; a function of the arguments alone.
    """
    rng = np.random.default_rng([seed, epoch])
    whole = np.floor(weights).astype(np.int64)
    counts = whole + (rng.random(len(weights)) < weights - whole)
    indices = rng.permutation(np.repeat(np.arange(len(weights)), counts))
    by_length = np.lexsort((corpus.src_lengths[indices], corpus.tgt_lengths[indices]))
    batches = batches_by_tokens(corpus, indices[by_length], max_tokens)
    return [batches[i] for i in rng.permutation(len(batches))]
