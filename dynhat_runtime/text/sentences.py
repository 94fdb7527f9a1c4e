"""Text as sentences and the white space around them: splitting loses nothing, joining restores it exactly.

The only importer of sentencex. Translates nothing and protects nothing; it only cuts where nothing is torn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import sentencex

from dynhat_runtime.text.protected_spans import Span, protected_spans

Cuts = Literal["lines", "sentences", "none"]
"""Where a text is cut: at line breaks and between sentences; between sentences, a line break being a space; nowhere."""

LINE_BREAKS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""What `str.splitlines` takes for the end of a line."""
AS_SPACES = str.maketrans(LINE_BREAKS, " " * len(LINE_BREAKS))

MAX_SPANS = 6
"""Protected spans in one sentence at most; one with more is cut. It bounds what one sentence is translated as."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A sentence with the white space before and after it. The sentence is empty where there is only space."""

    before: str
    sentence: str
    after: str

    @property
    def is_translatable(self) -> bool:
        """Whether it says anything in letters; numbers, emoji, punctuation and what is protected stay as they are."""
        return has_language(self.sentence)


def has_language(text: str) -> bool:
    """Whether there is a letter outside protected spans."""
    position = 0
    for span in protected_spans(text):
        if any(map(str.isalpha, text[position : span.begin])):
            return True
        position = span.end
    return any(map(str.isalpha, text[position:]))


def split_sentences(text: str, language: str, cuts: Cuts = "lines") -> list[Segment]:
    """Cut `text` into sentences; joining the segments' three parts gives `text` back.

    No cut falls into a protected span, and no sentence has more than `MAX_SPANS`.

    Args:
        text: Any.
        language: Its code.
        cuts: Where.
    """
    lines = text.splitlines(keepends=True) if cuts == "lines" else [text]
    return [
        _segment(piece)
        for line in lines
        for piece in _pieces(line, [line] if cuts == "none" else _sentences(line, language))
        if piece
    ]


def _sentences(line: str, language: str) -> list[str]:
    """The splitter's pieces, line breaks being spaces; all in one should it lose a character."""
    line = line.translate(AS_SPACES)
    pieces = list(sentencex.segment(language, line)) if line.strip() else [line]
    return pieces if "".join(pieces) == line else [line]


def _pieces(line: str, sentences: Sequence[str]) -> Iterator[str]:
    """A line cut where its sentences meet, and protected spans are not torn."""
    begin = 0
    for cut in _cuts(sentences, protected_spans(line)):
        yield line[begin:cut]
        begin = cut
    yield line[begin:]


def _cuts(pieces: Sequence[str], spans: Sequence[Span]) -> Iterator[int]:
    """Where the pieces meet outside the spans, and after every so many spans that nothing else separates."""
    waiting = iter(spans)
    span = next(waiting, None)
    position, num_spans = 0, 0
    for piece in pieces:
        position += len(piece)
        while span is not None and span.end <= position:
            if num_spans == MAX_SPANS:
                yield span.begin
                num_spans = 0
            num_spans += 1
            span = next(waiting, None)
        if span is None or position <= span.begin:
            yield position
            num_spans = 0


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
