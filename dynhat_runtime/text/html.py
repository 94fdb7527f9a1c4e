"""HTML, or XML, as the texts in it and the markup around them, which comes back byte for byte.

Markup is read by the standard library's tokenizer and copied, never written anew: whoever sent `<BR>` or single
quotes gets them back. Malformed markup is not repaired: it comes back as it was.
"""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import NamedTuple

from dynhat_runtime.text.sentences import has_language

UNTRANSLATED = frozenset(
    ("code", "pre", "script", "style", "kbd", "samp", "var", "textarea", "template", "svg", "math", "noembed")
)
"""Elements whose text is no prose."""

VOID = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr")
)
"""Elements that have no end tag."""

ENDED_BY = {
    "li": ("li",),
    "dt": ("dt", "dd"),
    "dd": ("dt", "dd"),
    "option": ("option",),
    "td": ("td", "th", "tr"),
    "th": ("td", "th", "tr"),
    "tr": ("tr",),
    "p": (
        *("p", "div", "ul", "ol", "dl", "table", "pre", "blockquote", "section", "article"),
        *("header", "footer", "form", "hr", "h1", "h2", "h3", "h4", "h5", "h6"),
    ),
}
"""Elements that end where one of these begins, without an end tag."""


@dataclass(frozen=True, slots=True)
class Markup:
    """A document cut where its texts are."""

    kept: tuple[str, ...]
    """What is around the texts, one more than there are texts."""
    texts: tuple[str, ...]
    """Texts to translate, character references resolved."""

    def with_texts(self, translations: Sequence[str]) -> str:
        """The document with other texts, in the same order. What would be read as markup in them is escaped."""
        parts = [self.kept[0]]
        for translation, after in zip(translations, self.kept[1:], strict=True):
            parts += [_escape(translation), after]
        return "".join(parts)


def parse_markup(source: str, ignored_tags: Collection[str] = ()) -> Markup:
    """Find the texts to translate.

    Left alone: what is in `UNTRANSLATED` elements, in `ignored_tags`, under translate="no" or the class notranslate
    (translate="yes" further in counts again), comments, attributes, and text without language.

    Args:
        source: A document or a fragment.
        ignored_tags: Names of further elements to leave alone.
    """
    tokenizer = _Tokenizer(frozenset(tag.lower() for tag in ignored_tags))
    tokenizer.read(source)
    kept: list[str] = []
    texts: list[str] = []
    position = 0
    for run in _runs(source, tokenizer.tokens):
        text = html.unescape(source[run.begin : run.end])
        if run.is_translated and has_language(text):
            kept.append(source[position : run.begin])
            texts.append(text)
            position = run.end
    return Markup((*kept, source[position:]), tuple(texts))


class _Token(NamedTuple):
    """A stretch of text: where it begins, by line and column from 0, and how it is written."""

    line: int
    column: int
    raw: str
    is_translated: bool


class _Run(NamedTuple):
    """A stretch of text without markup in it."""

    begin: int
    end: int
    is_translated: bool


class _Tokenizer(HTMLParser):
    """Notes where there is text, and whether it is text to translate. Everything else is markup."""

    def __init__(self, ignored_tags: frozenset[str]) -> None:
        super().__init__(convert_charrefs=False)
        self.tokens: list[_Token] = []
        self._left_alone = UNTRANSLATED | ignored_tags
        self._open: list[tuple[str, bool]] = []
        """Elements around, and whether text in them is translated."""

    def read(self, source: str) -> None:
        """Note all of `source`. Behind its last ">" no tag can end: there is only text, and an unfinished tag is some.

        That is not for speed alone: looking for the end of a tag that has none takes the tokenizer quadratic time.
        """
        end = source.rfind(">") + 1
        self.feed(source[:end])
        self.close()
        line, column = source.count("\n", 0, end), end - (source.rfind("\n", 0, end) + 1)
        self.tokens.append(_Token(line, column, source[end:], self._is_translated))

    @property
    def _is_translated(self) -> bool:
        return self._open[-1][1] if self._open else True

    def _note(self, raw: str) -> None:
        line, column = self.getpos()
        self.tokens.append(_Token(line - 1, column, raw, self._is_translated))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        while self._open and tag in ENDED_BY.get(self._open[-1][0], ()):
            self._open.pop()
        if tag not in VOID:
            self._open.append((tag, self._translates(tag, dict(attrs))))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element without content."""

    def handle_endtag(self, tag: str) -> None:
        """An element ends, and all that were left open in it; one that never began ends nothing."""
        for depth in range(len(self._open) - 1, -1, -1):
            if self._open[depth][0] == tag:
                del self._open[depth:]
                return

    def handle_data(self, data: str) -> None:
        """Text."""
        self._note(data)

    def handle_entityref(self, name: str) -> None:
        """A character in text."""
        self._note(f"&{name}")

    def handle_charref(self, name: str) -> None:
        """A character in text."""
        self._note(f"&#{name}")

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        """Where a section such as CDATA ends; the library raises AssertionError at those it does not know."""
        closing = "]]>" if self.rawdata.startswith("<![CDATA[", i) else ">"
        end = self.rawdata.find(closing, i + 3)
        if end < 0:
            return -1
        return end + len(closing)

    def _translates(self, tag: str, attributes: dict[str, str | None]) -> bool:
        """Whether text in this element is translated."""
        if tag in self._left_alone or "notranslate" in (attributes.get("class") or "").split():
            return False
        if "translate" in attributes:
            # As HTML has it: an empty value means yes, and one it does not know means nothing.
            asked = (attributes["translate"] or "yes").strip().lower()
            if asked in ("yes", "no"):
                return asked == "yes"
        return self._is_translated


def _line_starts(source: str) -> list[int]:
    """Where each line begins, counted as the tokenizer counts."""
    starts = [0]
    while (end := source.find("\n", starts[-1])) >= 0:
        starts.append(end + 1)
    return starts


def _runs(source: str, tokens: Sequence[_Token]) -> list[_Run]:
    """Neighbouring text tokens together: a sentence must not be cut at an ampersand."""
    line_starts = _line_starts(source)
    runs: list[_Run] = []
    for token in tokens:
        begin = line_starts[token.line] + token.column
        end = begin + len(token.raw)
        if source[begin:end] != token.raw:
            continue  # the library read it otherwise than it is written: leave it alone
        if len(token.raw) > 1 and token.raw.startswith("&") and source.startswith(";", end):
            end += 1
        if runs and runs[-1].end == begin and runs[-1].is_translated == token.is_translated:
            runs[-1] = runs[-1]._replace(end=end)
        else:
            runs.append(_Run(begin, end, token.is_translated))
    return runs


def _escape(text: str) -> str:
    """Text as HTML writes it out."""
    return html.escape(text, quote=False).replace("\u00a0", "&nbsp;")
