"""Tests of dynhat_runtime.prepared_texts: what is planned once is what would have been planned again."""

from __future__ import annotations

from dynhat_runtime.decoding.translator import LengthLimits, Translator
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.prepared_texts import PreparedTexts
from dynhat_runtime.text.sentences import join_sentences
from tests.tiny_bundle import SENTENCES


def test_nothing_is_lost_and_only_language_is_planned(tiny_bundle: Bundle) -> None:
    """The segments are the texts again; each sentence with language in it is planned as the translator does."""
    translator = Translator(Translator.of_bundle(tiny_bundle).tokenizer, LengthLimits(max_src_tokens=24))
    long = ", ".join(["the old book"] * 30)
    texts = [f"  {SENTENCES[0]} {SENTENCES[1]}\n", "42 %", "", long]
    prepared = PreparedTexts.of(texts, translator, "en")
    again = [join_sentences(text, [segment.sentence for segment in text]) for text in prepared.texts]
    assert again == texts
    assert list(prepared.planned) == [(0, 0), (0, 1), (3, 0)]
    planned = [translator.plan(sentence) for sentence in (SENTENCES[0], SENTENCES[1], long)]
    assert list(prepared.planned.values()) == planned
    assert prepared.part_lengths == tuple(length for each in planned for length in each.part_lengths)
    assert max(prepared.part_lengths) <= 24
    assert prepared.planned[3, 0].num_src_tokens > 24
