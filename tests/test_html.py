"""HTML: its texts are found, its markup comes back byte for byte, and nothing that is said in it becomes markup."""

from __future__ import annotations

import html
import xml.etree.ElementTree as ET
from xml.sax.saxutils import escape, quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynhat_runtime.text.html import Kept, parse_markup
from dynhat_runtime.text.inline_tags import TaggedSentence
from dynhat_runtime.text.markup_pieces import UNTRANSLATED
from tests.property_settings import PROPERTY

NASTY = ('<script>alert("x")</script>', "a < b & c > d", "</p>", "&amp;", "Wörter", "")


def shouted(source: str, ignored_tags: tuple[str, ...] = ()) -> str:
    """The document with its texts in upper case."""
    markup = parse_markup(source, ignored_tags)
    return markup.with_texts([text.upper() for text in markup.texts])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Hello", "HELLO"),
        ("<p>Hello <b>big <i>bad</i></b> world.</p>", "<p>HELLO <b>BIG <i>BAD</i></b> WORLD.</p>"),
        ("<P CLASS='x'>a<BR/>b<br>c</P >", "<P CLASS='x'>A<BR/>B<br>C</P >"),
        ('<a href="/a?b&c" title="no">yes</a>', '<a href="/a?b&c" title="no">YES</a>'),
        ("fish &amp; chips &lt; 3&nbsp;pounds", "FISH &amp; CHIPS &lt; 3&nbsp;POUNDS"),
        ("&#102;&#x69;sh", "FISH"),
        ("<!DOCTYPE html>\n<!-- no --><p>yes</p>\n", "<!DOCTYPE html>\n<!-- no --><p>YES</p>\n"),
        ("<img alt='no'><hr>yes", "<img alt='no'><hr>YES"),
        ("  <p>\n\tyes\u00a0</p>  ", "  <p>\n\tYES&nbsp;</p>  "),
        ("<p>1 &gt; 0</p>😀", "<p>1 &gt; 0</p>😀"),
        ("1 < 2 and <3 yes", "1 &lt; 2 AND &lt;3 YES"),
        ("<title>yes</title>", "<title>YES</title>"),
        ("yes</>yes</ b>", "YES</>YES</ b>"),
        ("yes &AMP yes&ampyes &copy;", "YES &amp; YES&amp;YES ©"),
        ("<?xml version='1.0'?><a>yes</a>", "<?xml version='1.0'?><a>YES</a>"),
        ("", ""),
    ],
)
def test_texts_are_found_and_markup_kept(source: str, expected: str) -> None:
    """Text between tags is translated; tags, comments, attributes and white space stay as they were written."""
    assert shouted(source) == expected


@pytest.mark.parametrize("tag", sorted(UNTRANSLATED))
def test_no_prose(tag: str) -> None:
    """Code and its like are left alone, with what is in them; what follows is translated."""
    inside = "no" if tag in ("script", "style") else "no <b>no</b>"
    assert shouted(f"<{tag}>{inside}</{tag}> yes") == f"<{tag}>{inside}</{tag}> YES"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('<p translate="no">a <b>b</b></p>c', '<p translate="no">a <b>b</b></p>C'),
        ("<p translate=no>a <i translate=yes>b</i> c</p>", "<p translate=no>a <i translate=yes>B</i> c</p>"),
        ("<p translate=NO>a</p>", "<p translate=NO>a</p>"),
        ('<p translate="">a</p>', '<p translate="">A</p>'),
        ("<p translate=maybe>a</p>", "<p translate=maybe>A</p>"),
        ('<b class="x notranslate">a</b>b', '<b class="x notranslate">a</b>B'),
        ("<p translate=no>a<p>b", "<p translate=no>a<p>B"),
        ("<ul><li translate=no>a<li>b</ul>", "<ul><li translate=no>a<li>B</ul>"),
        ("<b translate=no>a</i>b</b>c", "<b translate=no>a</i>b</b>C"),
        ("<code>a", "<code>a"),
        ("<img translate=no>a", "<img translate=no>A"),
    ],
)
def test_left_alone_where_asked(source: str, expected: str) -> None:
    """translate="no" holds for all that is inside, until translate="yes"; also where end tags are left out."""
    assert shouted(source) == expected


def test_further_tags_to_ignore() -> None:
    """Tags can be named whose text is left alone, in any case."""
    assert shouted('a <x id="1">%s</x> <X>b</X> c', ("X",)) == 'A <x id="1">%s</x> <X>b</X> C'


@pytest.mark.parametrize(
    "source",
    [
        "<![ a b",
        "<![CDATA[a > b]]>",
        "<!a",
        "<!--a",
        "a <b",
        "a <b c='",
        "</",
        "<",
        "<a <b>c",
        "&",
        "&#",
        "&#x;",
        "<?a",
    ],
)
def test_malformed_markup_comes_back(source: str) -> None:
    """Whatever it is, nothing of it is lost, and it is no error."""
    markup = parse_markup(source)
    together = "".join(
        part.raw if isinstance(part, Kept) else part.with_texts(part.texts) for part in markup.parts
    )
    assert html.unescape(together) == html.unescape(source)


def without_space(source: str) -> str:
    """All that is written, however it is."""
    return "".join(html.unescape(source).split())


@PROPERTY
@given(st.text(alphabet="<>/!-[]?&;#'\" =\nabp", max_size=40))
def test_any_text_is_read(source: str) -> None:
    """Soup of markup signs is read without an error, and all that is no translated text comes back in order."""
    markup = parse_markup(source)
    kept = [part.raw for part in markup.parts if isinstance(part, Kept)]
    assert source.startswith(kept[0])
    assert source.endswith(kept[-1])
    assert without_space(markup.with_texts(markup.texts)) == without_space(source)  # it may move over a tag


TEXTS = st.sampled_from(("Hello", "a & b", "1 < 2 is so", " ", "\n", "42", "Grüße 🙂", "{name} %s"))
TAGS = st.sampled_from(("p", "b", "i", "span", "div", "a", "code", "pre", "x"))
ATTRIBUTES = st.dictionaries(
    st.sampled_from(("id", "title", "translate")), st.sampled_from(("no", "yes", "a<b&'\""))
)


def _element(tag: str, attributes: dict[str, str], children: list[str]) -> str:
    said = "".join(f" {name}={quoteattr(value)}" for name, value in attributes.items())
    return f"<{tag}{said}>{''.join(children)}</{tag}>"


WELL_FORMED = st.recursive(
    TEXTS.map(escape),
    lambda inner: st.builds(_element, TAGS, ATTRIBUTES, st.lists(inner, max_size=4)),
    max_leaves=12,
).map(lambda inner: f"<root>{inner}</root>")


def structure(source: str) -> list[tuple[str, dict[str, str]]]:
    """Tags and attributes in document order, by another parser, which refuses what is not well-formed."""
    return [(element.tag, element.attrib) for element in ET.fromstring(source).iter()]


@PROPERTY
@given(WELL_FORMED, st.data())
def test_the_structure_stays(source: str, data: st.DataObject) -> None:
    """Whatever the translations are, well-formed markup stays well-formed, with the same tags and attributes."""
    markup = parse_markup(source)
    translations = [data.draw(st.sampled_from(NASTY)) for _ in markup.texts]
    answer = markup.with_texts(translations).replace("&nbsp;", "&#160;")
    assert structure(answer) == structure(source)
    said = [text for text in ET.fromstring(answer).itertext() if text.strip()]
    is_all_used = not any(isinstance(part, TaggedSentence) for part in markup.parts)
    assert not is_all_used or all(
        any(translation in text for text in said) for translation in translations if translation.strip()
    )
