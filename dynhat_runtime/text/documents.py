"""A text as its sender means it, plain or with markup: what of it is translated, and how it becomes whole again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

from dynhat_runtime.text.html import INLINE, parse_markup
from dynhat_runtime.text.sentences import Cuts

TextFormat = Literal["text", "html"]


class Document(Protocol):
    """What a client sent as one text."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Its texts to translate, in order."""

    def with_texts(self, translations: Sequence[str]) -> str:
        """The document with other texts, as many and in the same order."""


@dataclass(frozen=True, slots=True)
class PlainText:
    """A text without markup: all of it is translated."""

    text: str

    @property
    def texts(self) -> tuple[str, ...]:
        """The text itself."""
        return (self.text,)

    def with_texts(self, translations: Sequence[str]) -> str:
        """The one translation."""
        (translation,) = translations
        return translation


@dataclass(frozen=True, slots=True)
class TagNames:
    """Names of elements that a client has its own mind about."""

    ignored: tuple[str, ...] = ()
    """Left alone with what is in them."""
    inline: tuple[str, ...] = ()
    """They stand within a sentence, as HTML's inline elements do by themselves."""
    splitting: tuple[str, ...] = ()
    """They end a sentence, as all others do by themselves."""


NO_TAG_NAMES = TagNames()


def usual_cuts(text_format: TextFormat) -> Cuts:
    """What ends a sentence in this format: in HTML a line break is white space like any other."""
    return "lines" if text_format == "text" else "sentences"


def parse_document(
    text: str,
    text_format: TextFormat,
    language: str = "en",
    names: TagNames = NO_TAG_NAMES,
    cuts: Cuts = "sentences",
) -> Document:
    """Read a text of this language in its format; see `parse_markup` for what is left alone, and for `cuts`."""
    if text_format == "text":
        return PlainText(text)
    inline = (INLINE | lowered(names.inline)) - lowered(names.splitting)
    return parse_markup(text, names.ignored, inline_tags=inline, language=language, cuts=cuts)


def lowered(names: Collection[str]) -> frozenset[str]:
    """Names as HTML compares them."""
    return frozenset(name.lower() for name in names)


def put_together(documents: Sequence[Document], translations: Sequence[str]) -> list[str]:
    """Each document with its translations, which stand in one sequence in the order of the documents' texts."""
    remaining: Iterator[str] = iter(translations)
    return [document.with_texts(list(islice(remaining, len(document.texts)))) for document in documents]
