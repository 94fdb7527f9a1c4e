"""What in a text is not language and has to come back exactly: placeholders, addresses, mentions, emoji.

Finds them only; what becomes of them is `sentence_plan`'s. Looks at the text alone, in time linear in its length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Kind = Literal["placeholder", "address", "symbol"]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a text, its end excluded."""

    begin: int
    end: int
    kind: Kind


# First match decides, from left to right. Every quantifier is bounded or begins where a word begins: whoever sends
# fifty thousand letters or braces must not be able to buy a quadratic search with them.
_SYMBOLS = (
    r"\u2190-\u21ff\u2300-\u27bf\u2b00-\u2bff\ufe0f\u200d\u20e3\ue000-\uf8ff"  # arrows, dingbats, joiners, private use
    r"\U0001f000-\U0001faff\U000e0020-\U000e007f"  # emoji, flags, skin tones
)
_PATTERN = re.compile(
    r"""
    (?P<address>
        (?:https?|ftp)://[^\s<>"«»“”„]+
      | (?<!\w)www\.[^\s<>"«»“”„]+
      | (?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+   # e-mail
      | (?<![\w@])@\w{1,64}(?:[.-]\w{1,64}){0,8}(?:@[\w-]{1,63}(?:\.[\w-]{1,63})+)?  # mention, with its server
    )
  | (?P<placeholder>
        \{\{[ ]?[^{}\s]{1,64}(?:[ ][^{}\s]{1,64}){0,3}[ ]?\}\}     # {{ name }}
      | [$%#]?\{[^{}\s]{0,64}\}                                    # {name}, {0}, {}, ${name}, %{name}
      | %\w{2,64}%(?!%)                                            # %name%
      | %%
      | (?<!\d)%(?:\(\w{1,64}\)|\d{1,2}\$)?[-+\#0]{0,4}\d{0,3}(?:\.(?:\d{1,3}|\*))?  # %s, %1$s, %(name)s, %5.2f
        (?:hh|h|ll|l|L|z|j|t|q)?(?:[ds@]|[iouxXeEfFgGaAcpn](?![^\W\d_]))
      | &(?:\#\d{1,7}|\#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,31});      # &nbsp;
    )
  | (?P<symbol>
        (?:
            [0-9\#*]\ufe0f?\u20e3                                  # keycaps
          | ["""
    + _SYMBOLS
    + r"""]
        )+
    )
    """,
    re.VERBOSE,
)

# Every match holds one of these signs, or begins with www. Most sentences have none, and to see that takes a hundredth
# of the time of trying the pattern at every letter.
_SIGNS = re.compile(rf"[@{{%&:{_SYMBOLS}]")

_TRAILING = ".,;:!?'’…*_"
_CLOSING = {")": "(", "]": "[", "}": "{"}


def protected_spans(text: str) -> list[Span]:
    """All of them, in order; they do not overlap.

    An address ends before the punctuation of the sentence that it stands in.
    """
    if _SIGNS.search(text) is None and "www." not in text:
        return []
    spans = []
    for match in _PATTERN.finditer(text):
        kind: Kind = match.lastgroup  # type: ignore[assignment]  # the pattern's groups are the kinds
        end = _end_of_address(text, *match.span()) if kind == "address" else match.end()
        spans.append(Span(match.start(), end, kind))
    return spans


def _end_of_address(text: str, begin: int, end: int) -> int:
    """Where the address ends: before punctuation, and before a bracket that it does not open itself."""
    num_open = {closing: text.count(opening, begin, end) for closing, opening in _CLOSING.items()}
    num_closed = {closing: text.count(closing, begin, end) for closing in _CLOSING}
    while end > begin + 1:
        last = text[end - 1]
        if last in num_closed and num_closed[last] > num_open[last]:
            num_closed[last] -= 1
        elif last not in _TRAILING:
            break
        end -= 1
    return end
