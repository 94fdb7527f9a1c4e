"""The DeepL facade against a fake engine that shouts and a control loop that obeys."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from fastapi.testclient import TestClient

from dynhat_runtime.service.app import Terms, create_app
from dynhat_runtime.service.door import Door
from dynhat_runtime.service.keys import KeyRing
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.limits import RequestLimits
from tests.service_fakes import FakeEngine, make_table, overloaded, ready

KEY = "a key that is long enough"
HELLO = {"text": ["Hello."], "source_lang": "EN", "target_lang": "DE"}


def client_of(engine: FakeEngine, keys: KeyRing | None = None, char_limit: int = 5000) -> TestClient:
    """A client of a ready daemon."""
    limits = RequestLimits(char_limit=char_limit)
    return TestClient(create_app(ready(engine), limits, terms=Terms(door=Door(keys))))


@pytest.fixture
def client(engine: FakeEngine) -> TestClient:
    """A client of a daemon open to all."""
    return client_of(engine)


def ask(client: TestClient, **changes: Any) -> Any:
    """POST /v2/translate with HELLO changed; a change to ... removes the field."""
    fields = {name: value for name, value in {**HELLO, **changes}.items() if value is not ...}
    return client.post("/v2/translate", json=fields)


def check_refusal(response: Any, status: int, word: str = "") -> None:
    """`{"message": str}` and nothing else, with a trace id."""
    assert response.status_code == status, response.text
    assert list(response.json()) == ["message"]
    assert word in response.json()["message"]
    assert response.headers["X-Trace-ID"]


# --- POST /v2/translate ---


def test_texts(client: TestClient, engine: FakeEngine) -> None:
    """One translation per text, in order, of one request to the engine."""
    answer = ask(client, text=["a", "", "b"])
    translations = answer.json()["translations"]
    assert [each["text"] for each in translations] == ["A", "", "B"]
    assert {each["detected_source_language"] for each in translations} == {"EN"}
    assert engine.submitted == [["a", "b"]]
    assert answer.headers["X-Trace-ID"]
    assert answer.headers["X-Operating-Point"] == "p1"


def test_a_form(client: TestClient) -> None:
    """A form with repeated texts is read like JSON."""
    answer = client.post("/v2/translate", data={"text": ["a", "b"], "target_lang": "DE"})
    assert [each["text"] for each in answer.json()["translations"]] == ["A", "B"]


@pytest.mark.parametrize("target", ["DE", "de", "DE-AT", "de-CH"])
def test_regions_are_folded(client: TestClient, target: str) -> None:
    """A region of the target language is the target language."""
    assert ask(client, target_lang=target).status_code == 200


def test_regional_targets() -> None:
    """English is written under its regions' codes, which alone DeepL's clients send, and is accepted under its own."""
    engine = FakeEngine()
    engine.src_lang, engine.tgt_lang = "de", "en"  # type: ignore[misc]
    client = client_of(engine)
    codes = [each["language"] for each in client.get("/v2/languages?type=target").json()]
    assert codes == ["EN-GB", "EN-US"]
    for code in (*codes, "EN"):
        assert ask(client, source_lang="DE", target_lang=code).status_code == 200


def test_the_source_is_detected(client: TestClient, engine: FakeEngine) -> None:
    """Without a source language it is found; a text in the target language is echoed."""
    texts = ["Where is the station?", "Wo ist der Bahnhof?"]
    translations = ask(client, text=texts, source_lang=...).json()["translations"]
    assert [each["detected_source_language"] for each in translations] == ["EN", "DE"]
    assert [each["text"] for each in translations] == [texts[0].upper(), texts[1]]


@pytest.mark.parametrize("tag_handling", ["html", "xml"])
def test_tags(client: TestClient, tag_handling: str) -> None:
    """With tag handling, tags and what stands in ignored ones come back as they were."""
    answer = ask(
        client, text=['a <x id="1">b</x> <i>c</i>'], tag_handling=tag_handling, ignore_tags=["x"]
    ).json()
    assert answer["translations"][0]["text"] == 'A <x id="1">b</x> <I>C</I>'.replace("I>", "i>")
    form = {"text": "a <y>b</y>", "target_lang": "DE", "tag_handling": tag_handling, "ignore_tags": "x, y"}
    answer = client.post("/v2/translate", data=form).json()
    assert answer["translations"][0]["text"] == "A <y>b</y>"


def test_billed_characters(client: TestClient) -> None:
    """Characters are told where they are asked for, and counted as used either way."""
    assert "billed_characters" not in ask(client).json()["translations"][0]
    answer = ask(client, text=["Hello.", "🙂"], show_billed_characters=True).json()
    assert [each["billed_characters"] for each in answer["translations"]] == [6, 1]
    assert client.get("/v2/usage").json()["character_count"] == 13


def test_ignored_fields(client: TestClient) -> None:
    """What can do no harm is ignored."""
    more = {
        "context": "c",
        "formality": "prefer_less",
        "preserve_formatting": True,
        "outline_detection": False,
    }
    assert ask(client, **more, something_new=[1]).status_code == 200


@pytest.mark.parametrize(
    ("asked", "cuts"),
    [
        ({}, "lines"),
        ({"split_sentences": "1"}, "lines"),
        ({"split_sentences": 1}, "lines"),
        ({"split_sentences": "0"}, "none"),
        ({"split_sentences": "nonewlines"}, "sentences"),
        ({"tag_handling": "html"}, "sentences"),
        ({"tag_handling": "xml"}, "lines"),
        ({"tag_handling": "html", "split_sentences": "1"}, "lines"),
    ],
)
def test_where_sentences_end(
    client: TestClient, engine: FakeEngine, asked: dict[str, object], cuts: str
) -> None:
    """As DeepL has it: at line breaks, too, unless it is HTML or told otherwise."""
    assert ask(client, **asked).status_code == 200
    assert engine.asked[0]["cuts"] == cuts


@pytest.mark.parametrize(
    ("split_sentences", "sentences"),
    [
        ("0", {"One\ntwo. Three."}),
        ("1", {"One", "two.", "Three."}),
        ("nonewlines", {"One\ntwo.", "Three."}),
    ],
)
def test_where_sentences_end_among_tags(
    client: TestClient, engine: FakeEngine, split_sentences: str, sentences: set[str]
) -> None:
    """Likewise of a sentence with a tag in it, whose parts are asked for beside it."""
    ask(client, text=["One\n<b>two</b>. Three."], tag_handling="html", split_sentences=split_sentences)
    assert set(engine.submitted[0]) - {"One", "two", ". Three."} == sentences - {"One"}


# --- model types ---


@pytest.mark.parametrize(
    ("model_type", "point", "used"),
    [
        ("latency_optimized", "p1", "latency_optimized"),
        ("quality_optimized", "p3", "quality_optimized"),
        ("prefer_quality_optimized", "p3", "quality_optimized"),
        (None, "p2", None),
    ],
)
def test_model_types(
    client: TestClient, engine: FakeEngine, model_type: str | None, point: str, used: str | None
) -> None:
    """Latency is the fastest point, quality the best, none the active one; what was used is echoed where asked."""
    engine.active_point_id = "p2"
    answer = ask(client, **({"model_type": model_type} if model_type else {}))
    assert answer.headers["X-Operating-Point"] == point
    assert answer.json()["translations"][0].get("model_type_used") == used


def test_quality_that_cannot_be_had() -> None:
    """Where the best point does not meet the budget, quality is 503, and preferred quality the best that does."""
    client = client_of(FakeEngine(make_table(num_points=5)))
    check_refusal(ask(client, model_type="quality_optimized"), 503, "p5")
    answer = ask(client, model_type="prefer_quality_optimized")
    assert answer.headers["X-Operating-Point"] == "p3"
    assert answer.json()["translations"][0]["model_type_used"] == "latency_optimized"


def test_quality_of_nothing(client: TestClient) -> None:
    """Without a sentence to translate there is nothing that could take too long."""
    assert ask(client, text=[""], model_type="quality_optimized").status_code == 200


# --- refusals ---


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"text": ...}, "text is missing"),
        ({"text": [3]}, "text[0]"),
        ({"text": []}, "text"),
        ({"target_lang": ...}, "target_lang is missing"),
        ({"target_lang": "FR"}, "'target_lang' not supported"),
        ({"target_lang": 3}, "target_lang"),
        ({"source_lang": "DE"}, "'source_lang' not supported"),
        ({"source_lang": ["EN"]}, "source_lang"),
        ({"formality": "more"}, "formality"),
        ({"glossary_id": "g"}, "glossary_id"),
        ({"tag_handling": "sgml"}, "tag_handling"),
        ({"ignore_tags": [3]}, "ignore_tags"),
        ({"split_sentences": "2"}, "split_sentences"),
        ({"model_type": "best"}, "model_type"),
        ({"model_type": ["latency_optimized"]}, "model_type"),
        ({"show_billed_characters": "maybe"}, "show_billed_characters"),
        ({"show_billed_characters": [1]}, "show_billed_characters"),
    ],
)
def test_bad_fields(client: TestClient, changes: dict[str, Any], word: str) -> None:
    """A field that cannot be is 400, and named."""
    check_refusal(ask(client, **changes), 400, word)


def test_too_large(engine: FakeEngine) -> None:
    """Beyond 128 KiB, or the daemon's own limit of characters, it is 413."""
    client = client_of(engine, char_limit=1_000_000)
    check_refusal(ask(client, text=["x" * 128 * 1024]), 413, "131072 bytes")
    assert ask(client, text=["x" * 127 * 1024]).status_code == 200
    check_refusal(ask(client_of(engine, char_limit=10), text=["x" * 11]), 413, "10 characters")


def test_overload(client: TestClient, engine: FakeEngine) -> None:
    """A full queue is 429 at once, with the time to come back."""
    engine.failure = overloaded()
    response = ask(client)
    check_refusal(response, 429, "queue is full")
    assert response.headers["Retry-After"] == "3"


def test_other_errors(client: TestClient, engine: FakeEngine, caplog: pytest.LogCaptureFixture) -> None:
    """Paths, methods and surprises are answered in the same shape."""
    check_refusal(client.get("/v2/glossaries"), 404)
    check_refusal(client.get("/v2/translate"), 405)
    engine.failure = ZeroDivisionError("secret")
    with caplog.at_level(logging.CRITICAL):
        response = ask(client)
    check_refusal(response, 500, "internal error")


def test_not_ready() -> None:
    """While loading it is 503."""
    check_refusal(ask(TestClient(create_app(Lifecycle(), RequestLimits()))), 503, "loading")


def test_keys(engine: FakeEngine) -> None:
    """Without its key, every route is 403; with it, none is."""
    client = client_of(engine, KeyRing.of({"keys": {"kitchen": {"key": KEY}}}, "test"))
    for headers in ({}, {"Authorization": "DeepL-Auth-Key wrong"}):
        check_refusal(client.post("/v2/translate", json=HELLO, headers=headers), 403)
        check_refusal(client.get("/v2/languages", headers=headers), 403)
        check_refusal(client.get("/v2/usage", headers=headers), 403)
    headers = {"Authorization": f"DeepL-Auth-Key {KEY}"}
    assert client.post("/v2/translate", json=HELLO, headers=headers).status_code == 200
    assert client.get("/v2/usage", headers=headers).json()["character_count"] == 6


# --- languages ---


def test_languages(client: TestClient) -> None:
    """Source and target languages by DeepL's codes; `type` in the query, or where DeepL's own client puts it."""
    source = [{"language": "EN", "name": "English"}]
    target = [{"language": "DE", "name": "German", "supports_formality": False}]
    assert client.get("/v2/languages").json() == source
    assert client.get("/v2/languages?type=source").json() == source
    assert client.get("/v2/languages?type=target").json() == target
    assert client.request("GET", "/v2/languages", data={"type": "target"}).json() == target
    check_refusal(client.get("/v2/languages?type=both"), 400, "type")


def test_languages_by_resource(client: TestClient) -> None:
    """/v3/languages tells what each language can be; another resource is refused in DeepL's shape."""
    answer = client.get("/v3/languages", params={"resource": "translate_text"}).json()
    said = [(each["lang"], each["usable_as_source"], each["usable_as_target"]) for each in answer]
    assert said == [("en", True, False), ("de", False, True)]
    assert answer[0]["features"] == {
        "tag_handling": {"status": "stable"},
        "auto_detection": {"status": "stable"},
    }
    assert {each["status"] for each in answer} == {"stable"}
    check_refusal(client.get("/v3/languages", params={"resource": "voice"}), 400, "resource 'voice'")
    check_refusal(client.get("/v3/languages"), 400, "resource is missing")
    check_refusal(client.get("/v3/glossaries"), 404, "no such path")


def test_splitting_and_non_splitting_tags(client: TestClient, engine: FakeEngine) -> None:
    """Tags may be named that stand within a sentence, or that end one; HTML's inline tags stand within one."""
    text = "the <x>big</x> house"
    assert (
        ask(client, text=text, tag_handling="xml").json()["translations"][0]["text"] == "THE <x>BIG</x> HOUSE"
    )
    ask(client, text=text, tag_handling="xml", non_splitting_tags="y,X")
    ask(client, text=text.replace("x", "b"), tag_handling="html")
    ask(client, text=text.replace("x", "b"), tag_handling="html", splitting_tags=["B"])
    by_itself, as_a_whole = ["the ", "big", " house"], ["the", "big", "house", "the big house"]
    assert engine.submitted == [by_itself, as_a_whole, as_a_whole, by_itself]
