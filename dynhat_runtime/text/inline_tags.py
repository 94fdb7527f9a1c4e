"""A sentence with tags in its midst: translated as one, and the tags put around the same words in the translation.

Decides what the model is asked, and where the tags belong in what it said. Reads no markup: `html` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape as escape_html
from itertools import takewhile

from dynhat_runtime.text.sentences import has_language

SHORTEST_STEM, LONGEST_ENDING = 3, 2
"""Two words are one word in two forms if so many letters at least begin them both, and so many at most end either."""

MAX_ELEMENTS = 16
"""In one sentence. With more it is translated in pieces: each is looked for among all words and all others."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Tag:
    """A tag where it stands: before the character with this number."""

    at: int
    raw: str


@dataclass(frozen=True, slots=True)
class Element:
    """A pair of tags with words between them; offsets as the tags'."""

    begin: int
    end: int
    opening: str
    closing: str


@dataclass(frozen=True, slots=True)
class _Placed:
    """An element in the translation."""

    element: Element
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class TaggedSentence:
    """A sentence without white space around it, and the tags in it, in order."""

    sentence: str
    tags: tuple[Tag, ...]
    elements: tuple[Element, ...] | None
    """All tags in pairs, those further out first; None where they are not: then it is translated in pieces only."""

    @property
    def texts(self) -> tuple[str, ...]:
        """What the model is asked, nothing twice: the whole, what is in each element, and the pieces between tags."""
        asked = [core for _, core, _ in map(_stripped, self._pieces()) if has_language(core)]
        if self.elements is not None:
            asked += [self.sentence, *filter(has_language, map(self._content, self.elements))]
        return tuple(dict.fromkeys(asked))

    # Rules:
    #   1  All tags are in pairs, and what each pair holds, translated by itself, is found again exactly once in the
    #      translation of the whole, in any form of its words and apart from the other pairs'   -> that, with the tags.
    #   2  Otherwise                                                                            -> piece by piece.
    def with_texts(self, translations: Sequence[str]) -> str:
        """The sentence in the other language, as markup; one translation for each of `texts`."""
        said = dict(zip(self.texts, translations, strict=True))
        whole = self._whole(said)
        return self._piecewise(said) if whole is None else whole

    def _content(self, element: Element) -> str:
        return self.sentence[element.begin : element.end].strip()

    def _pieces(self) -> Iterator[str]:
        """The text between the tags, one piece more than there are tags."""
        ends = [tag.at for tag in self.tags]
        for begin, end in zip([0, *ends], [*ends, len(self.sentence)], strict=True):
            yield self.sentence[begin:end]

    def _piecewise(self, said: Mapping[str, str]) -> str:
        parts = []
        for piece, raw in zip(self._pieces(), [*(tag.raw for tag in self.tags), ""], strict=True):
            before, core, after = _stripped(piece)
            parts += [escape(before + said.get(core, core) + after), raw]
        return "".join(parts)

    def _whole(self, said: Mapping[str, str]) -> str | None:
        """The whole's translation with all tags in it; None where one finds no place."""
        if self.elements is None:
            return None
        translation = said[self.sentence]
        placed: list[_Placed] = []
        for element in self.elements:
            content = self._content(element)
            around = next((each for each in reversed(placed) if _is_in(element, each.element)), None)
            begin, end = (0, len(translation)) if around is None else (around.begin, around.end)
            found = _find(said.get(content, content), translation, begin, end)
            if found is None:
                return None
            place = _Placed(element, *found)
            if any(_overlap(place, each) and not _is_in(element, each.element) for each in placed):
                return None
            placed.append(place)
        return _marked_up(translation, placed)


def escape(text: str) -> str:
    """Text as HTML writes it out."""
    return escape_html(text, quote=False).replace("\u00a0", "&nbsp;")


def _stripped(piece: str) -> tuple[str, str, str]:
    """White space, text, white space."""
    core = piece.strip()
    begin = piece.index(core) if core else len(piece)
    return piece[:begin], core, piece[begin + len(core) :]


def _is_in(inner: Element, outer: Element) -> bool:
    return outer.begin <= inner.begin and inner.end <= outer.end


def _overlap(one: _Placed, other: _Placed) -> bool:
    return one.begin < other.end and other.begin < one.end


def _find(wanted: str, text: str, begin: int, end: int) -> tuple[int, int] | None:
    """Where the words of `wanted` stand in a part of `text`, one after the other; None if nowhere or more than once."""
    sought = [match.group().casefold() for match in _WORD.finditer(wanted)]
    words = list(_WORD.finditer(text, begin, end))
    if not sought:
        return None
    places = [
        (words[i].start(), words[i + len(sought) - 1].end())
        for i in range(len(words) - len(sought) + 1)
        if all(map(_is_same_word, sought, (word.group().casefold() for word in words[i : i + len(sought)])))
    ]
    return places[0] if len(places) == 1 else None


def _is_same_word(one: str, other: str) -> bool:
    """Whether two words are the same, but for an ending."""
    stem = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
    return one == other or (stem >= SHORTEST_STEM and max(len(one), len(other)) - stem <= LONGEST_ENDING)


def _marked_up(text: str, placed: Sequence[_Placed]) -> str:
    """Text with tags around its places; of two at one place the first is further out."""
    opening = sorted(enumerate(placed), key=lambda each: (each[1].begin, each[0]))
    closing = sorted(enumerate(placed), key=lambda each: (each[1].end, -each[0]))
    tags = [(place.end, 0, rank, place.element.closing) for rank, (_, place) in enumerate(closing)]
    tags += [(place.begin, 1, rank, place.element.opening) for rank, (_, place) in enumerate(opening)]
    parts, position = [], 0
    for at, _, _, raw in sorted(tags):
        parts += [escape(text[position:at]), raw]
        position = at
    return "".join((*parts, escape(text[position:])))
