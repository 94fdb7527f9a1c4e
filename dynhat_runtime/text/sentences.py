"""Text as sentences and the white space around them: splitting loses nothing, joining restores it exactly.

The only importer of sentencex. Translates nothing and protects nothing; it only cuts where nothing is torn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sentencex

from dynhat_runtime.text.protected_spans import Span, protected_spans

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


def split_sentences(text: str, language: str) -> list[Segment]:
    """Cut `text` into sentences; joining the segments' three parts gives `text` back.

    Line breaks always end a sentence. No cut falls into a protected span, and no sentence has more than `MAX_SPANS`.
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
    if len(pieces) < 1 or "".join(pieces) != line:
        pieces = [line]
    begin = 0
    for cut in _cuts(pieces, protected_spans(line)):
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
