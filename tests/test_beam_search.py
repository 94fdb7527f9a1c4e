"""Beam search: the reference's hypotheses, and what must hold for any model."""

from __future__ import annotations

import pytest
import torch

from dynhat_runtime.decoding.beam_search import beam_search
from dynhat_runtime.decoding.search import BeamOptions, SearchCancelledError
from dynhat_runtime.model.sub_transformer import SubTransformer
from tests.golden import hat_configs, read_json, space0_super_transformer, tiny_super_transformer
from tests.golden_hypotheses import EOS, PAD, assert_finds_golden, golden_cases, search


def _leftpad(model: str) -> torch.Tensor:
    return torch.tensor(read_json(model, "batches.json")["leftpad"]["src_tokens"])


_MODELS: dict[str, object] = {}


def _sub(model: str, config: str) -> SubTransformer:
    if model not in _MODELS:
        _MODELS[model] = (
            space0_super_transformer() if model == "space0_recipe" else tiny_super_transformer(model)
        )
    return _MODELS[model].extract(hat_configs(model)[config])


@pytest.mark.parametrize(("model", "config", "setting"), golden_cases())
def test_golden_hypotheses(model: str, config: str, setting: str) -> None:
    """Tokens and scores equal the reference's wherever the reference itself is stable."""
    assert_finds_golden(_sub(model, config), model, config, setting)


def _greedy_without_cache(sub: SubTransformer, src: torch.Tensor, cap: int) -> list[int]:
    """An independent greedy search: full logits of the whole prefix at every step."""
    prefix = [EOS]
    while True:
        logits = sub.logits(src, torch.tensor([prefix]))[0, -1]
        logits[PAD] = -torch.inf
        if len(prefix) == 1:
            logits[EOS] = -torch.inf
        token = EOS if len(prefix) > cap else int(logits.argmax())
        prefix.append(token)
        if token == EOS:
            return prefix[1:]


@pytest.mark.parametrize("config", list(hat_configs("tiny_shared")))
def test_beam_one_is_greedy_and_cached_is_uncached(config: str) -> None:
    """Beam 1 with the KV cache says what greedy search without any cache says."""
    sub = _sub("tiny_shared", config)
    for row in _leftpad("tiny_shared"):
        src = row[row != PAD][None]
        (hypotheses,) = search(sub, src, BeamOptions(1, 1.0), [30])
        assert list(hypotheses[0].tokens) == _greedy_without_cache(sub, src, 30)


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("config", ["smallest", "largest_2", "enc48_dec32"])
def test_batched_is_one_by_one(config: str, beam: int) -> None:
    """A sentence's result depends on nothing else in the batch, each with a cap of its own."""
    sub = _sub("tiny_shared", config)
    src = _leftpad("tiny_shared")
    caps = [12, 25, 3, 40]
    together = search(sub, src, BeamOptions(beam), caps)
    for row, cap, expected in zip(src, caps, together, strict=True):
        (alone,) = search(sub, row[row != PAD][None], BeamOptions(beam), [cap])
        assert [h.tokens for h in alone] == [h.tokens for h in expected]
        assert [h.score for h in alone] == pytest.approx([h.score for h in expected], abs=1e-4)


@pytest.mark.parametrize("beam", [1, 4, 5])
def test_nothing_crosses_the_cap(beam: int) -> None:
    """No hypothesis has more than cap + 1 tokens (eos included), pad never occurs, eos only at the end."""
    sub = _sub("tiny_shared", "largest_2")
    caps = [1, 2, 7, 64]
    for cap, hypotheses in zip(
        caps, search(sub, _leftpad("tiny_shared"), BeamOptions(beam), caps), strict=True
    ):
        assert 1 <= len(hypotheses) <= beam
        for hypothesis in hypotheses:
            assert len(hypothesis.tokens) <= cap + 1
            assert hypothesis.tokens[-1] == EOS
            assert not {EOS, PAD} & set(hypothesis.tokens[:-1])


def test_the_least_length_holds_beside_a_sentence_at_its_cap() -> None:
    """A sentence whose end is forced at once forces no other's, nor lets it end too early."""
    sub = _sub("tiny_shared", "largest_2")
    src, options = _leftpad("tiny_shared"), BeamOptions(4, min_length=6)
    together = search(sub, src, options, [0, 25, 3, 40])
    assert [len(h.tokens) for h in together[0]] == [1]
    assert all(len(h.tokens) == 4 for h in together[2])
    for hypotheses in (together[1], together[3]):
        assert all(len(h.tokens) > 6 for h in hypotheses)


class _Scripted:
    """A step function that says a fixed distribution for ever and counts its steps."""

    def __init__(self, probabilities: list[float], num_rows: int) -> None:
        self.logits = torch.tensor(probabilities).log().repeat(num_rows, 1)
        self.num_steps = 0

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """The same scores whatever came before."""
        self.num_steps += 1
        return self.logits[: tokens.shape[0]].clone()

    def reorder(self, rows: torch.Tensor) -> None:
        """Rows are equal."""

    def keep_sentences(self, sentences: torch.Tensor, rows: torch.Tensor) -> None:
        """Rows are equal."""


class _Remembering:
    """A step function whose scores depend on all that a row has said; every row's prefix travels with it."""

    def __init__(self, vocab_size: int, num_sentences: int, beam: int) -> None:
        self.vocab_size = vocab_size
        self.prefixes = [[i // beam] for i in range(num_sentences * beam)]

    def scores(self, prefix: list[int]) -> torch.Tensor:
        """Fixed random scores of what follows `prefix`; eos is likely, so that several rows end at once."""
        generator = torch.Generator().manual_seed(hash(tuple(prefix)) % 2**31)
        scores = torch.randn(self.vocab_size, generator=generator) * 2
        scores[EOS] = scores.max() - 0.5 * float(torch.rand(1, generator=generator))
        return scores

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Scores after each row's prefix and its new token."""
        for prefix, token in zip(self.prefixes, tokens.tolist(), strict=True):
            prefix.append(token)
        return torch.stack([self.scores(prefix) for prefix in self.prefixes])

    def reorder(self, rows: torch.Tensor) -> None:
        """Go on with these prefixes."""
        self.prefixes = [list(self.prefixes[row]) for row in rows.tolist()]

    def keep_sentences(self, sentences: torch.Tensor, rows: torch.Tensor) -> None:
        """Go on with these prefixes."""
        self.reorder(rows)


def _repeats(said: list[int], size: int) -> bool:
    """Whether the last `size` tokens stand somewhere before."""
    runs = [tuple(said[i : i + size]) for i in range(len(said) - size + 1)]
    return size > 0 and len(runs) > 1 and runs[-1] in runs[:-1]


def _plain_search(
    model: _Remembering, sentence: int, options: BeamOptions, cap: int
) -> list[tuple[int, ...]]:
    """An independent beam search of one sentence that sorts the whole vocabulary at every step."""
    beams: list[tuple[float, list[int]]] = [(0.0, [sentence, EOS])]
    finished: list[tuple[float, tuple[int, ...]]] = []
    for position in range(cap + 1):
        grown = []
        for total, prefix in beams:
            scores = model.scores(prefix).log_softmax(0).tolist()
            allowed = [EOS] if position == cap else range(model.vocab_size)
            for token in allowed:
                if _repeats([*prefix[2:], token], options.no_repeat_size):
                    continue
                if token != PAD and not (token == EOS and position < options.min_length):
                    grown.append((total + scores[token], [*prefix, token]))
        grown.sort(key=lambda one: -one[0])
        for total, prefix in grown[: options.beam_size]:
            if prefix[-1] == EOS and len(finished) < options.beam_size:
                said = tuple(prefix[2:])
                finished.append((total / len(said) ** options.length_penalty, said))
        beams = [one for one in grown if one[1][-1] != EOS][: options.beam_size]
        if len(finished) == options.beam_size:
            break
    return [said for _, said in sorted(finished, key=lambda one: -one[0])]


@pytest.mark.parametrize("vocab_size", [12, 200, 263, 2560])
def test_the_best_of_the_whole_vocabulary_are_found(vocab_size: int) -> None:
    """Whatever the vocabulary's size, the search finds what sorting all of it at every step finds."""
    options = BeamOptions(beam_size=4)
    model = _Remembering(vocab_size, 8, 4)
    expected = [_plain_search(model, sentence, options, 6) for sentence in range(8)]
    found = beam_search(model, [6] * 8, options)
    assert [[h.tokens for h in hypotheses] for hypotheses in found] == expected


@pytest.mark.parametrize("size", [1, 2, 3])
def test_nothing_comes_twice_that_must_not(size: int) -> None:
    """With a bound on repeats the best outputs among those that keep it are found; without it they do not keep it."""
    model, cap = _Remembering(6, 12, 4), 12
    options = BeamOptions(beam_size=4, no_repeat_size=size, min_length=cap)
    expected = [_plain_search(model, sentence, options, cap) for sentence in range(12)]
    found = beam_search(model, [cap] * 12, options)
    assert [[h.tokens for h in hypotheses] for hypotheses in found] == expected
    free = beam_search(_Remembering(6, 12, 4), [cap] * 12, BeamOptions(beam_size=4, min_length=cap))
    said = [h.tokens for hypotheses in free for h in hypotheses]
    assert any(_repeats(list(tokens[:end]), size) for tokens in said for end in range(len(tokens)))


def test_score_is_the_length_normalised_sum() -> None:
    """A hypothesis's score is its summed log-probability over length ** penalty, eos counted."""
    (hypotheses,) = beam_search(_Scripted([0.1, 0.1, 0.2, 0.6], 1), [3], BeamOptions(1, 0.6))
    total = 3 * torch.tensor(0.6).log() + torch.tensor(0.2).log()
    assert hypotheses[0].tokens == (3, 3, 3, EOS)
    assert hypotheses[0].score == pytest.approx(float(total / 4**0.6), abs=1e-5)


def test_search_stops_with_the_sentence() -> None:
    """A sentence costs no step after its last hypothesis has finished."""
    script = _Scripted([0.0, 0.0, 0.9, 0.1], 1)
    beam_search(script, [100], BeamOptions(1))
    assert script.num_steps == 2


def test_cancelled_between_steps() -> None:
    """A cancelled search ends before its next step."""
    script = _Scripted([0.1, 0.1, 0.1, 0.7], 1)
    with pytest.raises(SearchCancelledError):
        beam_search(script, [100], BeamOptions(1), is_cancelled=lambda: script.num_steps >= 3)
    assert script.num_steps == 3
