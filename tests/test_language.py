"""Which of the bundle's two languages a text is in."""

from __future__ import annotations

import pytest

from dynhat_runtime.text.language import MAX_CHARACTERS, detect, profile_of


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Where is the station?", "en"),
        ("Wo ist der Bahnhof?", "de"),
        ("She would like a cup of tea.", "en"),
        ("Ich möchte gern eine Tasse Tee.", "de"),
        ("WHERE IS THE STATION?", "en"),
        ("Das ist %s in {name}, siehe https://example.org/the/english/page", "de"),
    ],
)
def test_sentences(text: str, language: str) -> None:
    """A sentence is told with confidence."""
    found = detect(text, "en", "de")
    assert found.language == language
    assert 0.9 < found.confidence <= 1


def test_the_pair_has_no_direction() -> None:
    """The same profile serves a bundle of the other direction."""
    assert detect("Wo ist der Bahnhof?", "de", "en") == detect("Wo ist der Bahnhof?", "en", "de")


@pytest.mark.parametrize("text", ["", "🙂🙂", "42", "Привет", "https://example.org/the", "%s {name}"])
def test_a_text_that_says_nothing(text: str) -> None:
    """Without a letter that tells, it is the source language at confidence 0."""
    found = detect(text, "en", "de")
    assert (found.language, found.confidence) == ("en", 0.0)


def test_languages_without_a_profile() -> None:
    """A pair that nobody fitted a profile for is never judged."""
    assert profile_of(frozenset(("en", "fr"))) is None
    assert detect("Bonjour tout le monde", "en", "fr").confidence == 0.0


def test_a_short_text_is_less_certain() -> None:
    """Confidence grows with what there is to see."""
    assert detect("Tee", "en", "de").confidence < detect("Tee oder Kaffee am Morgen", "en", "de").confidence


def test_only_the_beginning_of_a_long_text_is_read() -> None:
    """What stands behind the first thousand characters changes nothing."""
    text = "Where is the station? " * 50
    assert detect(text[:MAX_CHARACTERS] + " und die Straße" * 500, "en", "de") == detect(text, "en", "de")
