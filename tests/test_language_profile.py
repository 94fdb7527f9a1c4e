"""Fitting a profile on a few made-up sentences of two made-up languages."""

from __future__ import annotations

import json

from dynhat_runtime.offline.language_profile import fit_profile, profile_json, score_profile

A_WORDS, B_WORDS = ("wala", "mola", "sola", "tala"), ("stik", "krek", "frik", "plek")
WORDS = list(zip(A_WORDS, B_WORDS, strict=True))
PAIRS = [(f"{a} {c}", f"{b} {d}") for a, b in WORDS for c, d in WORDS]


def test_languages_that_differ_are_told_apart() -> None:
    """Fitted on some sentences, a profile finds the language of others, and is sure of it."""
    profile = fit_profile(("xa", "xb"), PAIRS[:12], PAIRS[12:14], num_ngrams=50)
    score = score_profile(profile, PAIRS[12:])
    assert (score.num_texts, score.accuracy) == (8, 1.0)
    assert score.log_loss < 0.1


def test_languages_that_do_not_differ_are_not() -> None:
    """On two names for one language a profile is no better than a coin."""
    same = [(a, a) for a, _ in PAIRS]
    profile = fit_profile(("xa", "xb"), same, same, num_ngrams=50)
    assert score_profile(profile, same).log_loss > 0.6


def test_only_so_many_ngrams_are_kept() -> None:
    """The profile is as large as asked."""
    assert len(fit_profile(("xa", "xb"), PAIRS, PAIRS, num_ngrams=7).log_odds) == 7


def test_the_file_holds_the_profile() -> None:
    """What is written is what was fitted, and where it comes from."""
    profile = fit_profile(("xa", "xb"), PAIRS, PAIRS, num_ngrams=7)
    content = json.loads(profile_json(profile, {"train": "made up"}))
    assert content["record"] == {"train": "made up"}
    assert (tuple(content["languages"]), content["scale"]) == (profile.languages, profile.scale)
    assert content["log_odds"] == profile.log_odds
