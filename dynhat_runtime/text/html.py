"""HTML, or XML, as the texts in it and the markup around them, which comes back byte for byte.

Markup is copied, never written anew: whoever sent `<BR>` or single
quotes gets them back. Malformed markup is not repaired: it comes back as it was. Where tags stand in the midst of a
sentence, `inline_tags` knows how it is translated.
"""

from __future__ import annotations

import html
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import NamedTuple

from dynhat_runtime.text.inline_tags import MAX_ELEMENTS, Element, Tag, TaggedSentence, escape
from dynhat_runtime.text.markup_pieces import Piece, read_pieces
from dynhat_runtime.text.sentences import Cuts, has_language, split_sentences

INLINE = frozenset(
    (
        *(
            "a",
            "abbr",
            "acronym",
            "b",
            "bdi",
            "big",
            "cite",
            "del",
            "dfn",
            "em",
            "font",
            "i",
            "ins",
            "label",
            "mark",
        ),
        *("q", "s", "small", "span", "strike", "strong", "sub", "sup", "time", "tt", "u"),
    )
)
"""Elements that stand within a sentence."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A part, or a whole text, that comes back as it was."""

    raw: str

    @property
    def texts(self) -> tuple[str, ...]:
        """None."""
        return ()

    def with_texts(self, translations: Sequence[str]) -> str:
        """What came."""
        assert not translations
        return self.raw


@dataclass(frozen=True, slots=True)
class Prose:
    """A text without tags in it, character references resolved."""

    text: str

    @property
    def texts(self) -> tuple[str, ...]:
        """The text itself."""
        return (self.text,)

    def with_texts(self, translations: Sequence[str]) -> str:
        """The one translation; what would be read as markup in it is escaped."""
        (translation,) = translations
        return escape(translation)


@dataclass(frozen=True, slots=True)
class Markup:
    """A document cut where its texts are."""

    parts: tuple[Kept | Prose | TaggedSentence, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """Texts to translate, in order."""
        return tuple(text for part in self.parts for text in part.texts)

    def with_texts(self, translations: Sequence[str]) -> str:
        """The document with other texts, in the same order."""
        remaining = iter(translations)
        return "".join(part.with_texts(list(islice(remaining, len(part.texts)))) for part in self.parts)


def parse_markup(
    source: str,
    ignored_tags: Collection[str] = (),
    *,
    inline_tags: Collection[str] = INLINE,
    language: str = "en",
    cuts: Cuts = "sentences",
) -> Markup:
    """Find the texts to translate.

    Left alone: what is in `UNTRANSLATED` elements, in `ignored_tags`, under translate="no" or the class notranslate
    (translate="yes" further in counts again), comments, attributes, and text without language.

    Args:
        source: A document or a fragment.
        ignored_tags: Names of further elements to leave alone.
        inline_tags: Names of elements that do not end a sentence.
        language: Its code, to know a sentence's end by.
        cuts: What ends a sentence within an element.
    """
    inline = frozenset(tag.lower() for tag in inline_tags)
    parts: list[Kept | Prose | TaggedSentence] = []
    position = 0
    for passage in _passages(read_pieces(source, ignored_tags), inline):
        text, tags = _read(source, passage)
        if not has_language(text):
            continue
        parts.append(Kept(source[position : passage[0].begin]))
        parts += _sentences(text, tags, language, cuts) if tags else [Prose(text)]
        position = passage[-1].end
    return Markup((*parts, Kept(source[position:])))


def _passages(pieces: Sequence[Piece], inline: Collection[str]) -> list[list[Piece]]:
    """Texts to translate, each with all inline tags and texts that it goes on with; tags alone are none."""

    def belongs(piece: Piece) -> bool:
        if piece.kind == "text":
            return piece.is_translated
        return piece.kind != "other" and piece.name in inline

    groups = [list(group) for is_passage, group in groupby(pieces, belongs) if is_passage]
    return [group for group in groups if any(piece.kind == "text" for piece in group)]


class _NamedTag(NamedTuple):
    """An inline tag and what it is called."""

    tag: Tag
    name: str
    is_opening: bool


def _read(source: str, passage: Sequence[Piece]) -> tuple[str, list[_NamedTag]]:
    """The text of a passage, character references resolved, and the tags in it."""
    text = ""
    tags: list[_NamedTag] = []
    for piece in passage:
        raw = source[piece.begin : piece.end]
        if piece.kind == "text":
            text += html.unescape(raw)
        else:
            tags.append(_NamedTag(Tag(len(text), raw), piece.name, piece.kind == "start"))
    return text, tags


def _sentences(
    text: str, tags: Sequence[_NamedTag], language: str, cuts: Cuts
) -> Iterator[Kept | Prose | TaggedSentence]:
    """A passage with inline tags, sentence by sentence, and what is between them."""
    pairs = _pairs(tags)
    opened_at = [tags[first].tag.at for first, _ in pairs]
    next_tag, position, cursor = 0, 0, 0
    for segment in split_sentences(text, language, cuts):
        begin = cursor + len(segment.before)
        end = begin + len(segment.sentence)
        cursor = end + len(segment.after)
        if begin == end:
            continue
        candidates = pairs[bisect_left(opened_at, begin) : bisect_left(opened_at, end)]
        own = [pair for pair in candidates if _is_within(tags, pair, begin, end)]
        numbers = {number for pair in own for number in pair}
        first = next_tag
        while first < len(tags) and tags[first].tag.at <= begin and first not in numbers:
            first += 1
        last = first
        while last < len(tags) and (tags[last].tag.at < end or last in numbers):
            last += 1
        yield Kept(_between(text[position:begin], position, tags[next_tag:first]))
        is_paired = len(own) <= MAX_ELEMENTS and numbers == set(range(first, last))
        yield _sentence(text[begin:end], begin, tags, range(first, last), own if is_paired else None)
        next_tag, position = last, end
    yield Kept(_between(text[position:], position, tags[next_tag:]))


def _is_within(tags: Sequence[_NamedTag], pair: tuple[int, int], begin: int, end: int) -> bool:
    """Whether there are words between these tags, all of them in the sentence, and not the whole of it."""
    first, last = tags[pair[0]].tag.at, tags[pair[1]].tag.at
    return begin <= first < last <= end and (first, last) != (begin, end)


def _pairs(tags: Sequence[_NamedTag]) -> list[tuple[int, int]]:
    """Numbers of the tags that belong together, by where they open; tags that cross or have no other belong to none."""
    pairs: list[tuple[int, int]] = []
    open_tags: list[int] = []
    for number, (_, name, is_opening) in enumerate(tags):
        if is_opening:
            open_tags.append(number)
        elif open_tags and tags[open_tags[-1]].name == name:
            pairs.append((open_tags.pop(), number))
    return sorted(pairs)


def _sentence(
    sentence: str,
    begin: int,
    tags: Sequence[_NamedTag],
    numbers: Sequence[int],
    pairs: Sequence[tuple[int, int]] | None,
) -> Prose | TaggedSentence:
    """A sentence that begins there in its passage, with these of the tags."""
    if not numbers:
        return Prose(sentence)
    moved = {number: Tag(tags[number].tag.at - begin, tags[number].tag.raw) for number in numbers}
    elements = None
    if pairs is not None:
        elements = tuple(
            Element(moved[first].at, moved[last].at, moved[first].raw, moved[last].raw)
            for first, last in pairs
        )
    return TaggedSentence(sentence, tuple(moved.values()), elements)


def _between(text: str, begin: int, tags: Sequence[_NamedTag]) -> str:
    """What is between two sentences: white space, and tags where they stand in it."""
    parts, position = [], 0
    for tag, _, _ in tags:
        at = tag.at - begin
        parts += [escape(text[position:at]), tag.raw]
        position = at
    return "".join((*parts, escape(text[position:])))
