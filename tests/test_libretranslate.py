"""The LibreTranslate facade against a fake engine that shouts: formats, languages, alternatives, query fields."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient

from dynhat_runtime.service.app import Terms, create_app
from dynhat_runtime.service.door import Door
from dynhat_runtime.service.keys import KeyRing
from dynhat_runtime.service.limits import RequestLimits
from tests.service_fakes import FakeEngine, ready

KEY = "a key that is long enough"
ENGLISH, GERMAN = "Where is the station?", "Wo ist der Bahnhof?"


def client_of(engine: FakeEngine, keys: KeyRing | None = None) -> TestClient:
    """A client of a ready daemon."""
    return TestClient(create_app(ready(engine), RequestLimits(), terms=Terms(door=Door(keys))))


@pytest.fixture
def client(engine: FakeEngine) -> TestClient:
    """A client of a daemon open to all."""
    return client_of(engine)


def ask(client: TestClient, q: Any, **more: Any) -> Any:
    """The JSON answer of POST /translate."""
    response = client.post("/translate", json={"q": q, "source": "en", "target": "de", **more})
    assert response.status_code == 200, response.text
    return response.json()


def test_html(client: TestClient, engine: FakeEngine) -> None:
    """With format html only what is between tags is translated, all of a batch's texts in one request."""
    answer = ask(client, ["<p>a <b>b</b> &amp; c</p>", "<code>x</code>", "d"], format="html")
    assert answer == {"translatedText": ["<p>A <b>B</b> &amp; C</p>", "<code>x</code>", "D"]}
    assert engine.submitted == [["a", "b", "& c", "a b & c", "d"]]


def test_where_sentences_end(client: TestClient, engine: FakeEngine) -> None:
    """A line break ends a sentence in a text; in HTML it is white space like any other."""
    ask(client, "a\nb")
    ask(client, "<p>a\nb</p>", format="html")
    assert [asked["cuts"] for asked in engine.asked] == ["lines", "sentences"]


def test_text_is_no_html(client: TestClient) -> None:
    """Without a format, tags are text like any other."""
    assert ask(client, "<b>a</b>") == {"translatedText": "<B>A</B>"}


def test_auto_translates_the_source_language(client: TestClient) -> None:
    """Source auto names the language found, with its confidence in percent."""
    answer = ask(client, ENGLISH, source="auto")
    assert answer["translatedText"] == ENGLISH.upper()
    assert answer["detectedLanguage"]["language"] == "en"
    assert 90 < answer["detectedLanguage"]["confidence"] <= 100


def test_auto_echoes_the_target_language(client: TestClient, engine: FakeEngine) -> None:
    """A text that is in the target language already is answered as it came, and costs the engine nothing."""
    answer = ask(client, [GERMAN, ENGLISH, f"<p>{GERMAN}</p>"], source="auto", format="html")
    assert answer["translatedText"] == [GERMAN, ENGLISH.upper(), f"<p>{GERMAN}</p>"]
    assert [found["language"] for found in answer["detectedLanguage"]] == ["de", "en", "de"]
    assert engine.submitted == [[ENGLISH]]


def test_auto_of_what_says_nothing(client: TestClient) -> None:
    """An emoji is in the source language with confidence 0, as LibreTranslate answers it."""
    assert ask(client, "🙂", source="auto")["detectedLanguage"] == {"confidence": 0.0, "language": "en"}


def test_a_named_source_is_not_doubted(client: TestClient) -> None:
    """Where the source is named, its text is translated, whatever it looks like."""
    assert ask(client, GERMAN) == {"translatedText": GERMAN.upper()}


def test_alternatives(client: TestClient) -> None:
    """As many others as asked for, in the shape of the question; none for HTML."""
    assert ask(client, "a", alternatives=2)["alternatives"] == ["A (1)", "A (2)"]
    assert ask(client, ["a", ""], alternatives=1)["alternatives"] == [["A (1)"], []]
    assert ask(client, ["<b>a</b>"], alternatives=1, format="html")["alternatives"] == [[]]
    assert "alternatives" not in ask(client, "a", alternatives=0)


def test_fields_in_the_query(client: TestClient) -> None:
    """Fields may stand in the query, beside a body or instead of one; the body's win."""
    assert client.post("/translate?q=a&q=b&source=en&target=de").json() == {"translatedText": ["A", "B"]}
    answer = client.post("/translate?source=en&target=de&q=a", data={"q": "c", "alternatives": "1"})
    assert answer.json() == {"translatedText": "C", "alternatives": ["C (1)"]}


@pytest.mark.parametrize("query", ["q=%ff&source=en&target=de", "&".join(["q=a"] * 300)])
def test_a_query_that_cannot_be(client: TestClient, query: str) -> None:
    """A query that is not UTF-8, or has too many fields, is 400 in one sentence."""
    response = client.post(f"/translate?{query}")
    assert response.status_code == 400
    assert list(response.json()) == ["error"]


def test_detect(client: TestClient) -> None:
    """Both languages, the likelier first; of JSON or a form."""
    for answer in (client.post("/detect", json={"q": GERMAN}), client.post("/detect", data={"q": GERMAN})):
        assert answer.status_code == 200
        assert [found["language"] for found in answer.json()] == ["de", "en"]
        assert sum(found["confidence"] for found in answer.json()) == pytest.approx(100)


def test_detect_what_says_nothing(client: TestClient) -> None:
    """Nothing to go by is the source language at 0."""
    assert client.post("/detect", json={"q": "42"}).json() == [{"confidence": 0.0, "language": "en"}]


@pytest.mark.parametrize("body", [{}, {"q": ["a"]}, {"q": 3}])
def test_bad_detections(client: TestClient, body: dict[str, Any]) -> None:
    """What is no text is 400, and names q."""
    response = client.post("/detect", json=body)
    assert response.status_code == 400
    assert "q " in response.json()["error"]


def test_frontend_settings(client: TestClient) -> None:
    """A page learns the limits, and what is translated into what."""
    answer = client.get("/frontend/settings").json()
    assert answer["charLimit"] == RequestLimits().char_limit
    assert answer["language"] == {
        "source": {"code": "en", "name": "English"},
        "target": {"code": "de", "name": "German"},
    }
    assert (answer["apiKeys"], answer["keyRequired"], answer["supportedFilesFormat"]) == (False, False, [])


def test_keys(engine: FakeEngine) -> None:
    """Where keys are asked for, detection and translation want one: 400 without, 403 with another; settings say so."""
    client = client_of(engine, KeyRing.of({"keys": {"kitchen": {"key": KEY}}}, "test"))
    body = {"q": "a", "source": "en", "target": "de"}
    for path in ("/translate", "/detect"):
        assert client.post(path, json=body).status_code == 400
        assert client.post(path, json={**body, "api_key": "another"}).status_code == 403
        assert client.post(path, json={**body, "api_key": KEY}).status_code == 200
    assert client.get("/frontend/settings").json()["keyRequired"] is True
