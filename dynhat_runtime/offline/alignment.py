"""Which target pieces stand for a source piece: IBM model 1, learned from pairs of sentences. Translates nothing.

Source: Brown et al., "The Mathematics of Statistical Machine Translation" (1993), model 1 with an empty word. Pairs of
the same two lengths are computed together, so that nothing is padded and a target piece's shares are one row.

Shapes: N pairs of one shape, S source pieces with the empty word, T target pieces, U pairs of pieces that occur.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynhat_runtime.decoding.tokenizer import BOS_ID
from dynhat_runtime.offline.data import TokenisedCorpus

EMPTY_WORD = BOS_ID
"""Source piece that stands before every sentence: what no other piece says comes from it."""
NUM_ITERATIONS = 5
CELLS_AT_ONCE = 4_000_000
"""Bounds memory: pieces of both sides that meet in as many sentences."""


@dataclass(frozen=True, slots=True)
class TranslationTable:
    """Probabilities of target pieces given a source piece, those pairs only that occur; ordered by source piece.

    Attributes:
        src_U: Source pieces, ascending.
        tgt_U: Target pieces.
        probability_U: Of the target piece, given the source piece.
    """

    src_U: NDArray[np.int64]
    tgt_U: NDArray[np.int64]
    probability_U: NDArray[np.float64]


def learn_translations(
    corpus: TokenisedCorpus,
    tgt_vocab_size: int,
    *,
    num_iterations: int = NUM_ITERATIONS,
    progress: Callable[[float], None] = lambda _fraction: None,
) -> TranslationTable:
    """Learn the table by expectation maximisation, from equal shares on.

    Args:
        corpus: Pairs, both sides ending in eos, which is left out: it translates itself.
        tgt_vocab_size: Target ids are below it.
        num_iterations: Rounds; more change little.
        progress: Hears what fraction is done.
    """
    keys_U, blocks = _blocks(corpus, tgt_vocab_size)
    src_U, tgt_U = np.divmod(keys_U, tgt_vocab_size)
    probability_U = np.ones(len(keys_U))
    for iteration in range(num_iterations):
        progress((1 + iteration) / (1 + num_iterations))
        counts_U = _expected_counts(blocks, probability_U)
        totals = np.bincount(src_U, counts_U)
        probability_U = counts_U / totals[src_U]
    progress(1.0)
    return TranslationTable(src_U, tgt_U, probability_U)


def _blocks(
    corpus: TokenisedCorpus, tgt_vocab_size: int
) -> tuple[NDArray[np.int64], list[NDArray[np.int32]]]:
    """The pairs of pieces that occur, ascending, and of every block of sentences where its pairs are among them."""
    known: list[NDArray[np.int64]] = [np.empty(0, np.int64)]
    places: list[NDArray[np.int32]] = []
    for keys_NTS in _keys(corpus, tgt_vocab_size):
        own_keys, places_of_all = np.unique(keys_NTS.ravel(), return_inverse=True)
        known.append(own_keys)
        places.append(places_of_all.astype(np.int32).reshape(keys_NTS.shape))
    keys_U = np.unique(np.concatenate(known))
    return keys_U, [
        np.searchsorted(keys_U, own_keys).astype(np.int32)[places_NTS]
        for own_keys, places_NTS in zip(known[1:], places, strict=True)
    ]


def _keys(corpus: TokenisedCorpus, tgt_vocab_size: int) -> Iterator[NDArray[np.int64]]:
    """Of every shape, the pairs of pieces that meet in its sentences, as one number each: (N, T, S)."""
    shapes = np.stack([corpus.src_lengths - 1, corpus.tgt_lengths - 1], axis=1)
    order = np.lexsort((shapes[:, 1], shapes[:, 0]))
    changes = np.flatnonzero(np.any(np.diff(shapes[order], axis=0), axis=1)) + 1
    for alike in np.split(order, changes):
        if len(alike) == 0 or shapes[alike[0]].min() == 0:
            continue
        num_src, num_tgt = shapes[alike[0]]
        at_once = max(1, CELLS_AT_ONCE // int((num_src + 1) * num_tgt))
        for begin in range(0, len(alike), at_once):
            some = alike[begin : begin + at_once]
            src_NS = corpus.src_ids[corpus.src_offsets[some][:, None] + np.arange(num_src)].astype(np.int64)
            tgt_NT = corpus.tgt_ids[corpus.tgt_offsets[some][:, None] + np.arange(num_tgt)].astype(np.int64)
            src_NS = np.concatenate([np.full((len(some), 1), EMPTY_WORD), src_NS], axis=1)
            yield src_NS[:, None, :] * tgt_vocab_size + tgt_NT[:, :, None]


def _expected_counts(
    blocks: list[NDArray[np.int32]], probability_U: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How often each pair of pieces stands for each other, every target piece shared among its sentence's sources."""
    counts_U = np.zeros(len(probability_U))
    cells: list[NDArray[np.int32]] = []
    shares: list[NDArray[np.float64]] = []
    num_waiting = 0
    for number, cells_NTS in enumerate(blocks, start=1):
        share_NTS = probability_U[cells_NTS]
        share_NTS /= share_NTS.sum(axis=2, keepdims=True)
        cells.append(cells_NTS.ravel())
        shares.append(share_NTS.ravel())
        num_waiting += share_NTS.size
        if num_waiting >= CELLS_AT_ONCE or number == len(blocks):
            counts_U += np.bincount(
                np.concatenate(cells), np.concatenate(shares), minlength=len(probability_U)
            )
            cells, shares, num_waiting = [], [], 0
    return counts_U
