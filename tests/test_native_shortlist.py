"""With a shortlist the native decoder says what PyTorch says with everything else ruled out, and scores what it scores
without."""

from __future__ import annotations

import random

import pytest
import torch

from dynhat_runtime.decoding.search import BeamOptions
from dynhat_runtime.model.shortlisted import ShortlistedSubTransformer
from dynhat_runtime.operating_point import Precision
from tests.golden_hypotheses import EOS, search
from tests.listed_tokens import random_shortlist, shortlist_of
from tests.odd_networks import (
    LARGEST_DIFFERENCE,
    SPACE,
    assert_same_hypotheses,
    made_up_sentences,
    native_super,
    random_super,
)

SRC_VOCAB, TGT_VOCAB = 61, 83
SHORTLIST = random_shortlist(SRC_VOCAB, TGT_VOCAB, 4)


@pytest.mark.parametrize("norm_first", [False, True])
@torch.inference_mode()
def test_every_step(norm_first: bool) -> None:
    """Scores are PyTorch's, minus infinity where a token is not listed, through reorders and sentences that leave."""
    model, config = random_super(norm_first=norm_first), SPACE.sample(random.Random(3))
    src = made_up_sentences([5, 11, 1])
    subs = (
        ShortlistedSubTransformer(model.extract(config), SHORTLIST),
        native_super(model).extract(config, shortlist=SHORTLIST),
    )
    decoders = [sub.start(sub.encode(src), 3) for sub in subs]
    generator = torch.Generator().manual_seed(0)
    sentences = [0, 1, 2]
    for position in range(12):
        tokens = torch.randint(3, TGT_VOCAB, (3 * len(sentences),), generator=generator)
        theirs, mine = (decoder.step(tokens) for decoder in decoders)
        torch.testing.assert_close(mine, theirs, atol=LARGEST_DIFFERENCE, rtol=0)
        for row, scores in enumerate(mine):
            listed = SHORTLIST.listed(src[sentences[row // 3]][src[sentences[row // 3]] != 1].numpy())
            assert scores.isfinite().nonzero()[:, 0].tolist() == listed.tolist()
        kept = [0, 2] if position == 5 else list(range(len(sentences)))
        rows = torch.cat([3 * s + torch.randint(0, 3, (3,), generator=generator) for s in kept])
        sentences = [sentences[s] for s in kept]
        for decoder in decoders:
            decoder.keep_sentences(torch.tensor(kept), rows)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@torch.inference_mode()
def test_scores_are_those_of_the_whole_vocabulary(precision: Precision) -> None:
    """What is listed scores to the last bit what it scores without a shortlist: its rows are copied, not made anew."""
    native, src = native_super(random_super(), precision), made_up_sentences([9, 4])
    for seed in range(6):
        config = SPACE.sample(random.Random(seed))
        listed, whole = (
            sub.start(sub.encode(src), 3).step(torch.tensor([5, 6, 7, 8, 9, 10]))
            for sub in (native.extract(config, shortlist=SHORTLIST), native.extract(config))
        )
        assert listed.isfinite().sum() < whole.numel() / 2
        assert torch.equal(listed[listed.isfinite()], whole[listed.isfinite()])


@pytest.mark.parametrize("beam_size", [1, 2, 4, 7])
@pytest.mark.parametrize("norm_first", [False, True])
def test_same_search(norm_first: bool, beam_size: int) -> None:
    """Batches of sentences of different lengths, caps and lists: the same hypotheses, scores and token scores."""
    model = random_super(norm_first=norm_first)
    model.weights["decoder.output"][EOS] *= 1.5
    native = native_super(model)
    for seed in range(4):
        config = SPACE.sample(random.Random(seed))
        src, caps = made_up_sentences([9, 3, 14, 2, 6], seed), [12, 30, 5, 0, 25]
        options = BeamOptions(beam_size, length_penalty=0.6, min_length=seed % 3, no_repeat_size=seed % 4)
        expected = search(ShortlistedSubTransformer(model.extract(config), SHORTLIST), src, options, caps)
        assert_same_hypotheses(
            search(native.extract(config, shortlist=SHORTLIST), src, options, caps), expected
        )


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_neighbours_change_nothing(precision: Precision) -> None:
    """Every sentence of a batch has its own list: it is translated as if it were alone."""
    sub = native_super(random_super(), precision).extract(SPACE.largest(), shortlist=SHORTLIST)
    src, options = made_up_sentences([9, 3, 14, 2]), BeamOptions(4)
    together = search(sub, src, options, [15] * 4)
    for row, hypotheses in zip(src, together, strict=True):
        (alone,) = search(sub, row[row != 1][None], options, [15])
        assert [h.tokens for h in alone] == [h.tokens for h in hypotheses]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_list_of_everything(precision: Precision) -> None:
    """With the whole vocabulary listed nothing changes."""
    everything = shortlist_of({}, src_vocab_size=SRC_VOCAB, tgt_vocab_size=TGT_VOCAB, common=range(TGT_VOCAB))
    native, src = native_super(random_super(), precision), made_up_sentences([9, 3])
    with_list, without = (
        search(native.extract(SPACE.largest(), shortlist=shortlist), src, BeamOptions(4), [15, 15])
        for shortlist in (everything, None)
    )
    assert with_list == without


@pytest.mark.parametrize("common", [[EOS], [EOS, 40], [EOS, 40, 41]])
def test_lists_shorter_than_the_beam(common: list[int]) -> None:
    """With fewer tokens than candidates, or nothing but the end, the search still says what it should."""
    model = random_super()
    short = shortlist_of({}, src_vocab_size=SRC_VOCAB, tgt_vocab_size=TGT_VOCAB, common=common)
    src, config, options = made_up_sentences([4, 6]), SPACE.largest(), BeamOptions(4)
    expected = search(ShortlistedSubTransformer(model.extract(config), short), src, options, [4, 3])
    found = search(native_super(model).extract(config, shortlist=short), src, options, [4, 3])
    assert_same_hypotheses(found, expected)
    assert all(token in common for hypotheses in found for h in hypotheses for token in h.tokens)


def test_threads_change_nothing() -> None:
    """Threads that share the products of short lists change no bit of the result."""
    native, src = native_super(random_super(), "int8"), made_up_sentences([9, 3, 14])
    one, three = (
        search(native.extract(SPACE.largest(), number, SHORTLIST), src, BeamOptions(4), [15] * 3)
        for number in (1, 3)
    )
    assert one == three


def test_a_token_that_is_not_there_is_refused() -> None:
    """A shortlist of another vocabulary reads no memory that is not ours."""
    beyond = shortlist_of(
        {}, src_vocab_size=SRC_VOCAB, tgt_vocab_size=TGT_VOCAB + 9, common=[EOS, TGT_VOCAB + 5]
    )
    sub = native_super(random_super()).extract(SPACE.smallest(), shortlist=beyond)
    with pytest.raises(IndexError, match="id 88 is out of range"):
        sub.encode(made_up_sentences([3]))
