"""Sentences with something protected in them: whatever the model answers, it comes back exactly."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynhat_runtime.text.protected_spans import protected_spans
from dynhat_runtime.text.sentence_plan import plan_sentence
from tests.property_settings import PROPERTY

SPANS = (
    "%s",
    "%d",
    "{name}",
    "{}",
    "https://example.org/a",
    "joe@example.org",
    "🙂",
    "%(x)s",
    "&nbsp;",
    "@joe",
)
WORDS = ("Hello", "the file", "of", ",", ".", " ", "(", ")", "-", "Tom", "59", "Grüße", "!", '"', "a b c")
SENTENCES = st.lists(st.sampled_from(SPANS + WORDS), min_size=1, max_size=9).map("".join).map(str.strip)


def spans_in(text: str) -> Counter[str]:
    """The protected stretches of a text, counted."""
    return Counter(text[span.begin : span.end] for span in protected_spans(text))


@PROPERTY
@given(SENTENCES)
def test_nothing_is_lost_between_the_pieces(sentence: str) -> None:
    """What is kept and what is asked add up to the sentence: answering with the question gives it back."""
    plan = plan_sentence(sentence)
    assert plan.assemble(plan.sources).text == sentence


@PROPERTY
@given(SENTENCES, st.data())
def test_protected_spans_appear_exactly(sentence: str, data: st.DataObject) -> None:
    """Whatever the answers are, each protected span stands in the translation as often as in the sentence."""
    plan = plan_sentence(sentence)
    answer = st.sampled_from(
        ("", "Wort", "Tom und Tom", "59 Boston", "ein Satz.", "Boston 59 Tom 36", "Toms")
    )
    said = plan.assemble([data.draw(answer) for _ in plan.sources]).text
    expected = spans_in(sentence)
    # Words can join what stands beside a span; so count what was protected, not what a second look would find.
    for span, number in expected.items():
        others = [other for other in expected if other != span and span in other]
        if not others:
            assert said.count(span) == number


def test_the_whole_is_taken_where_its_stand_ins_come_back() -> None:
    """A placeholder may move with the sentence's order."""
    plan = plan_sentence("Yesterday {name} bought a house.")
    assert plan.sources[0] == "Yesterday Tom bought a house."
    answers = ["Gestern kaufte Tom ein Haus.", "Gestern", "kaufte ein Haus."]
    assert plan.assemble(answers).text == "Gestern kaufte {name} ein Haus."
    assert plan.assemble(answers).used == (0,)


@pytest.mark.parametrize(
    "whole",
    ["Gestern kaufte er ein Haus.", "Tom und Tom", "Toms Haus", "Haus-Tom", ""],
    ids=["lost", "doubled", "inflected", "joined", "empty"],
)
def test_the_pieces_are_taken_where_one_does_not(whole: str) -> None:
    """A stand-in lost, doubled or changed is noticed, and the placeholder stands where it stood."""
    assembled = plan_sentence("Yesterday {name} bought a house.").assemble(
        [whole, "Gestern", "kaufte ein Haus."]
    )
    assert assembled.text == "Gestern {name} kaufte ein Haus."
    assert assembled.used == (1, 2)


def test_placeholders_that_position_tells_apart_keep_their_order() -> None:
    """%s and %s may not change places; {a} and {b} may."""
    answers = ["Zu Boston gehört Tom.", "gehört zu"]
    assert plan_sentence("{a} belongs to {b}.").assemble(answers).text == "Zu {b} gehört {a}."
    assert plan_sentence("%s belongs to %s.").assemble(answers).text == "%s gehört zu %s."
    assert plan_sentence("%1$s belongs to %2$s.").assemble(answers).text == "Zu %2$s gehört %1$s."
    answers = ["59 von Tom", "hat"]
    assert plan_sentence("%s has %d").assemble(answers).text == "%s hat %d"


def test_a_number_stands_in_for_a_number() -> None:
    """Where a number will be printed, the model is shown one; never one the sentence has."""
    assert plan_sentence("You have %d new messages.").sources[0] == "You have 59 new messages."
    assert plan_sentence("You have %d of 59 messages.").sources[0] == "You have 36 of 59 messages."
    assert plan_sentence("Tom knows {name}.").sources[0] == "Tom knows Boston."


def test_a_placeholder_in_a_word_has_no_stand_in() -> None:
    """What touches a letter is kept where it is."""
    plan = plan_sentence("The {size}px image")
    assert plan.sources == ("The", "px image")
    assert plan.assemble(["Das", "px-Bild"]).text == "Das {size}px-Bild"


def test_a_piece_gets_no_full_stop() -> None:
    """Models like to end what they say; a piece of a sentence does not end."""
    plan = plan_sentence("Hello {x}y, welcome")
    assert plan.assemble(["Hallo.", "y, willkommen."]).text == "Hallo {x}y, willkommen"


def test_emoji_stay_where_they_are() -> None:
    """Each clause between emoji is translated by itself."""
    plan = plan_sentence("Good morning 🙂 see you 🎉!")
    assert plan.sources == ("Good morning", "see you")
    assert plan.assemble(["Guten Morgen", "bis dann"]).text == "Guten Morgen 🙂 bis dann 🎉!"


def test_a_plain_sentence_is_asked_as_it_is() -> None:
    """Without anything protected the answer is the translation, untouched."""
    plan = plan_sentence("Good morning")
    assert plan.sources == ("Good morning",)
    assert plan.assemble(["Guten Morgen."]).text == "Guten Morgen."


def test_without_language_nothing_is_asked() -> None:
    """Placeholders and signs alone need no model."""
    plan = plan_sentence("({a}): %d%%")
    assert plan.sources == ()
    assert plan.assemble([]).text == "({a}): %d%%"
