"""Notices a degenerate translation: one that loops, is absurdly long or short, says nothing, or copies its source.

Pure: tokens and text in, a fault or None out. Judges form only: a fluent mistranslation passes. How often
each rule fires on the shipped bundle: `docs/decisions/0012-output-guard.md`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from operator import eq
from typing import Literal, get_args

Fault = Literal["empty", "repetition", "too_long", "too_short", "copied"]
FAULTS: tuple[Fault, ...] = get_args(Fault)

MAX_PERIOD = 12
"""Longest loop looked for, in tokens."""
MIN_LOOP_REPEATS = 3
MIN_LOOP_TOKENS = 8
"""A loop comes at least so often, and covers at least so many tokens: "ha ha ha" is none."""
SPARE_REPEATS = 1
"""So many more repeats than the source has itself are let pass: a list may fall into step in another language."""

MIN_VARIED_TOKENS = 24
MIN_VARIETY = 0.4
"""Distinct tokens per token, from that length on: catches a loop that stumbles."""

MIN_SHORTENED_TOKENS = 16
MIN_TARGET_RATIO = 0.2
"""Target tokens per source token, from that source length on."""

MIN_COPIED_WORDS = 4
MIN_WORD_LETTERS = 3
MAX_COPIED_FRACTION = 0.7
"""Share of the source's common words that may stand in the translation as they are."""


# Rules, first match decides:
#   1  no letter and no digit in the translation of a source that has letters           -> "empty"
#   2  a run of up to 12 tokens comes at least 3 times in a row and covers 8 tokens,
#      and comes more than once oftener than anything in the source does                -> "repetition"
#   3  24 tokens or more with under 0.4 distinct tokens per token, and under 0.6 of
#      the source's own variety                                                         -> "repetition"
#   4  the length cap was hit, so that the end was forced                               -> "too_long"
#   5  16 source tokens or more, and under 0.2 target tokens for each                   -> "too_short"
#   6  4 common words or more in the source, over 0.7 of which stand in the translation -> "copied"
#
# A common word has 3 letters or more, nothing but letters, and is in lower case: so names, numbers, addresses
# and one-word texts never count as copied.
def judge(
    source: str,
    src_tokens: Sequence[int],
    translation: str,
    tgt_tokens: Sequence[int],
    max_tgt_tokens: int,
) -> Fault | None:
    """What is wrong with one sentence's translation.

    Args:
        source: The sentence.
        src_tokens: Its tokens, with eos.
        translation: The output as text.
        tgt_tokens: The output's tokens, with eos.
        max_tgt_tokens: Tokens after which eos was forced.

    Returns:
        The first fault of the rules above, or None.
    """
    if any(map(str.isalpha, source)) and not any(map(str.isalnum, translation)):
        return "empty"
    if _loops(src_tokens, tgt_tokens) or _lacks_variety(src_tokens, tgt_tokens):
        return "repetition"
    if len(tgt_tokens) > max_tgt_tokens:
        return "too_long"
    if len(src_tokens) >= MIN_SHORTENED_TOKENS and len(tgt_tokens) < MIN_TARGET_RATIO * len(src_tokens):
        return "too_short"
    if is_copied(source, translation):
        return "copied"
    return None


def _loops(src_tokens: Sequence[int], tgt_tokens: Sequence[int]) -> bool:
    """Rule 2."""
    if max(Counter(tgt_tokens).values(), default=0) < MIN_LOOP_REPEATS:
        return False  # nothing comes that often, in a row or not: so it is with most sentences
    repeats = _most_repeats(tgt_tokens, MIN_LOOP_TOKENS)
    return repeats >= MIN_LOOP_REPEATS and repeats > _most_repeats(src_tokens, 0) + SPARE_REPEATS


def _most_repeats(tokens: Sequence[int], min_tokens: int) -> int:
    """How often the most repeated run comes in a row; 1 where nothing that covers `min_tokens` repeats."""
    most = 1
    for period in range(1, MAX_PERIOD + 1):
        shortest = max(min_tokens - period, period)  # run of equals that makes a repeat
        if bytes(map(eq, tokens[period:], tokens)).find(b"\1" * shortest) < 0:
            continue
        num_equal = 0
        for position in range(period, len(tokens)):
            num_equal = num_equal + 1 if tokens[position] == tokens[position - period] else 0
            if num_equal + period >= min_tokens:
                most = max(most, num_equal // period + 1)
    return most


def _lacks_variety(src_tokens: Sequence[int], tgt_tokens: Sequence[int]) -> bool:
    """Rule 3."""
    if len(tgt_tokens) < MIN_VARIED_TOKENS:
        return False
    variety = len(set(tgt_tokens)) / len(tgt_tokens)
    return variety < MIN_VARIETY and variety < 0.6 * len(set(src_tokens)) / len(src_tokens)


def is_copied(source: str, translation: str) -> bool:
    """Rule 6; also what cleaning takes for a training pair that is not translated."""
    words = [word for word in map(_bare, source.split()) if _is_common(word)]
    if len(words) < MIN_COPIED_WORDS:
        return False
    said = set(map(_bare, translation.split()))
    return sum(word in said for word in words) > MAX_COPIED_FRACTION * len(words)


def _bare(word: str) -> str:
    """A word without the punctuation around it."""
    return word.strip(".,;:!?\"'()[]{}«»„“”‚‘’…–—-")


def _is_common(word: str) -> bool:
    """Whether it is a word that a translation should have translated."""
    return len(word) >= MIN_WORD_LETTERS and word.isalpha() and word.islower()
