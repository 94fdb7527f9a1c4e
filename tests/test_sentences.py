"""Sentence splitting loses nothing, and joining puts every white space back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynhat_runtime.text.protected_spans import protected_spans
from dynhat_runtime.text.sentences import MAX_SPANS, Cuts, join_sentences, split_in_two, split_sentences
from tests.property_settings import PROPERTY

TEXTS = [
    "",
    " ",
    "\n\n",
    "One sentence.",
    "Hello Mr. Smith.  How are you?\n\nI am fine.\tIt costs 3.50 dollars, e.g. here.\r\n  Indented!  ",
    "No end",
    "\u00a0non-breaking\u00a0space. Next\u2028line separator",
    "Bullet:\n- first\n- second\n\n\n",
    "🙂🙂 ... ?!",
    "a.b.c... d\x0b\x0ce",
]


@pytest.mark.parametrize("cuts", ["lines", "sentences", "none"])
@pytest.mark.parametrize("text", TEXTS)
def test_nothing_is_lost(text: str, cuts: Cuts) -> None:
    """Joining the untranslated sentences gives the text back, character for character."""
    segments = split_sentences(text, "en", cuts)
    assert join_sentences(segments, [segment.sentence for segment in segments]) == text


def test_sentences_are_found() -> None:
    """Sentences end at their punctuation and at line breaks, not at abbreviations or decimal points."""
    segments = split_sentences(TEXTS[4], "en")
    assert [segment.sentence for segment in segments if segment.sentence] == [
        "Hello Mr. Smith.",
        "How are you?",
        "I am fine.",
        "It costs 3.50 dollars, e.g. here.",
        "Indented!",
    ]


@pytest.mark.parametrize(
    ("cuts", "sentences"),
    [
        ("lines", ["A man rides", "a bicycle.", "It", "is red."]),
        ("sentences", ["A man rides\r\na bicycle.", "It\n\nis red."]),
        ("none", ["A man rides\r\na bicycle. It\n\nis red."]),
    ],
)
def test_where_it_is_cut(cuts: Cuts, sentences: list[str]) -> None:
    """At line breaks, or between sentences alone, or nowhere."""
    segments = split_sentences(" A man rides\r\na bicycle. It\n\nis red. ", "en", cuts)
    assert [segment.sentence for segment in segments if segment.sentence] == sentences


def test_many_placeholders_are_cut_apart_in_any_case() -> None:
    """That one sentence has only so many of them holds however the text is cut."""
    assert len(split_sentences("%s of " * 100, "en", "none")) > 100 / MAX_SPANS


def test_white_space_belongs_to_no_sentence() -> None:
    """A sentence neither begins nor ends with white space."""
    for segment in split_sentences(TEXTS[4], "en"):
        assert segment.sentence == segment.sentence.strip()


@pytest.mark.parametrize(
    ("text", "translatable"), [("Yes.", True), ("42", False), ("🙂", False), ("...", False), ("é", True)]
)
def test_only_letters_are_translated(text: str, translatable: bool) -> None:
    """Numbers, emoji and punctuation are no sentence to translate."""
    assert [segment.is_translatable for segment in split_sentences(text, "en")] == [translatable]


@pytest.mark.parametrize("sentence", ["one two three four", "aaaa, bbbb cccc dddd", "abcdefgh", "ab", "a b"])
def test_cut_loses_nothing(sentence: str) -> None:
    """The two parts and what is between them give the sentence back, and neither part is empty."""
    first, between, second = split_in_two(sentence)
    assert first + between + second == sentence
    assert first
    assert second


def test_cut_prefers_punctuation() -> None:
    """A comma near the middle is a better place than the middle itself."""
    assert split_in_two("one two three, four five six seven")[0] == "one two three,"


PARTS = st.sampled_from(
    ("Hi. ", "Mr. S", "\n", "\t", "  ", "3.5", "…", "🙂", "{{ a. B }}", "https://x.org/a.b?c. ", "%s", "?!", "\u3000")
)  # fmt: skip


@PROPERTY
@given(st.one_of(st.lists(PARTS, max_size=25).map("".join), st.text(max_size=80)))
def test_every_character_outside_the_sentences_comes_back(text: str) -> None:
    """Any text at all is cut and joined without a loss, and no sentence has white space around it."""
    segments = split_sentences(text, "en")
    assert join_sentences(segments, [segment.sentence for segment in segments]) == text
    assert all(segment.sentence == segment.sentence.strip() for segment in segments)


def test_no_cut_in_what_is_protected() -> None:
    """An address or placeholder with a full stop in it stays in one sentence."""
    segments = split_sentences("See https://x.org/What?Really!Yes now. Ask @joe.Miller then. Bye.", "en")
    sentences = [segment.sentence for segment in segments]
    assert sentences == ["See https://x.org/What?Really!Yes now.", "Ask @joe.Miller then.", "Bye."]


def test_many_placeholders_are_cut_apart() -> None:
    """A sentence has a bounded number of protected spans, so that it is translated in a bounded number of pieces."""
    segments = split_sentences("%s of " * 100, "en")
    assert max(len(protected_spans(segment.sentence)) for segment in segments) == MAX_SPANS


@pytest.mark.parametrize(
    "text", ["{name}", "https://example.org", "joe@example.org %s", "🙂 42", "{a} – {b}"]
)
def test_what_is_protected_is_no_language(text: str) -> None:
    """A text of placeholders and addresses alone is echoed."""
    assert [segment.is_translatable for segment in split_sentences(text, "en")] == [False]
