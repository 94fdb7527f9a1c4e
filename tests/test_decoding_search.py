"""Tests of dynhat_runtime.decoding.search: sentences of token ids go the way their network has, to the same outputs."""

from __future__ import annotations

import pytest

from dynhat_runtime.decoding.search import BeamOptions, SearchCancelledError, search
from dynhat_runtime.model.decodable import Decodable, SearchesSentences
from tests.golden_hypotheses import EOS, PAD
from tests.odd_networks import SPACE, assert_same_hypotheses, made_up_sentences, native_super, random_super

OPTIONS = BeamOptions(4, length_penalty=1.2, no_repeat_size=3)
CAPS = [12, 30, 5, 25]


@pytest.fixture
def both() -> tuple[Decodable, Decodable]:
    """One architecture as PyTorch has it and as the native decoder has it."""
    model = random_super()
    model.weights["decoder.output"][EOS] *= 1.5
    return model.extract(SPACE.largest()), native_super(model).extract(SPACE.largest())


def test_both_ways_find_the_same(both: tuple[Decodable, Decodable]) -> None:
    """Step by step or all in one go: the same hypotheses and scores for sentences of different lengths."""
    by_steps, in_one_go = both
    assert not isinstance(by_steps, SearchesSentences)
    assert isinstance(in_one_go, SearchesSentences)
    sources = [row[row != PAD].tolist() for row in made_up_sentences([9, 3, 14, 2])]
    expected = search(by_steps, sources, CAPS, OPTIONS)
    assert_same_hypotheses(search(in_one_go, sources, CAPS, OPTIONS), expected)
    assert [len(found) for found in expected] == [OPTIONS.beam_size] * 4
    assert all(found == sorted(found, key=lambda each: -each.score) for found in expected)


@pytest.mark.parametrize("number", [0, 1])
def test_nothing_to_search(both: tuple[Decodable, Decodable], number: int) -> None:
    """No sentence is no work."""
    assert search(both[number], [], [], OPTIONS) == []


@pytest.mark.parametrize("number", [0, 1])
def test_cancelled(both: tuple[Decodable, Decodable], number: int) -> None:
    """A search that is no longer wanted ends with an error of its own."""
    with pytest.raises(SearchCancelledError):
        search(both[number], [[5, 6, EOS], [7, EOS]], [40, 40], OPTIONS, lambda: True)
