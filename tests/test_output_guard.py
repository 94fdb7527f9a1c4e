"""The output guard: each rule fires on what it is for, and on nothing that merely looks like it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dynhat_runtime.decoding.output_guard import Fault, judge

SOURCE = "The old man walks slowly through the quiet town every morning."
TRANSLATION = "Der alte Mann geht jeden Morgen langsam durch die stille Stadt."


def ids(text: str) -> list[int]:
    """A made-up tokenizer: a token for each word, and eos."""
    return [*(hash(word) for word in text.split()), 2]


def verdict(source: str, translation: str, limit: int = 100) -> Fault | None:
    """The guard's, with a token for each word."""
    return judge(source, ids(source), translation, ids(translation), limit)


def verdict_on_tokens(src_tokens: Sequence[int], tgt_tokens: Sequence[int], limit: int = 100) -> Fault | None:
    """The guard's, on tokens alone."""
    return judge("Ein Satz.", src_tokens, "A sentence.", tgt_tokens, limit)


def test_a_translation_is_let_pass() -> None:
    """An ordinary translation has no fault."""
    assert verdict(SOURCE, TRANSLATION) is None


@pytest.mark.parametrize("translation", ["", " ", "...", "?!", "\x10\x10", "„“"])
def test_empty(translation: str) -> None:
    """Letters that come out as nothing but signs are "empty"."""
    assert verdict(SOURCE, translation) == "empty"


@pytest.mark.parametrize("translation", ["42.", "10"])
def test_a_number_is_an_answer(translation: str) -> None:
    """A word may come out as a number."""
    assert verdict("Forty-two.", translation) is None


@pytest.mark.parametrize(
    "translation",
    [
        "Ein Kind oder ein Kind oder ein Kind oder ein Kind oder erwachsen",
        "der der der der der der der der",
        "Es war in Europa in Europa in Europa in Europa",
        "Er sagte dass sie es dass sie es dass sie es",
    ],
)
def test_repetition(translation: str) -> None:
    """A run of words that comes again and again is "repetition", be it one word or several."""
    assert verdict(SOURCE, translation) == "repetition"


@pytest.mark.parametrize(
    ("source", "translation"),
    [
        ("No, no, no, no, no, no, no, no!", "Nein, nein, nein, nein, nein, nein, nein, nein!"),
        ("ha ha ha ha ha ha ha ha ha", "ha ha ha ha ha ha ha ha ha"),
        ("Ha ha ha!", "Ha ha ha!"),
        ("Very very good.", "Sehr sehr sehr gut."),
        ("to be or not to be", "sein oder nicht sein oder doch sein"),
    ],
)
def test_what_the_source_repeats_may_be_repeated(source: str, translation: str) -> None:
    """A loop no longer than the source's own, or a short one, is none."""
    assert verdict(source, translation) is None


def test_a_stumbling_loop() -> None:
    """A long output that says little over and over, in no fixed order, is "repetition"."""
    stumbling = [
        11,
        12,
        11,
        13,
        12,
        11,
        12,
        14,
        13,
        11,
        11,
        12,
        13,
        12,
        14,
        11,
        12,
        12,
        13,
        11,
        14,
        12,
        11,
        13,
        2,
    ]
    assert verdict_on_tokens(range(20), stumbling) == "repetition"
    assert verdict_on_tokens(stumbling, stumbling) is None


def test_length_cap() -> None:
    """An output whose end was forced is "too_long"; one that ends by itself at the cap is not."""
    assert verdict_on_tokens(range(5), range(19), limit=18) == "too_long"
    assert verdict_on_tokens(range(5), range(18), limit=18) is None


def test_too_short() -> None:
    """A long source that comes out as a word or two is "too_short"; a short source may."""
    assert verdict_on_tokens(range(30), range(3)) == "too_short"
    assert verdict_on_tokens(range(15), range(2)) is None
    assert verdict_on_tokens(range(30), range(6)) is None


@pytest.mark.parametrize(
    "translation",
    [SOURCE, f"{SOURCE} {SOURCE}", "„The old man walks slowly through the town every morning.“"],
)
def test_copied(translation: str) -> None:
    """A sentence that comes out as it went in is "copied"."""
    assert verdict(SOURCE, translation) == "copied"


@pytest.mark.parametrize(
    "text",
    [
        "Berlin",
        "hotel",
        "Angela Merkel, Barack Obama, Emmanuel Macron, Justin Trudeau",
        "https://example.org/some/long/path?with=many&words=in",
        "4 8 15 16 23 42",
        "E-Mail: jane.doe@example.org, +49 30 1234567",
        "taxi, hotel, bar",
        "USB 3.0 HDMI 2.1 DDR5 NVMe",
    ],
)
def test_what_stays_the_same_is_not_copied(text: str) -> None:
    """Names, numbers, addresses and a few words that are the same in both languages may come back unchanged."""
    assert verdict(text, text) is None


def test_loans_are_not_copies() -> None:
    """A translation that keeps some of the source's words is none."""
    source = "please open the browser and download the software update"
    assert verdict(source, "bitte den browser öffnen und das software update laden") is None
