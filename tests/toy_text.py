"""A made-up English-German language of a few dozen words, and a tokenizer trained on it."""

from __future__ import annotations

import functools
import gzip
import random
from collections.abc import Iterable
from pathlib import Path

from dynhat_runtime.decoding.tokenizer import SentencePieceTokenizer, train_tokenizer

VOCAB_SIZE = 320

_ARTICLES = (("the", "der"), ("a", "ein"), ("this", "dieser"), ("every", "jeder"))
_ADJECTIVES = (("old", "alte"), ("small", "kleine"), ("tired", "müde"), ("green", "grüne"), ("wise", "weise"))
_NOUNS = (
    ("dog", "Hund"), ("baker", "Bäcker"), ("tree", "Baum"), ("neighbour", "Nachbar"), ("river", "Fluss"),
    ("teacher", "Lehrer"), ("bird", "Vogel"), ("train", "Zug"), ("gardener", "Gärtner"), ("king", "König"),
)  # fmt: skip
_VERBS = (
    ("sees", "sieht"),
    ("hears", "hört"),
    ("follows", "verfolgt"),
    ("finds", "findet"),
    ("asks", "fragt"),
)
_ENDS = (
    ("today", "heute"),
    ("quietly", "leise"),
    ("again", "wieder"),
    ("in the garden", "im Garten"),
    ("", ""),
)


def toy_pairs(count: int, seed: int = 1) -> list[tuple[str, str]]:
    """Sentences of five to ten words and their translations, word by word."""
    rng = random.Random(seed)
    pairs = []
    for _ in range(count):
        words = [rng.choice(_ARTICLES), rng.choice(_NOUNS), rng.choice(_VERBS), rng.choice(_ARTICLES)]
        words += [rng.choice(_ADJECTIVES) for _ in range(rng.randrange(3))]
        words += [rng.choice(_NOUNS), rng.choice(_ENDS)]
        source, target = (" ".join(word[side] for word in words if word[side]) for side in (0, 1))
        pairs.append((source + ".", target + "."))
    return pairs


def write_pairs(path: Path, pairs: Iterable[tuple[str, str]]) -> Path:
    """Write a gzipped TSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{source}\t{target}\n" for source, target in pairs)
    return path


@functools.cache
def toy_tokenizer_model() -> bytes:
    """The serialised tokenizer."""
    return train_tokenizer((side for pair in toy_pairs(400) for side in pair), VOCAB_SIZE)


@functools.cache
def toy_tokenizer() -> SentencePieceTokenizer:
    """The tokenizer."""
    return SentencePieceTokenizer(toy_tokenizer_model())
