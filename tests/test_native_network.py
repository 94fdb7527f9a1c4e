"""The native decoder says what PyTorch's says: scores of every step, hypotheses, any architecture, any batch."""

from __future__ import annotations

import functools
import random
import threading

import pytest
import torch

from dynhat_runtime.decoding.beam_search import beam_search
from dynhat_runtime.decoding.search import BeamOptions, Hypothesis, SearchCancelledError
from dynhat_runtime.model.decodable import Decodable
from dynhat_runtime.model.native_network import NativeSuperTransformer
from dynhat_runtime.model.spec import SuperTransformerSpec
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.operating_point import Precision
from tests.golden import hat_configs, read_json, space0_super_transformer, tiny_super_transformer
from tests.golden_hypotheses import EOS, PAD, assert_finds_golden, golden_cases, search
from tests.odd_networks import (
    LARGEST_DIFFERENCE,
    SPACE,
    assert_same_hypotheses,
    made_up_sentences,
    native_super,
    random_super,
)


@functools.cache
def _golden(name: str) -> tuple[SuperTransformer, NativeSuperTransformer]:
    model = space0_super_transformer() if name == "space0_recipe" else tiny_super_transformer(name)
    return model, native_super(model)


@pytest.mark.parametrize(("model", "config", "setting"), golden_cases())
def test_golden_hypotheses(model: str, config: str, setting: str) -> None:
    """Tokens and scores equal the reference's wherever the reference itself is stable."""
    assert_finds_golden(_golden(model)[1].extract(hat_configs(model)[config]), model, config, setting)


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("seed", range(4))
@torch.inference_mode()
def test_every_step(norm_first: bool, seed: int) -> None:
    """Random architectures of an awkward space: the scores of every step are PyTorch's, through reorders and sentences
    that leave, past the room the cache begins with."""
    model = random_super(norm_first=norm_first)
    config = SPACE.sample(random.Random(seed))
    src = made_up_sentences([5, 11, 1], seed)
    decoders = [
        sub.start(sub.encode(src), 3) for sub in (model.extract(config), native_super(model).extract(config))
    ]
    generator = torch.Generator().manual_seed(seed)
    sentences = [0, 1, 2]
    for position in range(46):
        tokens = torch.randint(3, 83, (3 * len(sentences),), generator=generator)
        theirs, mine = (decoder.step(tokens) for decoder in decoders)
        torch.testing.assert_close(mine, theirs, atol=LARGEST_DIFFERENCE, rtol=0)
        kept = [0, 2] if position == 20 else list(range(len(sentences)))
        rows = torch.cat([3 * s + torch.randint(0, 3, (3,), generator=generator) for s in kept])
        sentences = [sentences[s] for s in kept]
        for decoder in decoders:
            if position == 20:
                decoder.keep_sentences(torch.tensor(kept), rows)
            else:
                decoder.reorder(rows)


@pytest.mark.parametrize("beam_size", [1, 2, 4, 7])
@pytest.mark.parametrize("norm_first", [False, True])
def test_same_search(norm_first: bool, beam_size: int) -> None:
    """Batches of sentences of different lengths and caps: the same hypotheses, scores and token scores."""
    model = random_super(norm_first=norm_first)
    model.weights["decoder.output"][EOS] *= 1.5
    native = native_super(model)
    for seed in range(6):
        config = SPACE.sample(random.Random(seed))
        src, caps = made_up_sentences([9, 3, 14, 2, 6], seed), [12, 30, 5, 0, 25]
        options = BeamOptions(beam_size, length_penalty=0.6, min_length=seed % 3, no_repeat_size=seed % 4)
        expected = search(model.extract(config), src, options, caps)
        assert_same_hypotheses(search(native.extract(config), src, options, caps), expected)


def test_vocabulary_smaller_than_the_candidates() -> None:
    """With fewer tokens than candidates the search still says what it should."""
    model = random_super(vocab_size=10)
    config, options = SPACE.largest(), BeamOptions(7)
    src = made_up_sentences([4, 6])
    expected = search(model.extract(config), src, options, [4, 3])
    assert_same_hypotheses(search(native_super(model).extract(config), src, options, [4, 3]), expected)


def test_batched_is_one_by_one() -> None:
    """A sentence's result depends on nothing else in the batch."""
    sub = native_super(random_super()).extract(SPACE.largest())
    src, caps = made_up_sentences([9, 3, 14, 2]), [12, 25, 3, 30]
    together = search(sub, src, BeamOptions(4), caps)
    alone = [
        search(sub, row[row != PAD][None], BeamOptions(4), [cap])[0]
        for row, cap in zip(src, caps, strict=True)
    ]
    assert_same_hypotheses(together, alone)


def test_points_are_no_copies() -> None:
    """However many points are cut out, the weights are there once; a point holds none."""
    native = native_super(random_super())
    before = native.size_bytes
    points = [native.extract(SPACE.sample(random.Random(seed))) for seed in range(20)]
    assert native.size_bytes == before
    outputs = {point._point.network.output.panels for point in points}
    assert len(outputs) == 1


def test_weights_outlive_the_super_transformer() -> None:
    """A point that is kept keeps what it needs, though everything it was made of is gone."""
    src, config = made_up_sentences([5]), SPACE.largest()
    expected = search(random_super().extract(config), src, BeamOptions(2), [8])
    encoded_by = native_super(random_super()).extract(config)
    decoder = encoded_by.start(encoded_by.encode(src), 2)
    del encoded_by
    assert_same_hypotheses(beam_search(decoder, [8], BeamOptions(2)), expected)


def test_searches_at_the_same_time() -> None:
    """Threads that search one point at once do not disturb each other."""
    sub = native_super(random_super()).extract(SPACE.largest())
    batches = [made_up_sentences([3 + i, 9 - i], seed=i) for i in range(6)]
    expected = [search(sub, src, BeamOptions(4), [20, 20]) for src in batches]
    found: list[list[list[Hypothesis]]] = [[] for _ in batches]

    def search_often(i: int) -> None:
        for _ in range(10):
            found[i] = search(sub, batches[i], BeamOptions(4), [20, 20])

    threads = [threading.Thread(target=search_often, args=(i,)) for i in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_cancelled() -> None:
    """A search nobody wants does not begin; one that is no longer wanted ends before it is done."""
    sub = native_super(tiny_super_transformer("tiny_shared")).extract(hat_configs("tiny_shared")["largest_2"])
    src = made_up_sentences([9] * 64) % 40 + 3
    with pytest.raises(SearchCancelledError):
        _search_cancelled(sub, src, [True])
    with pytest.raises(SearchCancelledError):
        _search_cancelled(sub, src, [False, True])


@torch.inference_mode()
def _search_cancelled(sub: Decodable, src: torch.Tensor, answers: list[bool]) -> None:
    """A long search that is asked about several times, until the answers run out."""
    said = iter(answers)
    options = BeamOptions(4, min_length=400)
    beam_search(sub.start(sub.encode(src), 4), [400] * len(src), options, is_cancelled=lambda: next(said))


@torch.inference_mode()
def test_what_is_not_there_is_not_read() -> None:
    """Tokens outside the vocabulary and sentences beyond the positions are refused, as PyTorch refuses them."""
    sub = native_super(random_super()).extract(SPACE.smallest())
    with pytest.raises(IndexError, match="61 is out of range: use 0 to 60"):
        sub.encode(torch.tensor([[5, 61, EOS]]))
    with pytest.raises(IndexError, match="-1 is out of range"):
        sub.encode(torch.tensor([[5, -1, EOS]]))
    with pytest.raises(IndexError, match="49 tokens are too long: there are positions for 48"):
        sub.encode(made_up_sentences([49]))
    encoded = sub.encode(made_up_sentences([4]))
    with pytest.raises(IndexError, match="83 is out of range"):
        sub.start(encoded, 1).step(torch.tensor([83]))
    with pytest.raises(IndexError, match="60 tokens are too long"):
        sub.start(encoded, 1).search(
            [59],
            beam_size=1,
            min_length=1,
            no_repeat_size=0,
            eos_id=EOS,
            pad_id=PAD,
            is_cancelled=lambda: False,
        )
    decoder = sub.start(encoded, 1)
    for _ in range(48):
        decoder.step(torch.tensor([5]))
    with pytest.raises(IndexError, match="49 tokens are too long"):
        decoder.step(torch.tensor([5]))


@torch.inference_mode()
def test_damaged_weights_show() -> None:
    """What is no number does not vanish on the way: a damaged matrix makes scores that are no numbers."""
    for name in ("encoder.0.feed_forward.expand.weight", "decoder.0.self_attention.qkv.weight"):
        model = random_super()
        model.weights[name][:8] = torch.nan
        sub = native_super(model).extract(SPACE.largest())
        assert sub.start(sub.encode(made_up_sentences([4])), 1).step(torch.tensor([EOS])).isnan().any()


@torch.inference_mode()
def test_int8_is_close() -> None:
    """int8 weights move no score by more than a few hundredths of the scores' spread, for every golden architecture."""
    for name in ("tiny_shared", "tiny_unshared", "tiny_asym"):
        model = _golden(name)[0]
        native = native_super(model, "int8")
        src = torch.tensor(read_json(name, "batches.json")["leftpad"]["src_tokens"])
        for config in hat_configs(name).values():
            tokens = torch.full((src.shape[0],), EOS)
            theirs, mine = (
                sub.start(sub.encode(src), 1).step(tokens)
                for sub in (model.extract(config), native.extract(config))
            )
            error = (mine - theirs).square().mean().sqrt() / theirs.std()
            assert 0 < error < 0.05


@torch.inference_mode()
def test_int8_never_overflows() -> None:
    """Sums of the largest products int8 weights and their inputs can make are right, at a width where it is closest."""
    space = SPACE.model_copy(
        update={"decoder_ffn_dim": (4096,), "decoder_num_layers": (1,), "cross_attention_span": (1,)}
    )
    spec = SuperTransformerSpec(
        design_space=space, src_vocab_size=61, tgt_vocab_size=83, tied_embeddings="none"
    )
    model = SuperTransformer.random(spec, 1)
    for name in ("decoder.0.feed_forward.expand", "decoder.0.feed_forward.contract"):
        model.weights[f"{name}.weight"].fill_(0.01)
    model.weights["decoder.0.feed_forward.expand.weight"].zero_()
    model.weights["decoder.0.feed_forward.expand.bias"].fill_(3.0)  # every hidden unit at its largest
    model.weights["decoder.0.feed_forward.contract.weight"][::2] *= -1  # all of one sign within an output
    src, tokens, config = made_up_sentences([4]), torch.tensor([EOS]), space.largest()
    theirs, mine = (
        sub.start(sub.encode(src), 1).step(tokens)
        for sub in (model.extract(config), native_super(model, "int8").extract(config))
    )
    torch.testing.assert_close(mine, theirs, atol=0.05, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("num_threads", [2, 3])
def test_threads_change_nothing(num_threads: int, precision: Precision) -> None:
    """Threads that share a product, on more or fewer CPUs than there are of them, change no bit of the result."""
    native = native_super(_golden("space0_recipe")[0], precision)
    config = hat_configs("space0_recipe")["smallest"]
    src = torch.tensor(read_json("space0_recipe", "batches.json")["leftpad"]["src_tokens"])
    one, several = (
        search(native.extract(config, number), src, BeamOptions(4), [12] * len(src))
        for number in (1, num_threads)
    )
    assert several == one
