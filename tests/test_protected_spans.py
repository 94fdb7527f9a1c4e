"""What is found that has to come through translation untouched, and what is not taken for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynhat_runtime.text.protected_spans import protected_spans
from tests.property_settings import PROPERTY


def found(text: str) -> list[str]:
    """The protected stretches."""
    return [text[span.begin : span.end] for span in protected_spans(text)]


@pytest.mark.parametrize(
    "span",
    [
        *("%s", "%d", "%5.2f", "%1$s", "%(name)s", "%-10s", "%ld", "%@", "%%", "%name%"),
        *("{name}", "{0}", "{}", "{user.name}", "{count:,}", "{{ name }}", "{{user}}", "${home}", "%{who}"),
        *("&nbsp;", "&#8217;", "&#x2019;"),
        *("https://example.org/a?b=c&d=%20#e", "http://localhost:5000", "www.example.org", "ftp://x.org/f"),
        *(
            "https://en.wikipedia.org/wiki/Bank_(geography)",
            "a.b+c@mail.example.org",
            "@joe",
            "@joe@mast.org",
        ),
        *("🙂", "👩‍👩‍👧", "🇩🇪", "1️⃣", "→", "✓"),
    ],
)
@pytest.mark.parametrize("around", ["{}", "See {} now", "See {}.", "({})", "“{}”, then"])
def test_found(span: str, around: str) -> None:
    """Placeholders, addresses and symbols are found whole, and without the punctuation around them."""
    assert found(around.replace("{}", span)) == [span]


@pytest.mark.parametrize(
    "text",
    [
        "It is 100% sure, 50% off, 5 % of all.",
        "100 %ig und 5%iger Alkohol",
        "a { b } c",
        "fish & chips; 3 @ 4",
        "He said: (no) [way].",
        "naïve café – “quoted”, it's",
        "1,234.56",
        "",
    ],
)
def test_not_found(text: str) -> None:
    """Percentages, loose brackets and punctuation are language."""
    assert found(text) == []


ODD_TEXT = st.one_of(
    st.text(alphabet="ab1 %{}@.:/&;#$sd()🙂\n-_w\ufe0f\u20e3→", max_size=60), st.text(max_size=60)
)


@PROPERTY
@given(ODD_TEXT)
def test_the_quick_look_overlooks_nothing(text: str) -> None:
    """With a placeholder behind it, so that the whole pattern is tried, the same is found in a text."""
    assert protected_spans(text) == protected_spans(text + " {x}")[:-1]


@PROPERTY
@given(st.text(alphabet="ab1 %{}@.:/&;#$sd()🙂\n-_", max_size=60))
def test_spans_are_in_order_and_apart(text: str) -> None:
    """Spans are not empty, do not overlap, and come in the order of the text."""
    position = 0
    for span in protected_spans(text):
        assert position <= span.begin < span.end <= len(text)
        position = span.end
