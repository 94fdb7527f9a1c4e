"""A text as its sender means it, plain or with markup: what of it is translated, and how it becomes whole again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

from dynhat_runtime.text.html import parse_markup

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
class Untouched:
    """A text of which nothing is translated, as it is in the wanted language already."""

    text: str

    @property
    def texts(self) -> tuple[str, ...]:
        """None."""
        return ()

    def with_texts(self, translations: Sequence[str]) -> str:
        """What came."""
        assert not translations
        return self.text


def parse_document(text: str, text_format: TextFormat, ignored_tags: Collection[str] = ()) -> Document:
    """Read a text in its format; see `parse_markup` for what is left alone."""
    return parse_markup(text, ignored_tags) if text_format == "html" else PlainText(text)


def put_together(documents: Sequence[Document], translations: Sequence[str]) -> list[str]:
    """Each document with its translations, which stand in one sequence in the order of the documents' texts."""
    remaining: Iterator[str] = iter(translations)
    return [document.with_texts(list(islice(remaining, len(document.texts)))) for document in documents]
