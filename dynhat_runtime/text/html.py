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
    for run in _runs(tokenizer.tokens, _line_starts(source), len(source)):
        text = html.unescape(source[run.begin : run.end])
        if run.is_translated and has_language(text):
            kept.append(source[position : run.begin])
            texts.append(text)
            position = run.end
    return Markup((*kept, source[position:]), tuple(texts))


class _Token(NamedTuple):
    """Where a stretch of the source begins, by line and column from 0, and what it is."""

    line: int
    column: int
    is_text: bool
    is_translated: bool


class _Run(NamedTuple):
    """A stretch of text without markup in it."""

    begin: int
    end: int
    is_translated: bool


class _Tokenizer(HTMLParser):
    """Notes where each token begins, and whether it is text to translate."""

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
        if end < len(source):
            self._append(source.count("\n", 0, end), end - (source.rfind("\n", 0, end) + 1), is_text=True)

    @property
    def _is_translated(self) -> bool:
        return self._open[-1][1] if self._open else True

    def _note(self, *, is_text: bool) -> None:
        line, column = self.getpos()
        self._append(line - 1, column, is_text=is_text)

    def _append(self, line: int, column: int, *, is_text: bool) -> None:
        self.tokens.append(_Token(line, column, is_text, self._is_translated))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        self._note(is_text=False)
        while self._open and tag in ENDED_BY.get(self._open[-1][0], ()):
            self._open.pop()
        if tag not in VOID:
            self._open.append((tag, self._translates(tag, dict(attrs))))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element without content."""
        self._note(is_text=False)

    def handle_endtag(self, tag: str) -> None:
        """An element ends, and all that were left open in it; one that never began ends nothing."""
        self._note(is_text=False)
        for depth in range(len(self._open) - 1, -1, -1):
            if self._open[depth][0] == tag:
                del self._open[depth:]
                return

    def handle_data(self, data: str) -> None:
        """Text."""
        self._note(is_text=True)

    def handle_entityref(self, name: str) -> None:
        """A character in text."""
        self._note(is_text=True)

    def handle_charref(self, name: str) -> None:
        """A character in text."""
        self._note(is_text=True)

    def handle_comment(self, data: str) -> None:
        """No text."""
        self._note(is_text=False)

    def handle_decl(self, decl: str) -> None:
        """No text."""
        self._note(is_text=False)

    def handle_pi(self, data: str) -> None:
        """No text."""
        self._note(is_text=False)

    def parse_marked_section(self, i: int, report: int = 1) -> int:
        """Where a section such as CDATA ends; the library raises AssertionError at those it does not know."""
        closing = "]]>" if self.rawdata.startswith("<![CDATA[", i) else ">"
        end = self.rawdata.find(closing, i + 3)
        if end < 0:
            return -1
        self.unknown_decl(self.rawdata[i + 3 : end])
        return end + len(closing)

    def unknown_decl(self, data: str) -> None:
        """CDATA and its like: no text."""
        self._note(is_text=False)

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


def _runs(tokens: Sequence[_Token], line_starts: Sequence[int], length: int) -> list[_Run]:
    """Neighbouring text tokens together: a sentence must not be cut at an ampersand."""
    begins = [line_starts[token.line] + token.column for token in tokens]
    runs: list[_Run] = []
    for token, begin, end in zip(tokens, begins, [*begins[1:], length], strict=True):
        if not token.is_text:
            continue
        if runs and runs[-1].end == begin and runs[-1].is_translated == token.is_translated:
            runs[-1] = runs[-1]._replace(end=end)
        else:
            runs.append(_Run(begin, end, token.is_translated))
    return runs


def _escape(text: str) -> str:
    """Text as HTML writes it out."""
    return html.escape(text, quote=False).replace("\u00a0", "&nbsp;")
