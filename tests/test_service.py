"""The HTTP service against a fake engine and control loop: answers and refusals."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from dynhat_runtime.errors import EngineError, EngineStoppedError
from dynhat_runtime.governor.governor import ObservationResult
from dynhat_runtime.observation import Observation
from dynhat_runtime.service.app import create_app
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from dynhat_runtime.service.limits import RequestLimits
from tests.service_fakes import SINCE, FakeControl, FakeEngine, FakeTrace, overloaded

LIMITS = RequestLimits(char_limit=100, batch_limit=4, timeout_s=10)
HELLO = {"q": "Hello.", "source": "en", "target": "de"}
SCOPE = {
    "type": "http",
    "method": "POST",
    "path": "/translate",
    "query_string": b"",
    "headers": [(b"content-type", b"application/json")],
}
"""A POST /translate for the application itself, where a client library would be too well-behaved."""


@pytest.fixture
def client(lifecycle: Lifecycle) -> TestClient:
    """A client of that daemon; a server error reaches it as an answer, as over a socket."""
    return TestClient(create_app(lifecycle, LIMITS, FakeTrace))


def ask(client: TestClient, **changes: Any) -> Any:
    """POST /translate with HELLO changed; a change to ... removes the field."""
    fields = {name: value for name, value in {**HELLO, **changes}.items() if value is not ...}
    return client.post("/translate", json=fields)


def check_refusal(response: Any, status: int, *words: str) -> None:
    """`{"error": str}` and nothing else, with these words in it, in one line, and the point in the header."""
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    for word in words:
        assert word in response.json()["error"]
    assert "\n" not in response.json()["error"]
    assert response.headers["X-Operating-Point"] == "p1"


# --- POST /translate ---


def test_one_text(client: TestClient) -> None:
    """A text is answered with a text, and nothing but it."""
    response = ask(client)
    assert response.status_code == 200
    assert response.json() == {"translatedText": "HELLO."}


def test_a_list_of_texts(client: TestClient) -> None:
    """A list is answered with a list in the same order."""
    assert ask(client, q=["a", "b", "c"]).json() == {"translatedText": ["A", "B", "C"]}


def test_a_list_of_one(client: TestClient) -> None:
    """A list of one text is answered with a list of one."""
    assert ask(client, q=["a"]).json() == {"translatedText": ["A"]}


def test_the_header_names_the_point_that_translated(client: TestClient, engine: FakeEngine) -> None:
    """X-Operating-Point is the point of this translation, even if another became active meanwhile."""
    engine.active_point_id = "p2"
    original = engine.submit

    def submit_then_switch(*args: Any, **kwargs: Any) -> Any:
        future = original(*args, **kwargs)
        engine.active_point_id = "p3"
        return future

    engine.submit = submit_then_switch  # type: ignore[method-assign]
    assert ask(client).headers["X-Operating-Point"] == "p2"


def test_an_empty_text_stays_empty(client: TestClient, engine: FakeEngine) -> None:
    """An empty text translates to an empty text and never reaches the engine."""
    response = ask(client, q="")
    assert response.json() == {"translatedText": ""}
    assert response.headers["X-Operating-Point"] == "p1"
    assert ask(client, q=["", "a", ""]).json() == {"translatedText": ["", "A", ""]}
    assert engine.submitted == [["a"]]


def test_unknown_fields_are_ignored(client: TestClient) -> None:
    """Fields that other servers know do not disturb."""
    assert ask(client, api_key="x", alternatives=0, format="text", more=[1]).status_code == 200


def test_text_at_the_limits(client: TestClient) -> None:
    """Exactly as much as allowed is allowed."""
    assert ask(client, q=["\U0001f600" * 25] * 4).status_code == 200


def test_a_form(client: TestClient) -> None:
    """A urlencoded form is read like JSON."""
    assert client.post("/translate", data={**HELLO, "q": "Grüße & more"}).json() == {
        "translatedText": "GRÜSSE & MORE"
    }
    assert client.post("/translate", data={**HELLO, "q": ["a", "b"]}).json() == {"translatedText": ["A", "B"]}


def test_a_charset_does_not_disturb(client: TestClient) -> None:
    """Parameters of the content type are tolerated."""
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert client.post("/translate", content=json.dumps(HELLO), headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"q": ...}, ["q is missing"]),
        ({"q": None}, ["q is missing"]),
        ({"q": 5}, ["q is 5, not a string"]),
        ({"q": {"a": "b"}}, ["not a string"]),
        ({"q": True}, ["q is True, not a string"]),
        ({"q": ["a", None]}, ["q[1] is None, not a string"]),
        ({"q": ["a", ["b"]]}, ["q[1]"]),
        ({"q": []}, ["q is an empty list", "1 to 4 texts"]),
        ({"q": ["a"] * 5}, ["q holds 5 texts", "4 texts per request"]),
        ({"q": "x" * 101}, ["q holds 101 characters", "100 characters per request"]),
        ({"q": ["x" * 60] * 2}, ["q holds 120 characters"]),
        ({"q": "\ud83d"}, ["q holds half a surrogate pair"]),
        ({"source": ...}, ["source is missing", "'en' or 'auto'"]),
        ({"source": "fr"}, ["source 'fr'", "'en' or 'auto'"]),
        ({"source": "de"}, ["source 'de'"]),
        ({"source": ["en"]}, ["source ['en']"]),
        ({"source": "\ud83d"}, ["source"]),
        ({"target": ...}, ["target is missing", "'de'"]),
        ({"target": "en"}, ["target 'en'", "send 'de'"]),
        ({"target": 7}, ["target 7"]),
        ({"format": "rtf"}, ["format 'rtf'", "'text' or 'html'"]),
        ({"format": 3}, ["format 3"]),
        ({"alternatives": -1}, ["alternatives -1", "whole number"]),
        ({"alternatives": "many"}, ["alternatives 'many'"]),
        ({"alternatives": True}, ["alternatives True"]),
        ({"alternatives": 1.5}, ["alternatives 1.5"]),
    ],
)
def test_bad_fields(client: TestClient, changes: dict[str, Any], words: list[str]) -> None:
    """A bad field is refused with 400, naming it and what it may be."""
    fields = {name: value for name, value in {**HELLO, **changes}.items() if value is not ...}
    response = client.post(
        "/translate", content=json.dumps(fields), headers={"Content-Type": "application/json"}
    )
    check_refusal(response, 400, *words)


@pytest.mark.parametrize(
    ("content", "content_type", "word"),
    [
        (b"{", "application/json", "not valid JSON"),
        (b"", "application/json", "not valid JSON"),
        (b"\xff\xfe\xfd", "application/json", "not valid JSON"),
        (b"[" * 15000, "application/json", "not valid JSON"),
        (b'"Hello."', "application/json", "not a JSON object"),
        (b"[]", "application/json", "not a JSON object"),
        (b"q=%ff&source=en&target=de", "application/x-www-form-urlencoded", "not a form"),
        (b"q=a&" * 100, "application/x-www-form-urlencoded", "not a form of at most 68 fields"),
        (b"{}", "text/plain", "Content-Type 'text/plain'"),
        (b"--x--", "multipart/form-data; boundary=x", "Content-Type 'multipart/form-data'"),
        (b"{}", "", "Content-Type ''"),
    ],
)
def test_bad_bodies(client: TestClient, content: bytes, content_type: str, word: str) -> None:
    """A body that is not what it says, or says nothing we read, is refused with 400."""
    response = client.post("/translate", content=content, headers={"Content-Type": content_type})
    check_refusal(response, 400, word)


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_too_large_is_not_kept(client: TestClient, engine: FakeEngine, is_chunked: bool) -> None:
    """A body beyond the byte limit is refused like any text too long, whether or not it said its length."""
    body = json.dumps({**HELLO, "more": "x" * LIMITS.max_body_bytes}).encode()
    content = iter([body[:100], body[100:]]) if is_chunked else body
    response = client.post("/translate", content=content, headers={"Content-Type": "application/json"})
    check_refusal(
        response, 400, f"larger than {LIMITS.max_body_bytes} bytes", f"{LIMITS.char_limit} characters"
    )
    assert engine.submitted == []


def test_a_full_queue(client: TestClient, engine: FakeEngine) -> None:
    """A full queue is 429 with Retry-After by what waits, and says so."""
    engine.failure = overloaded()
    response = ask(client)
    check_refusal(response, 429, "queue is full")
    assert response.headers["Retry-After"] == "3"


def test_a_stopping_engine(client: TestClient, engine: FakeEngine) -> None:
    """An engine that stops is 503."""
    engine.failure = EngineStoppedError("engine is stopping")
    check_refusal(ask(client), 503, "stopping")


def test_an_engine_that_stops_meanwhile(client: TestClient, engine: FakeEngine) -> None:
    """A translation that the stopping engine gives up is 503."""
    engine.late_failure = EngineStoppedError("engine is stopping")
    check_refusal(ask(client), 503, "stopping")


def test_a_translation_cancelled_by_the_engine(client: TestClient, engine: FakeEngine) -> None:
    """A future that the engine cancels is 503, not a broken connection."""
    original = engine.submit

    def submit_cancelled(*args: Any, **kwargs: Any) -> Any:
        engine.go.clear()
        original(["first"])
        future = original(*args, **kwargs)
        assert future.cancel()
        engine.go.set()
        return future

    engine.submit = submit_cancelled  # type: ignore[method-assign]
    check_refusal(ask(client), 503, "stopping")


@pytest.mark.parametrize("failure", [ZeroDivisionError("secret"), EngineError("secret")])
def test_an_unexpected_failure(
    client: TestClient, engine: FakeEngine, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """What we did not expect is 500 without its reason; the log has the reason."""
    engine.late_failure = failure
    with caplog.at_level(logging.ERROR):
        response = ask(client)
    check_refusal(response, 500)
    assert response.json() == {"error": "internal error"}
    assert "secret" in caplog.text


def test_a_translation_that_takes_too_long(lifecycle: Lifecycle, engine: FakeEngine) -> None:
    """After the request timeout the answer is 504, and work not begun is dropped."""
    engine.go.clear()
    busy = engine.submit(["in the way"])
    client = TestClient(create_app(lifecycle, RequestLimits(timeout_s=0.05)))
    check_refusal(ask(client), 504, "took longer than 0.05 s")
    assert engine.futures[1].cancelled()
    assert not busy.cancelled()


def test_a_client_that_leaves(lifecycle: Lifecycle, engine: FakeEngine) -> None:
    """When the client closes the connection, its translation is dropped and nothing is in flight."""
    engine.go.clear()
    engine.submit(["in the way"])
    app = create_app(lifecycle, LIMITS)
    body = json.dumps(HELLO).encode()
    arriving: list[dict[str, Any]] = [
        {"type": "http.request", "body": body, "more_body": False},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        return arriving.pop(0)

    async def send(_message: Any) -> None:
        pass

    asyncio.run(app(dict(SCOPE), receive, send))
    assert engine.futures[1].cancelled()
    assert lifecycle.num_in_flight == 0


def test_a_body_that_does_not_arrive(lifecycle: Lifecycle) -> None:
    """A client that does not finish its request within the timeout is answered 408."""
    app = create_app(lifecycle, RequestLimits(timeout_s=0.05))
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(30)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(dict(SCOPE), receive, send))
    assert sent[0]["status"] == 408
    assert "took longer than 0.05 s" in json.loads(sent[1]["body"])["error"]


# --- phases ---


def test_loading(client: TestClient) -> None:
    """While the model loads, health and everything that needs the model answer 503."""
    client = TestClient(create_app(Lifecycle(), LIMITS))
    assert client.get("/health").status_code == 503
    assert client.get("/health").json() == {"status": "loading"}
    response = ask(client)
    assert response.status_code == 503
    assert "loading" in response.json()["error"]
    assert response.headers["X-Operating-Point"] == "none"
    for path in ("/languages", "/v1/operating-points", "/v1/operating-point", "/v1/decisions"):
        assert client.get(path).status_code == 503
        assert set(client.get(path).json()) <= {"error", "code"}
    assert client.put("/v1/operating-point", json={"mode": "auto"}).status_code == 503
    assert client.get("/").status_code == 200


def test_ready(client: TestClient) -> None:
    """Once loaded, health is 200 ok."""
    response = client.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_draining(client: TestClient, lifecycle: Lifecycle) -> None:
    """A draining daemon says so, takes no translation and closes connections."""
    lifecycle.drain()
    response = client.get("/health")
    assert (response.status_code, response.json()) == (503, {"status": "draining"})
    refusal = ask(client)
    check_refusal(refusal, 503, "draining")
    assert refusal.headers["Connection"] == "close"


def test_failed(engine: FakeEngine) -> None:
    """A daemon that could not load reports an error."""
    lifecycle = Lifecycle()
    lifecycle.fail()
    response = TestClient(create_app(lifecycle, LIMITS)).get("/health")
    assert (response.status_code, response.json()) == (503, {"status": "error"})


def test_told_to_stop_while_loading(engine: FakeEngine) -> None:
    """A daemon told to stop while it loads does not come up after all."""
    lifecycle = Lifecycle()
    lifecycle.drain()
    lifecycle.ready(Serving(engine, FakeControl(engine)))
    assert lifecycle.phase == "draining"


def test_health_does_not_wait_for_the_queue(client: TestClient, engine: FakeEngine) -> None:
    """Health answers while the engine is stuck."""
    engine.go.clear()
    engine.submit(["in the way"])
    assert client.get("/health").status_code == 200


def test_in_flight_requests_are_counted(lifecycle: Lifecycle) -> None:
    """The daemon is idle only when the last request is through."""

    async def two_requests() -> None:
        with lifecycle.request():
            with lifecycle.request():
                pass
            waiting = asyncio.ensure_future(lifecycle.wait_idle())
            await asyncio.sleep(0)
            assert not waiting.done()
        await waiting

    asyncio.run(two_requests())
    assert lifecycle.num_in_flight == 0


# --- languages and operating points ---


def test_languages(client: TestClient) -> None:
    """The pair is listed with names, and with targets only where we translate."""
    assert client.get("/languages").json() == [
        {"code": "en", "name": "English", "targets": ["de"]},
        {"code": "de", "name": "German", "targets": []},
    ]


def test_operating_points(client: TestClient) -> None:
    """All points are listed fastest first, each with its measurements and its architecture."""
    points = client.get("/v1/operating-points").json()["points"]
    assert [point["id"] for point in points] == ["p1", "p2", "p3"]
    assert [point["latency_ms"] for point in points] == [10.0, 20.0, 30.0]
    assert set(points[1]) == {
        "id",
        "latency_ms",
        "precision",
        "num_threads",
        "has_shortlist",
        "num_parameters",
        "dev_loss",
        "bleu",
        "bleu_signature",
        "latencies",
        "config",
    }
    assert points[1]["config"]["decoder_ffn_dims"] == [16, 16]
    assert points[1]["latencies"][0]["num_cpus"] == 4


def test_the_active_point(client: TestClient) -> None:
    """The active point comes with its measurements, who chose it, since when, why and on what grounds."""
    answer = client.get("/v1/operating-point").json()
    assert set(answer) == {
        "active",
        "next_better",
        "mode",
        "policy",
        "since",
        "reason",
        "slow_down_factor",
        "slow_down_std",
        "handling_ms",
        "prediction_error_fraction",
        "latest_predictions",
        "resources",
    }
    assert answer["active"] == client.get("/v1/operating-points").json()["points"][0]
    assert answer["mode"] == "auto"
    assert datetime.fromisoformat(answer["since"]) == SINCE
    assert datetime.fromisoformat(answer["since"]).utcoffset() == timedelta(0)
    assert answer["reason"] == "fits the budget of 35 ms"
    assert answer["resources"]["effective_cpus"] == 1.5
    assert answer["resources"]["temperature_celsius"] is None


def test_the_latest_predictions(client: TestClient, lifecycle: Lifecycle) -> None:
    """The active point comes with what the last batches were predicted to take, and what they took."""
    batch = Observation(
        monotonic_s=7.0,
        point_id="p2",
        num_sentences=3,
        num_src_tokens=9,
        num_tgt_tokens=8,
        beam_size=4,
        elapsed_ms=21.5,
    )
    result = ObservationResult(observation=batch, predicted_ms=20.0, is_learned=True)
    control = lifecycle.serving.control
    assert isinstance(control, FakeControl)
    control.state = replace(control.state, latest_predictions=(result,))
    assert client.get("/v1/operating-point").json()["latest_predictions"] == [
        {
            "monotonic_s": 7.0,
            "point_id": "p2",
            "num_sentences": 3,
            "predicted_ms": 20.0,
            "actual_ms": 21.5,
            "is_canary": False,
        }
    ]


def test_no_reading_yet(client: TestClient, lifecycle: Lifecycle, engine: FakeEngine) -> None:
    """Before the first reading resources are null."""
    lifecycle = Lifecycle()
    control = FakeControl(engine)
    control.state = type(control.state)("p1", "auto", SINCE, "start", None)
    lifecycle.ready(Serving(engine, control))
    client = TestClient(create_app(lifecycle, LIMITS))
    assert client.get("/v1/operating-point").json()["resources"] is None


def test_pin_and_release(client: TestClient) -> None:
    """Pinning makes a point active for translations; auto gives the choice back. It answers as GET does."""
    answer = client.put("/v1/operating-point", json={"mode": "pinned", "point": "p3"})
    assert answer.status_code == 200
    assert (answer.json()["active"]["id"], answer.json()["mode"]) == ("p3", "pinned")
    assert client.get("/v1/operating-point").json() == answer.json()
    assert ask(client).headers["X-Operating-Point"] == "p3"
    answer = client.put("/v1/operating-point", json={"mode": "auto"})
    assert (answer.json()["active"]["id"], answer.json()["mode"]) == ("p1", "auto")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, ["mode", "'auto' or 'pinned'"]),
        ({"mode": "manual"}, ["mode", "'auto' or 'pinned'"]),
        ({"mode": ["auto"]}, ["mode"]),
        ({"mode": "pinned"}, ["point", "p1, p2, p3"]),
        ({"mode": "pinned", "point": 3}, ["point", "p1, p2, p3"]),
        ({"mode": "pinned", "point": "p9"}, ["point", "'p9'", "p1, p2, p3"]),
        ({"mode": "auto", "point": "p1"}, ["point"]),
        ([], ["JSON object"]),
    ],
)
def test_bad_choices(client: TestClient, body: object, words: list[str]) -> None:
    """An impossible choice is refused with 400 naming the field and what it may be, and changes nothing."""
    before = client.get("/v1/operating-point").json()
    response = client.put("/v1/operating-point", json=body)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    for word in words:
        assert word in response.json()["error"]
    assert client.get("/v1/operating-point").json() == before


def test_a_choice_too_large(client: TestClient) -> None:
    """The body of a choice is bounded too."""
    assert client.put("/v1/operating-point", json={"mode": "auto", "more": "x" * 5000}).status_code == 413


# --- the why-log ---


def test_decisions(client: TestClient, lifecycle: Lifecycle) -> None:
    """The last decisions come newest last, each as the governor says it."""
    client.put("/v1/operating-point", json={"mode": "pinned", "point": "p3"})
    client.put("/v1/operating-point", json={"mode": "auto"})
    answer = client.get("/v1/decisions").json()
    assert list(answer) == ["decisions"]
    assert [decision["point_id"] for decision in answer["decisions"]] == ["p3", "p1"]
    expected = [decision.as_dict() for decision in lifecycle.serving.control.decisions(2)]
    assert answer["decisions"] == json.loads(json.dumps(expected))
    (newest,) = client.get("/v1/decisions?last=1").json()["decisions"]
    assert newest == answer["decisions"][1]


@pytest.mark.parametrize("last", ["0", "-1", "257", "1.5", "nan", "", "ten", "\u0661", "9" * 5000])
def test_bad_numbers_of_decisions(client: TestClient, last: str) -> None:
    """A number of decisions that cannot be is refused with 400, saying what can."""
    response = client.get("/v1/decisions", params={"last": last})
    assert response.status_code == 400
    assert list(response.json()) == ["error"]
    assert "last" in response.json()["error"]
    assert "1 to 256" in response.json()["error"]


def test_refused_points_are_listed(client: TestClient, engine: FakeEngine) -> None:
    """Points that failed their canaries are listed apart, with the reason."""
    assert client.get("/v1/operating-points").json()["refused"] == []
    engine.refused = {"p9": "nonsense"}
    assert client.get("/v1/operating-points").json()["refused"] == [{"id": "p9", "reason": "nonsense"}]


def test_the_next_better_point(client: TestClient) -> None:
    """The answer names what would be better than the active point, and nothing beyond the best."""
    assert client.get("/v1/operating-point").json()["next_better"] == "p2"
    answer = client.put("/v1/operating-point", json={"mode": "pinned", "point": "p3"}).json()
    assert answer["next_better"] is None


# --- paths and methods ---


def test_unknown_path(client: TestClient) -> None:
    """404 has the shape of every error."""
    response = client.get("/nothing/here")
    assert response.status_code == 404
    assert response.json() == {"error": "no such path '/nothing/here': GET / names the paths there are"}


def test_wrong_method(client: TestClient) -> None:
    """405 has the shape of every error, names the methods that work, and on /translate names the point."""
    response = client.get("/translate")
    check_refusal(response, 405, "use POST")
    assert response.headers["Allow"] == "POST"
    assert client.post("/health").status_code == 405
    assert client.delete("/v1/operating-point").status_code == 405


def test_root(client: TestClient) -> None:
    """GET / names the program and only paths that exist to whoever asks for JSON."""
    answer = client.get("/", headers={"Accept": "application/json"}).json()
    assert answer["name"] == "dynhat-runtime"
    finite = [path for path in answer["paths"] if path != "/v1/events"]  # which has no end
    assert {client.get(path).status_code for path in finite} <= {
        200,
        400,
        405,
    }  # 400: what it needs is missing
