"""Fits the profile by which `text.language` tells a bundle's two languages apart, and says how often it is right.

Naive Bayes over character n-grams. Only what tells most is kept: the profile is loaded on every device.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dynhat_runtime.offline.parallel_text import Pair
from dynhat_runtime.text.language import LanguageProfile, ngrams

SCALES = tuple(round(0.1 * step, 1) for step in range(1, 31))


@dataclass(frozen=True, slots=True)
class DetectionScore:
    """How a profile does on texts of known language."""

    num_texts: int
    num_right: int
    log_loss: float
    """Mean over the texts, in nats; 0.69 is a coin's."""

    @property
    def accuracy(self) -> float:
        """Share of texts whose language is found; a text that says nothing counts as missed."""
        return self.num_right / self.num_texts


def fit_profile(
    languages: tuple[str, str], train: Iterable[Pair], dev: Sequence[Pair], num_ngrams: int = 3000
) -> LanguageProfile:
    """Count on `train`, and set the scale of confidences on `dev`.

    Args:
        languages: Of a pair's first and second text.
        train: Sentences and their translations.
        dev: Others, for the scale alone.
        num_ngrams: How many n-grams are kept.
    """
    counts: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
    for pair in train:
        for counter, text in zip(counts, pair, strict=True):
            counter.update(ngrams(text))
    totals = [counter.total() for counter in counts]
    log_odds = {
        ngram: math.log((counts[0][ngram] + 0.5) / totals[0]) - math.log((counts[1][ngram] + 0.5) / totals[1])
        for ngram in {*counts[0], *counts[1]}
    }
    telling = sorted(
        log_odds, key=lambda ngram: (-abs(log_odds[ngram]) * sum(c[ngram] for c in counts), ngram)
    )
    kept = {ngram: round(log_odds[ngram], 2) for ngram in sorted(telling[:num_ngrams])}
    profiles = [LanguageProfile(languages, kept, scale) for scale in SCALES]
    return min(profiles, key=lambda profile: score_profile(profile, dev).log_loss)


def score_profile(profile: LanguageProfile, pairs: Sequence[Pair]) -> DetectionScore:
    """How often `profile` finds the language of both texts of each pair."""
    num_right, losses = 0, []
    for pair in pairs:
        for language, text in zip(profile.languages, pair, strict=True):
            found = profile.detect(text)
            is_right = found is not None and found.language == language
            confidence = 0.5 if found is None else found.confidence
            num_right += is_right
            losses.append(-math.log(max(confidence if is_right else 1 - confidence, 1e-12)))
    return DetectionScore(len(losses), num_right, sum(losses) / len(losses))


def profile_json(profile: LanguageProfile, record: dict[str, object]) -> str:
    """A profile as its file holds it, with where it comes from."""
    content = {
        "languages": profile.languages,
        "record": record,
        "scale": profile.scale,
        "log_odds": profile.log_odds,
    }
    return json.dumps(content, ensure_ascii=False, indent=0) + "\n"
