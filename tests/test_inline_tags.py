"""Sentences with tags in their midst: what the model is asked, and where the tags come to stand in what it said."""

from __future__ import annotations

import pytest

from dynhat_runtime.text.html import parse_markup

SAID = {
    "The big house is old.": "Das große Haus ist alt.",
    "The": "Die",
    "big": "Groß",
    "house is old.": "Haus ist alt.",
    "The big house": "Das große Haus",
    "is old.": "Ist alt.",
    "Click here to see the new map.": "Klicken Sie hier, um die neue Karte zu sehen.",
    "Click": "Klick",
    "here": "Hier.",
    "to see the": "Um zu sehen",
    "new map": "Neue Karte",
    "new": "Neu",
    "map": "Karte",
    "The house is a house.": "Das Haus ist ein Haus.",
    "house": "Haus",
    "is a house.": "Ist ein Haus.",
}


def translated(source: str) -> str:
    """The markup, its texts as SAID has them."""
    markup = parse_markup(source)
    return markup.with_texts(
        [text.replace(text.strip(), SAID.get(text.strip(), text.strip())) for text in markup.texts]
    )


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("The <b>big</b> house is old.", "Das <b>große</b> Haus ist alt."),
        ("<p><i>The big house</i> is old.</p>", "<p><i>Das große Haus</i> ist alt.</p>"),
        (
            "Click <a href='x'>here</a> to see the <i><u>new</u> map</i>.",
            "Klicken Sie <a href='x'>hier</a>, um die <i><u>neue</u> Karte</i> zu sehen.",
        ),
        ("<b><i>The <u>big</u> house is old.</i></b>", "<b><i>Das <u>große</u> Haus ist alt.</i></b>"),
        (
            "<b>The big house is old.</b> The <b>big</b> house is old.",
            "<b>Das große Haus ist alt.</b> Das <b>große</b> Haus ist alt.",
        ),
        ("The<b> big</b> house is old.", "Das <b>große</b> Haus ist alt."),
    ],
)
def test_a_sentence_is_translated_as_a_whole(source: str, expected: str) -> None:
    """Tags come to stand around the same words, in whatever form and order they are."""
    assert translated(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("The <b>house</b> is a house.", "Die <b>Haus</b> Ist ein Haus."),
        ("The <i>big</b> house is old.", "Die <i>Groß</b> Haus ist alt."),
        ("The <i></i>big house is old.", "Die <i></i>big house is old."),
        ("The <code>big</code> house is old.", "Die <code>big</code> Haus ist alt."),
        ("The <x>big</x> house is old.", "Die <x>Groß</x> Haus ist alt."),
        ("The <b>big<br>house</b> is old.", "Die <b>Groß<br>Haus</b> Ist alt."),
    ],
    ids=["found twice", "tags that cross", "nothing in it", "left alone", "not inline", "a line break"],
)
def test_where_a_tag_finds_no_place(source: str, expected: str) -> None:
    """What is between tags is translated by itself where they belong to no words, or it is not known to which."""
    assert translated(source) == expected


def test_a_sentence_of_tags() -> None:
    """Beyond sixteen elements in one sentence there are pieces alone, however many: it stays linear."""
    many = " ".join(f"<b>w{number}</b>" for number in range(17))
    assert parse_markup(f"{many}.").texts == tuple(f"w{number}" for number in range(17))
    assert len(parse_markup(f"{many[: many.rindex(' ')]}.").texts) == 17


def test_words_that_are_not_said_keep_their_tags() -> None:
    """Where the translation of the whole lacks what a tag holds, no tag is lost."""
    markup = parse_markup("The <b>big</b> house is old.")
    answers = ["Es ist alt." if text == "The big house is old." else text for text in markup.texts]
    assert markup.with_texts(answers) == "The <b>big</b> house is old."


def test_nothing_is_asked_twice() -> None:
    """The model is asked for the whole, and for each piece once; a text without inline tags is asked for as it is."""
    assert parse_markup("The <b>big</b> <i>big</i> house.").texts == (
        "The",
        "big",
        "house.",
        "The big big house.",
    )
    assert parse_markup("<p>The big house. It is old.</p>").texts == ("The big house. It is old.",)
