"""IBM model 1: it finds what stands for what."""

from __future__ import annotations

import numpy as np
import pytest

from dynhat_runtime.decoding.tokenizer import EOS_ID
from dynhat_runtime.offline import alignment
from dynhat_runtime.offline.alignment import EMPTY_WORD, TranslationTable, learn_translations
from dynhat_runtime.offline.data import TokenisedCorpus


def corpus(pairs: list[tuple[list[int], list[int]]]) -> TokenisedCorpus:
    """Pairs of ids, to which eos is added."""

    def side(place: int) -> tuple[np.ndarray, np.ndarray]:
        rows = [np.array([*pair[place], EOS_ID], np.int32) for pair in pairs]
        return np.concatenate(rows), np.cumsum([0, *map(len, rows)])

    return TokenisedCorpus(*side(0), *side(1))


def probability(table: TranslationTable, src: int, tgt: int) -> float:
    """Of a target token given a source token; 0 where they never met."""
    return float(table.probability_U[(table.src_U == src) & (table.tgt_U == tgt)].sum())


def made_up_corpus(num_pairs: int = 400) -> TokenisedCorpus:
    """Token i becomes 100 + i, in any order; every second sentence has 99, which stands for nothing."""
    rng = np.random.default_rng(0)
    pairs = []
    for number in range(num_pairs):
        source = rng.choice(np.arange(10, 40), rng.integers(1, 7), replace=False)
        pairs.append((source.tolist(), [*(rng.permutation(source) + 100).tolist(), *[99] * (number % 2)]))
    return corpus(pairs)


def test_it_finds_the_translations() -> None:
    """Of 30 tokens in sentences without order each one's likeliest is its own, by far."""
    table = learn_translations(made_up_corpus(), 200)
    for src in range(10, 40):
        assert probability(table, src, 100 + src) > 0.6


def test_what_stands_for_nothing_comes_from_the_empty_word() -> None:
    """A token in half of all sentences is put down to the empty word more than to any real one."""
    table = learn_translations(made_up_corpus(), 200)
    of_empty = probability(table, EMPTY_WORD, 99)
    assert of_empty > 2 * max(probability(table, src, 99) for src in range(10, 40))


def test_probabilities_of_a_source_token_sum_to_one() -> None:
    """Whatever the number of rounds."""
    table = learn_translations(made_up_corpus(50), 200, num_iterations=3)
    assert np.bincount(table.src_U, table.probability_U)[np.unique(table.src_U)] == pytest.approx(1.0)
    assert np.all(np.diff(table.src_U) >= 0)


def test_first_round_by_hand() -> None:
    """Two sentences, equal shares at first: a target token is shared among its sentence's tokens and the empty word."""
    table = learn_translations(corpus([([10], [20]), ([10, 11], [20, 21])]), 50, num_iterations=1)
    # 10 gets 1/2 of 20 in the first sentence and 1/3 in the second, and 1/3 of 21.
    assert probability(table, 10, 20) == pytest.approx((1 / 2 + 1 / 3) / (1 / 2 + 2 / 3))
    assert probability(table, 11, 20) == pytest.approx(1 / 2)
    assert probability(table, 12, 20) == 0


def test_pieces_of_work_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little is computed at once, the table is the same."""
    whole = learn_translations(made_up_corpus(), 200)
    monkeypatch.setattr(alignment, "CELLS_AT_ONCE", 50)
    pieces = learn_translations(made_up_corpus(), 200)
    assert np.array_equal(whole.tgt_U, pieces.tgt_U)
    assert pieces.probability_U == pytest.approx(whole.probability_U)


def test_progress_ends_at_one() -> None:
    """It rises."""
    heard: list[float] = []
    learn_translations(made_up_corpus(20), 200, progress=heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
