"""Words that stand in for what is protected while a sentence is translated, and the check that they came back.

A stand-in is a word the model knows how to carry over: a first name, or a number where a number will be printed.
Whether it did is verified, never assumed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dynhat_runtime.text.protected_spans import Span

NAMES = ("Tom", "Boston", "Mike", "X1", "Anna", "Peter")
NUMBERS = ("59", "36", "48", "17", "85", "23")
MAX_STAND_INS = 4
"""With more in one sentence hardly any translation keeps them all."""

_PRINTS_NUMBER = re.compile(r"%[^@a-zA-Z]*[diouxXfFeEgG]$")
_HAS_NO_NAME = re.compile(r"%[-+#0-9.*]*[a-zA-Z@]+$|[$%#]?\{\}$")
"""Which argument such a placeholder prints is decided by its position alone."""


@dataclass(frozen=True, slots=True)
class Masked:
    """A text in which stand-ins take the place of protected spans."""

    text: str
    spans: tuple[tuple[str, str], ...]
    """Stand-in and what it stands for, in the order of the text."""

    def restore(self, translation: str) -> str | None:
        """The translation with everything protected in its place; None if anything was lost, doubled or inflected,
        or if placeholders that only their position tells apart changed places."""
        meant = dict(self.spans)
        found = list(re.finditer(rf"(?<![\w-])(?:{'|'.join(meant)})(?![\w-])", translation))
        words = [match.group() for match in found]
        if sorted(words) != sorted(meant) or _nameless(words, meant) != _nameless(meant, meant):
            return None
        restored, position = [], 0
        for match in found:
            restored += [translation[position : match.start()], meant[match.group()]]
            position = match.end()
        return "".join(restored) + translation[position:]


def mask(text: str, spans: Sequence[Span]) -> Masked | None:
    """Let stand-ins take the place of `spans`; None where no stand-in fits.

    None fits where a span touches a letter or digit, where there are too many spans, or none that is free.
    """
    if len(spans) > MAX_STAND_INS or any(_touches_word(text, span) for span in spans):
        return None
    folded = text.casefold()
    names = [name for name in NAMES if name.casefold() not in folded]
    numbers = [number for number in NUMBERS if number not in folded]
    masked, replaced, position = [], [], 0
    for span in spans:
        meant = text[span.begin : span.end]
        free = numbers if _PRINTS_NUMBER.match(meant) else names
        if not free:
            return None
        stand_in = free.pop(0)
        masked += [text[position : span.begin], stand_in]
        replaced.append((stand_in, meant))
        position = span.end
    return Masked("".join(masked) + text[position:], tuple(replaced))


def _touches_word(text: str, span: Span) -> bool:
    """Whether a letter, digit, hyphen or another span's sign stands right beside it."""
    beside = text[max(span.begin - 1, 0) : span.begin] + text[span.end : span.end + 1]
    return any(character.isalnum() or character in "-_%{}<>&#$@/\\=" for character in beside)


def _nameless(words: Iterable[str], meant: Mapping[str, str]) -> list[str]:
    """Those stand-ins, in order, whose placeholders only their position tells apart."""
    return [word for word in words if _HAS_NO_NAME.match(meant[word])]
