"""Which pairs of raw text are trained on, and in which form: normalising, and filters with names.

Every filter is a small pure function of a pair; `Cleaner` puts them in order and remembers what it has let through.
Reads no file. What the filters wrongly remove from the dev sets: `docs/decisions/0024-prepared-data.md`.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Literal, get_args

from dynhat_runtime.decoding.output_guard import is_copied
from dynhat_runtime.offline.parallel_text import Pair
from dynhat_runtime.offline.recipe import CleaningRecipe, CorpusRecipe, FilterName
from dynhat_runtime.text.language import LanguageProfile, profile_of

Reason = Literal["broken_line", "empty", "too_long", FilterName, "too_many_tokens"]
REASONS: tuple[Reason, ...] = ("broken_line", "empty", "too_long", *get_args(FilterName), "too_many_tokens")
"""Why a line gives no training pair, in the order of looking; the first and the last are found by others."""

MAX_LANGUAGE_CHARACTERS = 100
"""So much of a text tells its language: detection is the slowest filter."""

_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\ufeff"))
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ue000-\uf8ff\ufffd]")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'»“”)]*\s+")
_NO_WORD = re.compile(r"[\W_]+")

_OLD_SPELLINGS = (
    ("daß", "dass"), ("Daß", "Dass"), ("muß", "muss"), ("Muß", "Muss"), ("mußt", "musst"), ("läßt", "lässt"),
    ("Thür", "Tür"), ("thür", "tür"), ("Theil", "Teil"), ("theil", "teil"), ("Thal", "Tal"), ("Thier", "Tier"),
    ("Thun", "Tun"), ("thun", "tun"), ("that ", "tat "), ("seyn", "sein"), ("seyd", "seid"), ("giebt", "gibt"),
    ("wußt", "wusst"), ("müßt", "müsst"), ("gewiß", "gewiss"), ("Gewiß", "Gewiss"), ("Fluß", "Fluss"),
    ("Schloß", "Schloss"), ("laßt", "lasst"), ("Laßt", "Lasst"), ("bißchen", "bisschen"), ("Kuß", "Kuss"),
    ("häßlich", "hässlich"), ("faßt", "fasst"), ("Roth", "Rot"), ("roth", "rot"), ("Noth", "Not"), ("noth", "not"),
)  # fmt: skip


def modern_spelling(german: str) -> str:
    """Common spellings from before 1996 (and 1901) in today's form."""
    for old, new in _OLD_SPELLINGS:
        german = german.replace(old, new)
    return german


def normalised(text: str) -> str:
    """The text in Unicode's composed form, without invisible characters, one space between words."""
    return " ".join(unicodedata.normalize("NFC", text.translate(_INVISIBLE)).split())


def has_control_characters(text: str) -> bool:
    """Whether it holds control, private or replacement characters: it was decoded wrongly, or is no text."""
    return _CONTROL.search(text) is not None


def is_disproportionate(source: str, target: str, max_ratio: float, slack_characters: int) -> bool:
    """Whether one side is too long to be the other's translation."""
    lengths = len(source) + slack_characters, len(target) + slack_characters
    return max(lengths) > max_ratio * min(lengths)


def is_in_language(
    text: str, language: str, profile: LanguageProfile, *, confidence: float, min_words: int
) -> bool:
    """Whether a text is surely in `language`, one of the profile's two; short ones are never sure."""
    if len(text.split()) < min_words:
        return False
    found = profile.detect(text[:MAX_LANGUAGE_CHARACTERS])
    return found is not None and found.language == language and found.confidence >= confidence


def comparable(text: str) -> str:
    """What two texts have in common that differ in case, punctuation or spacing alone."""
    return _NO_WORD.sub(" ", text.casefold()).strip()


def sentences_of(text: str, min_words: int) -> Iterator[str]:
    """The text and each of its sentences, comparable, as far as they have so many words."""
    for part in dict.fromkeys((text, *_SENTENCE_END.split(text))):
        words = comparable(part)
        if words.count(" ") + 1 >= min_words and words:
            yield words


def fingerprint(text: str) -> int:
    """64 bits that stand for a text, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class Cleaner:
    """Cleans one pair after another; what it has let through once is a duplicate the next time.

    Args:
        cleaning: Filters and their bounds.
        languages: Of source and target.
        held_out: Pairs of the dev and test sets.
    """

    def __init__(
        self, cleaning: CleaningRecipe, languages: tuple[str, str], held_out: Iterable[Pair] = ()
    ) -> None:
        self._rules, self._languages = cleaning, languages
        self._filters = frozenset(cleaning.filters)
        self._profile = profile_of(frozenset(languages))
        self._held_out = frozenset(
            fingerprint(sentence)
            for pair in held_out
            for side in pair
            for sentence in sentences_of(side, cleaning.min_overlap_words)
        )
        self._seen: set[int] = set()

    def formed(self, pair: Pair, corpus: CorpusRecipe) -> Pair:
        """The pair in the form it is trained on."""
        source, target = map(normalised, pair) if self._rules.normalise else pair
        return source, modern_spelling(target) if corpus.modernise_spelling else target

    def remember(self, pair: Pair) -> None:
        """The pair, as formed, is let through: another like it is a duplicate."""
        self._seen.add(_pair_fingerprint(pair))

    # Rules, first match decides; cheap ones come first:
    #   1  a side has no word                                                              -> "empty"
    #   2  a side has more words than the corpus's max_words                               -> "too_long"
    #   3  a control, private or replacement character                                     -> "control_characters"
    #   4  one side is max_length_ratio times as long as the other, slack added to both    -> "length_ratio"
    #   5  the target is the source, in the output guard's sense                           -> "copied"
    #   6  a pair let through before differs in case, punctuation and spacing at most      -> "duplicate"
    #   7  a side is, or holds, a sentence of min_overlap_words words of a held-out set    -> "overlap"
    #   8  a side of min_language_words words is surely in the other side's language       -> "language"
    def judge(self, pair: Pair, corpus: CorpusRecipe) -> Reason | None:
        """Why a formed pair of `corpus` is left out, by the rules above; None where it stays."""
        nums_words = [len(side.split()) for side in pair]
        if min(nums_words) == 0:
            return "empty"
        if max(nums_words) > corpus.max_words:
            return "too_long"
        return next(
            (name for name in get_args(FilterName) if name in self._filters and self._is(name, pair)), None
        )

    def _is(self, name: FilterName, pair: Pair) -> bool:
        rules = self._rules
        if name == "control_characters":
            return any(map(has_control_characters, pair))
        if name == "length_ratio":
            return is_disproportionate(*pair, rules.max_length_ratio, rules.length_slack_characters)
        if name == "copied":
            return is_copied(*pair)
        if name == "duplicate":
            return _pair_fingerprint(pair) in self._seen
        if name == "overlap":
            return bool(self._held_out) and any(
                fingerprint(sentence) in self._held_out
                for side in pair
                for sentence in sentences_of(side, rules.min_overlap_words)
            )
        return self._is_in_wrong_language(pair)

    def _is_in_wrong_language(self, pair: Pair) -> bool:
        if self._profile is None:
            return False
        return any(
            is_in_language(
                side,
                other,
                self._profile,
                confidence=self._rules.language_confidence,
                min_words=self._rules.min_language_words,
            )
            for side, other in zip(pair, reversed(self._languages), strict=True)
        )


def _pair_fingerprint(pair: Pair) -> int:
    return fingerprint("\t".join(map(comparable, pair)))
