"""Tests of dynhat_runtime.governor.sentence_shape."""

from __future__ import annotations

import math

import pytest

from dynhat_runtime.governor.sentence_shape import BatchGrowth, TargetLength


def test_a_single_sentence_takes_its_own_time_for_certain() -> None:
    """A batch of one is the base, with nothing uncertain about it, and teaches nothing of growth."""
    growth = BatchGrowth()
    assert (growth.factor(1), growth.variance(1)) == (1.0, 0.0)
    assert growth.updated(1, 0.4, 0.01) == growth


def test_what_further_sentences_take_is_learned() -> None:
    """From batches that take 1 + 0.8 (n - 1), a growth of about 0.8 is learned."""
    growth = BatchGrowth()
    for num_sentences in (2, 4, 8, 16) * 30:
        surprise = math.log((1 + 0.8 * (num_sentences - 1)) / growth.factor(num_sentences))
        growth = growth.updated(num_sentences, surprise, 0.01)
    assert growth.per_sentence == pytest.approx(0.8, rel=0.1)
    assert growth.log_variance < BatchGrowth().log_variance


def test_growth_learns_less_where_the_pace_itself_is_in_doubt() -> None:
    """The less certain the slow-down, the less of a surprise is put down to the batch."""
    calm, doubtful = (BatchGrowth().updated(4, 0.3, variance).per_sentence for variance in (0.01, 1.0))
    assert BatchGrowth().per_sentence < doubtful < calm


def test_target_length_is_learned_from_pairs() -> None:
    """Targets of one and a half times the source are expected after a hundred of them."""
    length = TargetLength()
    assert length.expected(30) == 32
    for num_tokens in (10, 20, 30, 40) * 25:
        length = length.updated(num_tokens, round(1.5 * num_tokens) + 2)
    assert length.expected(40) == pytest.approx(62, abs=2)


def test_a_degenerate_target_teaches_little() -> None:
    """One target that ran on to the limit moves the expectation by no more than a seventh."""
    length = TargetLength()
    for _ in range(100):
        length = length.updated(30, 32)
    assert length.updated(30, 1000).expected(30) <= 37
