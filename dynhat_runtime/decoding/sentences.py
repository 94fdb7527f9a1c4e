"""Text as sentences and the white space around them: splitting loses nothing, joining restores it exactly.

The only importer of sentencex.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sentencex


@dataclass(frozen=True, slots=True)
class Segment:
    """A sentence with the white space before and after it. The sentence is empty where there is only space."""

    before: str
    sentence: str
    after: str

    @property
    def is_translatable(self) -> bool:
        """Whether it says anything in letters; numbers, emoji and punctuation stay as they are."""
        return any(character.isalpha() for character in self.sentence)


def split_sentences(text: str, language: str) -> list[Segment]:
    """Cut `text` into sentences; joining the segments' three parts gives `text` back.

    Line breaks always end a sentence.
    """
    return [
        _segment(piece)
        for line in text.splitlines(keepends=True)
        for piece in _pieces(line, language)
        if piece
    ]


def _pieces(line: str, language: str) -> Iterator[str]:
    """The splitter's pieces of one line, or the line itself should the splitter lose a character."""
    pieces = list(sentencex.segment(language, line)) if line.strip() else [line]
    yield from pieces if "".join(pieces) == line else [line]


def _segment(piece: str) -> Segment:
    sentence = piece.strip()
    if not sentence:
        return Segment(piece, "", "")
    begin = piece.index(sentence)
    return Segment(piece[:begin], sentence, piece[begin + len(sentence) :])


def join_sentences(segments: Sequence[Segment], translations: Sequence[str]) -> str:
    """The translated text with the source's white space."""
    return "".join(
        segment.before + translation + segment.after
        for segment, translation in zip(segments, translations, strict=True)
    )


def split_in_two(sentence: str) -> tuple[str, str, str]:
    """Cut an over-long sentence near its middle: first part, white space between, second part.

    Prefers the space after punctuation, then any space, then the middle character.
    """
    middle = len(sentence) // 2
    spaces = [i for i, character in enumerate(sentence) if character.isspace() and 0 < i < len(sentence) - 1]
    quarter = len(sentence) // 4
    after_punctuation = [
        i for i in spaces if sentence[i - 1] in ",;:.!?)–—" and quarter < i < len(sentence) - quarter
    ]
    if not spaces:
        return sentence[:middle], "", sentence[middle:]
    at = min(after_punctuation or spaces, key=lambda i: abs(i - middle))
    return sentence[:at], sentence[at], sentence[at + 1 :]
