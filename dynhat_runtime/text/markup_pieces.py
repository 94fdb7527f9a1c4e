"""Markup as pieces: the stretches of text in it, whether each is to be translated, and the tags between them.

The standard library's tokenizer reads; nothing is written, and nothing is judged but what is prose.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from html.parser import HTMLParser
from typing import Literal, NamedTuple

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


Kind = Literal["text", "start", "end", "other"]


class _Token(NamedTuple):
    """Text or a tag: where it begins, by line and column from 0, and how it is written, or what it is called."""

    line: int
    column: int
    raw: str
    kind: Kind
    is_translated: bool


class Piece(NamedTuple):
    """A stretch of text without markup in it, or a tag."""

    begin: int
    end: int
    kind: Kind
    name: str
    is_translated: bool


def read_pieces(source: str, ignored_tags: Collection[str] = ()) -> list[Piece]:
    """All pieces of a document or fragment, in order.

    Args:
        source: The document.
        ignored_tags: Names of elements, beside those in `UNTRANSLATED`, whose text is not to be translated.
    """
    tokenizer = _Tokenizer(frozenset(tag.lower() for tag in ignored_tags))
    tokenizer.read(source)
    return _pieces(source, tokenizer.tokens)


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
        self.tokens.append(_Token(line, column, source[end:], "text", self._is_translated))

    @property
    def _is_translated(self) -> bool:
        return self._open[-1][1] if self._open else True

    def _note(self, raw: str, kind: Kind = "text") -> None:
        line, column = self.getpos()
        self.tokens.append(_Token(line - 1, column, raw, kind, self._is_translated))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        while self._open and tag in ENDED_BY.get(self._open[-1][0], ()):
            self._open.pop()
        self._note(tag, "other" if tag in VOID else "start")
        if tag not in VOID:
            self._open.append((tag, self._translates(tag, dict(attrs))))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element without content."""
        self._note(tag, "other")

    def handle_endtag(self, tag: str) -> None:
        """An element ends, and all that were left open in it; one that never began ends nothing."""
        self._note(tag, "end")
        for depth in range(len(self._open) - 1, -1, -1):
            if self._open[depth][0] == tag:
                del self._open[depth:]
                return

    def handle_data(self, data: str) -> None:
        """Text."""
        self._note(data)

    def handle_comment(self, data: str) -> None:
        """A comment."""
        self._note("", "other")

    def handle_decl(self, decl: str) -> None:
        """A declaration."""
        self._note("", "other")

    def handle_pi(self, data: str) -> None:
        """A processing instruction."""
        self._note("", "other")

    def unknown_decl(self, data: str) -> None:
        """A section such as CDATA."""
        self._note("", "other")

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


def _pieces(source: str, tokens: Sequence[_Token]) -> list[Piece]:
    """Tokens by where they are in the source; neighbouring texts as one: a sentence is not cut at an ampersand."""
    line_starts = _line_starts(source)
    begins = [line_starts[token.line] + token.column for token in tokens]
    pieces: list[Piece] = []
    for token, begin, next_begin in zip(tokens, begins, [*begins[1:], len(source)], strict=True):
        if token.kind != "text":
            pieces.append(Piece(begin, next_begin, token.kind, token.raw, token.is_translated))
            continue
        end = begin + len(token.raw)
        if source[begin:end] != token.raw:
            # The library read it otherwise than it is written: leave it alone.
            pieces.append(Piece(begin, next_begin, "other", "", is_translated=False))
            continue
        if next_begin > end and token.raw[:1] == "&" and len(token.raw) > 1 and source.startswith(";", end):
            end += 1
        last = pieces[-1] if pieces else None
        if last and last.end < begin:
            # The library says nothing of what is between, such as "</>".
            pieces.append(Piece(last.end, begin, "other", "", is_translated=False))
        if last and last.kind == "text" and (last.end, last.is_translated) == (begin, token.is_translated):
            pieces[-1] = last._replace(end=end)
        else:
            pieces.append(Piece(begin, end, "text", "", token.is_translated))
    return pieces
