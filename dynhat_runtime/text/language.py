"""Which of two languages a text is in, by its letters. Knows no third language: such a text gets the nearer of the two.

A profile holds character n-grams, each with its log-odds between the two languages; `offline/language_profile.py`
fits it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from dynhat_runtime.text.protected_spans import protected_spans

MAX_CHARACTERS = 1000
"""No more of a text is looked at: it is certain by then."""
MAX_NGRAM = 4


@dataclass(frozen=True, slots=True)
class Detection:
    """A language and how sure that is."""

    language: str
    confidence: float
    """Probability between the two languages, 0.5 to 1; 0 where the text says nothing."""


@dataclass(frozen=True, slots=True)
class LanguageProfile:
    """What tells two languages apart."""

    languages: tuple[str, str]
    log_odds: Mapping[str, float]
    """Per n-gram; above 0 it speaks for the first language."""
    scale: float
    """From the mean log-odds of a text's n-grams, times the root of their number, to the log-odds of the text."""

    def detect(self, text: str) -> Detection | None:
        """The likelier language; None for a text without a known n-gram, such as one in another script."""
        found = [self.log_odds[ngram] for ngram in ngrams(text) if ngram in self.log_odds]
        if not found:
            return None
        evidence = self.scale * sum(found) / math.sqrt(len(found))
        probability = 1 / (1 + math.exp(-min(abs(evidence), 50.0)))
        return Detection(self.languages[0 if evidence > 0 else 1], probability)


def ngrams(text: str) -> list[str]:
    """Runs of up to four letters in a text's words, the words' edges marked; protected spans say nothing."""
    words = "".join(
        character if character.isalpha() or character in "'’" else " "
        for character in _language_of(text[:MAX_CHARACTERS]).lower()
    ).split()
    return [
        marked[begin : begin + length]
        for marked in (f" {word} " for word in words)
        for length in range(1, MAX_NGRAM + 1)
        for begin in range(len(marked) - length + 1)
        if marked[begin : begin + length] != " "
    ]


def _language_of(text: str) -> str:
    """The text without what is protected."""
    kept, position = [], 0
    for span in protected_spans(text):
        kept.append(text[position : span.begin])
        position = span.end
    return " ".join((*kept, text[position:]))


@cache
def profile_of(languages: frozenset[str]) -> LanguageProfile | None:
    """The shipped profile of two languages; None where there is none."""
    file = files("dynhat_runtime.text").joinpath("profiles", f"{'-'.join(sorted(languages))}.json")
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    first, second = content["languages"]
    return LanguageProfile((first, second), content["log_odds"], content["scale"])


def detect(text: str, src_lang: str, tgt_lang: str) -> Detection:
    """Which of a bundle's languages a text is in; the source language at confidence 0 where nothing tells."""
    profile = profile_of(frozenset((src_lang, tgt_lang)))
    found = None if profile is None else profile.detect(text)
    return found or Detection(src_lang, 0.0)
