"""HAT's BLEU against a computation of our own, and in the rows of `dynhat evaluate`."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import sacrebleu

from dynhat_runtime.offline.evaluate import compound_split_bleu, split_compounds

pytest.importorskip("sacremoses")

MARK = "##AT##-##AT##"
HYPOTHESES = [
    "The well-known man sees a rich-text format today.",
    "Two green apples, and the old book again!",
    "The one-eyed king of the blind walked home.",
]
REFERENCES = [
    "The well-known man saw the rich-text format today.",
    "Two green apples and the old-fashioned book again!",
    "The one-eyed king of the blind walked away from home.",
]


def own_bleu(hypotheses: list[list[str]], references: list[list[str]]) -> float:
    """Corpus BLEU of up to 4-grams with one reference."""
    total = 0.0
    for n in range(1, 5):
        matches = count = 0
        for hypothesis, reference in zip(hypotheses, references, strict=True):
            ours, theirs = (
                Counter(tuple(w[i : i + n]) for i in range(len(w) - n + 1)) for w in (hypothesis, reference)
            )
            matches += (ours & theirs).total()
            count += ours.total()
        total += math.log(matches / count) / 4
    num_ours, num_theirs = sum(map(len, hypotheses)), sum(map(len, references))
    return 100 * math.exp(total + min(0.0, 1 - num_theirs / num_ours))


def by_hand(text: str) -> list[str]:
    """These sentences' words: punctuation split off, compounds split."""
    for sign in ",.!":
        text = text.replace(sign, f" {sign}")
    return text.replace("-", f" {MARK} ").split()


def test_agrees_with_our_own_bleu() -> None:
    """The score is BLEU over Moses words with compounds split on both sides; the signature says so."""
    score, signature = compound_split_bleu(HYPOTHESES, REFERENCES, "en", "toy")
    expected = own_bleu([by_hand(t) for t in HYPOTHESES], [by_hand(t) for t in REFERENCES])
    assert score == pytest.approx(expected, abs=0.006)
    assert signature.startswith("toy|words:moses-en|compounds:split|nrefs:1|case:mixed|")
    assert "tok:none" in signature


def test_agrees_with_sacrebleu_on_words_made_by_hand() -> None:
    """sacreBLEU without a tokenizer gives the same score for text whose words were prepared otherwise."""
    score, _ = compound_split_bleu(HYPOTHESES, REFERENCES, "en", "toy")
    ours, theirs = ([" ".join(by_hand(text)) for text in texts] for texts in (HYPOTHESES, REFERENCES))
    assert MARK in ours[0]
    expected = sacrebleu.corpus_bleu(ours, [theirs], tokenize="none", force=True).score
    assert score == round(expected, 2)
    assert score != round(sacrebleu.corpus_bleu(HYPOTHESES, [REFERENCES]).score, 2)


@pytest.mark.parametrize(
    ("words", "split"),
    [
        ("x-y", f"x {MARK} y"),
        ("one-eyed well-known", f"one {MARK} eyed well {MARK} known"),
        ("- a -b c-", "- a -b c-"),
        ("a-b-c", f"a {MARK} b-c"),
    ],
)
def test_hyphens_within_words(words: str, split: str) -> None:
    """Only a hyphen between two characters is split, each character once."""
    assert split_compounds(words) == split
