"""Tokenised pairs: what is left out, and how they are cut into batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dynhat_runtime.decoding.tokenizer import EOS_ID, PAD_ID
from dynhat_runtime.offline.data import TokenisedCorpus, collate, epoch_batches, tokenise
from tests.toy_text import toy_pairs, toy_tokenizer


def _corpus(lengths: list[tuple[int, int]]) -> TokenisedCorpus:
    """Pairs of these lengths, eos included; sequence i is 10 + i over and over."""

    def side(place: int) -> tuple[np.ndarray, np.ndarray]:
        rows = [np.array([10 + i] * (pair[place] - 1) + [EOS_ID], np.int32) for i, pair in enumerate(lengths)]
        return np.concatenate(rows), np.cumsum([0, *map(len, rows)])

    return TokenisedCorpus(*side(0), *side(1))


def _random_corpus(count: int, seed: int = 0) -> TokenisedCorpus:
    rng = np.random.default_rng(seed)
    return _corpus([(int(s), int(t)) for s, t in rng.integers(2, 30, (count, 2))])


def _epoch(
    corpus: TokenisedCorpus, weight: float = 1.0, seed: int = 1, epoch: int = 0, max_tokens: int = 100
) -> list[list[int]]:
    weights = np.full(len(corpus), weight)
    batches = epoch_batches(corpus, weights, max_tokens=max_tokens, seed=seed, epoch=epoch)
    return [batch.tolist() for batch in batches]


# --- tokens ---


def test_tokens_end_in_eos() -> None:
    """Every side ends in eos and decodes to what went in."""
    pairs = toy_pairs(30)
    corpus = tokenise(pairs, toy_tokenizer(), max_tokens=100)
    assert len(corpus) == 30
    for i, (source, target) in enumerate(pairs):
        assert corpus.source(i)[-1] == corpus.target(i)[-1] == EOS_ID
        assert toy_tokenizer().decode(corpus.source(i).tolist()) == source
        assert toy_tokenizer().decode(corpus.target(i).tolist()) == target


def test_token_limit_counts_eos() -> None:
    """A pair whose longer side has exactly max_tokens tokens with eos stays; one token more, and it goes."""
    pair = toy_pairs(1)[0]
    length = max(len(toy_tokenizer().encode(side)) for side in pair) + 1
    assert len(tokenise([pair], toy_tokenizer(), max_tokens=length)) == 1
    assert len(tokenise([pair], toy_tokenizer(), max_tokens=length - 1)) == 0


def test_joined_corpora_follow_each_other() -> None:
    """Joining keeps every pair, in order."""
    first, second = _random_corpus(4, seed=1), _random_corpus(3, seed=2)
    joined = TokenisedCorpus.join([first, second])
    assert len(joined) == 7
    for i in range(7):
        part, place = (first, i) if i < 4 else (second, i - 4)
        assert joined.source(i).tolist() == part.source(place).tolist()
        assert joined.target(i).tolist() == part.target(place).tolist()


# --- batches ---


def test_batches_are_a_function_of_seed_and_epoch() -> None:
    """The same seed and epoch give the same batches in the same order; another of either does not."""
    corpus = _random_corpus(300)
    assert _epoch(corpus) == _epoch(corpus)
    assert _epoch(corpus) != _epoch(corpus, seed=2)
    assert _epoch(corpus) != _epoch(corpus, epoch=1)


@pytest.mark.parametrize("max_tokens", [29, 64, 500])
def test_token_bound_is_kept(max_tokens: int) -> None:
    """No batch holds more padded tokens than allowed on its longer side."""
    corpus = _random_corpus(400)
    for indices in _epoch(corpus, max_tokens=max_tokens):
        batch = collate(corpus, indices)
        assert max(batch.src_BS.numel(), batch.target_BT.numel()) <= max_tokens


def test_batches_are_filled() -> None:
    """Batches are of similar length and nearly full: the next pair in order would not have fitted."""
    corpus = _random_corpus(2000)
    batches = _epoch(corpus, max_tokens=600)
    padded = sum(collate(corpus, indices).target_BT.numel() for indices in batches)
    assert padded < 1.1 * corpus.tgt_lengths.sum()
    assert len(batches) < 1.25 * np.maximum(corpus.src_lengths, corpus.tgt_lengths).sum() / 600


def test_pair_longer_than_the_bound_stands_alone() -> None:
    """A pair that exceeds the bound by itself is a batch of its own, not lost."""
    corpus = _corpus([(3, 3), (50, 4), (3, 3)])
    assert sorted(map(sorted, _epoch(corpus, max_tokens=20))) == [[0, 2], [1]]


def test_weight_one_takes_every_pair_once() -> None:
    """At weight 1 an epoch holds every pair exactly once."""
    corpus = _random_corpus(300)
    assert sorted(i for batch in _epoch(corpus) for i in batch) == list(range(300))


def test_weights_are_expected_occurrences() -> None:
    """Whole parts of a weight always occur; the fraction occurs in its share of pairs, others each epoch."""
    corpus = _random_corpus(1000)
    weights = np.repeat([0.3, 2.7], 500)
    epochs = []
    for epoch in (0, 1):
        batches = epoch_batches(corpus, weights, max_tokens=100, seed=1, epoch=epoch)
        epochs.append(np.bincount(np.concatenate(batches), minlength=1000))
    for counts in epochs:
        assert set(counts[:500]) == {0, 1}
        assert set(counts[500:]) == {2, 3}
        assert counts[:500].mean() == pytest.approx(0.3, abs=0.07)
        assert counts[500:].mean() == pytest.approx(2.7, abs=0.07)
    assert (epochs[0] != epochs[1]).any()


def test_collate_pads_and_shifts() -> None:
    """Sources are padded on the left, targets on the right; the decoder reads eos, then the target less its end."""
    batch = collate(_corpus([(2, 4), (4, 2)]), [0, 1])
    assert batch.src_BS.tolist() == [[PAD_ID, PAD_ID, 10, EOS_ID], [11, 11, 11, EOS_ID]]
    assert batch.target_BT.tolist() == [[10, 10, 10, EOS_ID], [11, EOS_ID, PAD_ID, PAD_ID]]
    assert batch.prev_output_BT.tolist() == [[EOS_ID, 10, 10, 10], [EOS_ID, 11, PAD_ID, PAD_ID]]
    assert batch.num_target_tokens == 6


def test_batch_moves_whole() -> None:
    """Moving a batch keeps its tokens and their number."""
    batch = collate(_corpus([(2, 4), (4, 2)]), [0, 1])
    moved = batch.to(torch.device("meta"))
    assert {t.device.type for t in (moved.src_BS, moved.prev_output_BT, moved.target_BT)} == {"meta"}
    assert moved.src_BS.shape == batch.src_BS.shape
    assert moved.num_target_tokens == 6
