"""From sentences to sentences on one SubTransformer."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dynhat_runtime.decoding.search import BeamOptions
from dynhat_runtime.decoding.tokenizer import SentencePieceTokenizer
from dynhat_runtime.decoding.translator import LengthLimits, Translator
from dynhat_runtime.model.checkpoint import SENTENCEPIECE_MODEL, Bundle
from dynhat_runtime.model.sub_transformer import SubTransformer
from dynhat_runtime.text.protected_spans import protected_spans
from tests.tiny_bundle import SENTENCES

OPTIONS = BeamOptions(beam_size=2)


@pytest.fixture(scope="module")
def sub(tiny_bundle: Bundle) -> SubTransformer:
    """The largest point."""
    return tiny_bundle.super_transformer().extract(tiny_bundle.table().best.config)


@pytest.fixture(scope="module")
def translator(tiny_bundle: Bundle) -> Translator:
    """With room for 24 tokens a sentence."""
    return Translator(
        SentencePieceTokenizer(tiny_bundle.text_file(SENTENCEPIECE_MODEL)), LengthLimits(max_src_tokens=24)
    )


def test_batch_is_one_by_one(translator: Translator, sub: SubTransformer) -> None:
    """A sentence's translation does not depend on its company."""
    sentences = [SENTENCES[0], "Yes.", SENTENCES[-1], "ein rotes Haus"]
    together = translator.translate(sub, sentences, OPTIONS)
    assert [t.text for t in together] == [translator.translate(sub, [s], OPTIONS)[0].text for s in sentences]


def test_over_long_sentences_are_cut(translator: Translator, sub: SubTransformer) -> None:
    """A sentence beyond the limit is translated in parts, each within it."""
    sentence = ", ".join(["the old book"] * 30)
    (translation,) = translator.translate(sub, [sentence], OPTIONS)
    lengths = translator.plan(sentence).part_lengths
    assert len(lengths) > 1
    assert max(lengths) <= 24
    assert lengths == tuple(part.num_src_tokens for part in translation.parts)
    assert translation.num_src_tokens == sum(lengths)


def test_one_endless_word(translator: Translator, sub: SubTransformer) -> None:
    """A word without any place to cut is cut all the same."""
    (translation,) = translator.translate(sub, ["x" * 500], OPTIONS)
    assert translation.num_src_tokens > 500


def test_output_is_bounded(translator: Translator, sub: SubTransformer) -> None:
    """No translation has more tokens than the limits allow for its source."""
    whole = [sentence for sentence in SENTENCES if len(translator.encode(sentence)) <= 24][:20]
    assert len(whole) > 3
    for sentence, output in zip(whole, translator.translate(sub, whole, OPTIONS), strict=True):
        allowed = translator.limits.max_tgt_tokens(len(translator.encode(sentence)))
        assert output.num_tgt_tokens <= allowed + 1


def test_nothing_to_translate(translator: Translator, sub: SubTransformer) -> None:
    """No sentences give no translations."""
    assert translator.translate(sub, [], OPTIONS) == []


@pytest.mark.parametrize(
    "sentence",
    [
        "The man sees {name} and buys %d red houses.",
        "See https://example.org/a?b=c. or write to joe@example.org",
        "A woman 🙂 wants %s, %s and {{ more }}!",
        "x{a}y " + "%s the old book " * 5,
    ],
)
def test_what_is_protected_comes_through(translator: Translator, sub: SubTransformer, sentence: str) -> None:
    """Whatever a model makes of the words, what is protected stands in its translation exactly as often."""
    (translation,) = translator.translate(sub, [sentence], OPTIONS)
    for span in protected_spans(sentence):
        text = sentence[span.begin : span.end]
        assert translation.text.count(text) == sentence.count(text)
    assert translator.plan(sentence).part_lengths == tuple(part.num_src_tokens for part in translation.parts)


def test_a_discarded_part_has_no_say(translator: Translator, sub: SubTransformer) -> None:
    """A fault in what was decoded only in case is no fault of the sentence."""
    (translation,) = translator.translate(sub, ["The man sees {name} and buys a red house."], OPTIONS)
    assert {part.is_used for part in translation.parts} == {True, False}
    faulty = [part if part.is_used else replace(part, fault="repetition") for part in translation.parts]
    used = [replace(part, fault="empty" if part.is_used else None) for part in translation.parts]
    clean = [replace(part, fault=None) for part in translation.parts]
    assert replace(translation, parts=tuple(clean)).fault is None
    assert replace(translation, parts=tuple(used)).fault == "empty"
    assert replace(translation, parts=tuple(faulty)).fault == translation.fault


def test_alternatives(translator: Translator, sub: SubTransformer) -> None:
    """There are as many others as asked for, at most one less than beams; no two are the same."""
    options = BeamOptions(beam_size=4)
    for asked, found in ((0, 0), (2, 2), (9, 3)):
        (translation,) = translator.translate(sub, [SENTENCES[0]], options, num_alternatives=asked)
        assert len({translation.text, *translation.alternatives}) == len(translation.alternatives) + 1
        assert len(translation.alternatives) <= found
        assert bool(translation.alternatives) == bool(asked)


def test_scores(translator: Translator, sub: SubTransformer) -> None:
    """Every translation has a score, the better ones first; an over-long sentence's counts the tokens of all parts."""
    options = BeamOptions(beam_size=3)
    (translation,) = translator.translate(sub, [SENTENCES[0]], options, num_alternatives=2)
    assert len(translation.scores) == 1 + len(translation.alternatives)
    by_search = [score.log_probability / score.num_tokens**0.6 for score in translation.scores]
    assert by_search == sorted(by_search, reverse=True)
    assert by_search[0] < 0
    (long,) = translator.translate(sub, [" ".join(SENTENCES[:6])], options)
    assert len(long.parts) > 1
    assert long.scores[0].num_tokens == long.num_tgt_tokens


def test_alternatives_keep_what_is_protected(translator: Translator, sub: SubTransformer) -> None:
    """An alternative keeps a placeholder as the translation does."""
    options = BeamOptions(beam_size=4)
    (translation,) = translator.translate(sub, ["The man sees {name}."], options, num_alternatives=3)
    assert translation.alternatives
    assert all(other.count("{name}") == 1 for other in translation.alternatives)
