"""POST /v1/translate against a fake engine and control loop: the promise, the answer, and every bad input."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient

from dynhat_runtime.queue_load import QueueLoad
from dynhat_runtime.service.app import Terms, create_app
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.limits import RequestLimits
from tests.service_fakes import FakeControl, FakeEngine, make_table, overloaded, ready

LIMITS = RequestLimits(char_limit=100, batch_limit=4, timeout_s=10)
HELLO = {"text": ["Hello there."], "source": "en", "target": "de"}


@pytest.fixture
def client(engine: FakeEngine, control: FakeControl) -> TestClient:
    """A client of a daemon that is ready."""
    return TestClient(create_app(ready(engine, control), LIMITS))


def ask(client: TestClient, **changes: Any) -> Any:
    """POST /v1/translate with HELLO changed, NaN and all; a change to ... removes the field."""
    fields = {name: value for name, value in {**HELLO, **changes}.items() if value is not ...}
    return client.post(
        "/v1/translate", content=json.dumps(fields), headers={"Content-Type": "application/json"}
    )


def check_refusal(response: Any, status: int, *words: str, code: str | None = None) -> None:
    """`error`, in one line, with these words in it, and `code` where there is one; nothing else but a full queue."""
    assert response.status_code == status, response.text
    answer = response.json()
    assert answer.pop("code", None) == code
    assert ("queue" in answer) == (code == "queue_full")
    answer.pop("queue", None)
    assert list(answer) == ["error"]
    for word in words:
        assert word in response.json()["error"]
    assert "\n" not in response.json()["error"]


# --- the answer ---


def test_the_answer(client: TestClient) -> None:
    """One translation per text with point, prediction, time and verdict, the point in the header, nothing else."""
    response = ask(client, text=["a", "b c"], latency_budget_ms=600_000)
    assert response.status_code == 200
    translations = response.json().pop("translations")
    assert list(response.json()) == ["translations"]
    assert [translation["text"] for translation in translations] == ["A", "B C"]
    for translation in translations:
        assert set(translation) == {"text", "operating_point", "predicted_ms", "elapsed_ms", "budget_met"}
        assert translation["operating_point"] == "p3"
        assert translation["predicted_ms"] == 30
        assert translation["elapsed_ms"] > 0
        assert translation["budget_met"] is True
    assert response.headers["X-Operating-Point"] == "p3"


def test_a_single_text(client: TestClient) -> None:
    """A single string is a list of one."""
    assert [t["text"] for t in ask(client, text="a").json()["translations"]] == ["A"]


def test_without_a_wish(client: TestClient, engine: FakeEngine, control: FakeControl) -> None:
    """Without a wish the active point translates, and the daemon's budget judges it."""
    engine.active_point_id, control.daemon_budget_ms = "p2", 60_000.0
    (translation,) = ask(client).json()["translations"]
    assert (translation["operating_point"], translation["budget_met"]) == ("p2", True)
    control.daemon_budget_ms = 50.0
    engine.go.clear()
    original = engine.submit

    def submit_slowly(*args: Any, **kwargs: Any) -> Any:
        threading.Timer(0.1, engine.go.set).start()
        return original(*args, **kwargs)

    engine.submit = submit_slowly  # type: ignore[method-assign]
    assert ask(client).json()["translations"][0]["budget_met"] is False


@pytest.mark.parametrize(
    ("wish", "point"),
    [
        ({"latency_budget_ms": 25}, "p2"),
        ({"latency_budget_ms": 10.0}, "p1"),
        ({"min_quality": 22}, "p3"),
        ({"point": "p2"}, "p2"),
        ({"point": "p3", "latency_budget_ms": 5}, "p3"),
        ({"latency_budget_ms": 5}, "p1"),
        ({"latency_budget_ms": 25, "min_quality": 23}, "p1"),
        ({"latency_budget_ms": None, "min_quality": None, "point": None, "strict": None}, "p1"),
    ],
)
def test_a_wish_picks_a_point(
    client: TestClient, engine: FakeEngine, wish: dict[str, Any], point: str
) -> None:
    """Budget, quality or name pick the point of this request, the fastest if none will do; the active one stays."""
    response = ask(client, **wish)
    assert response.json()["translations"][0]["operating_point"] == point
    assert response.headers["X-Operating-Point"] == point
    assert engine.active_point_id == "p1"


def test_a_missed_budget_is_said(client: TestClient, engine: FakeEngine) -> None:
    """A translation that took longer than its budget says so, whatever was predicted."""
    engine.go.clear()
    original = engine.submit

    def submit_slowly(*args: Any, **kwargs: Any) -> Any:
        threading.Timer(0.05, engine.go.set).start()
        return original(*args, **kwargs)

    engine.submit = submit_slowly  # type: ignore[method-assign]
    (translation,) = ask(client, latency_budget_ms=20).json()["translations"]
    assert translation["predicted_ms"] == 20
    assert translation["elapsed_ms"] > 20
    assert translation["budget_met"] is False


def test_what_the_control_loop_is_asked(client: TestClient, engine: FakeEngine, control: FakeControl) -> None:
    """The wish carries the lengths of all sentences, what waits before them, and what was asked for."""
    engine.queue_load = QueueLoad(sentences=7)
    ask(client, text=["a b", "", "c", "42"], latency_budget_ms=25, min_quality=21, point="p2")
    (wish,) = control.wishes
    assert (wish.num_src_tokens, wish.num_sentences_ahead) == ((3, 2), 7)
    assert (wish.latency_budget_ms, wish.min_quality, wish.point_id) == (25, 21, "p2")


def test_retries_stay_within_the_budget(client: TestClient, engine: FakeEngine, control: FakeControl) -> None:
    """A second attempt may take what the budget leaves, own or the daemon's, and never leaves a named point."""
    control.daemon_budget_ms = 5_000
    ask(client)
    ask(client, latency_budget_ms=60_000)
    ask(client, latency_budget_ms=60_000, point="p1")
    free, within, named = engine.retries_within_ms
    assert named == 0
    assert free is not None
    assert within is not None
    assert 0 < free <= 5_000 < within <= 60_000


@pytest.mark.parametrize("text", [[""], ["42"], ["", ""]])
def test_nothing_to_translate(client: TestClient, control: FakeControl, text: list[str]) -> None:
    """Texts without a sentence come back as they are, at once, on the active or the named point."""
    answers = ask(client, text=text, latency_budget_ms=5).json()["translations"]
    assert [answer["text"] for answer in answers] == text
    assert {(answer["predicted_ms"], answer["budget_met"]) for answer in answers} <= {(0, True), (0, False)}
    assert ask(client, text=text, point="p2").headers["X-Operating-Point"] == "p2"
    assert control.wishes == []


def test_long_texts_do_not_hold_others_up(engine: FakeEngine, control: FakeControl) -> None:
    """A text too long to be counted at once is counted off the event loop's thread."""
    threads: set[str] = set()
    original = control.choose

    def choose(wish: Any) -> Any:
        threads.add(threading.current_thread().name)
        return original(wish)

    control.choose = choose  # type: ignore[method-assign]
    with TestClient(create_app(ready(engine, control), RequestLimits())) as client:
        assert ask(client, text="word " * 100).status_code == 200
        (loop_thread,) = threads
        assert ask(client, text="word " * 900).status_code == 200
    assert len(threads) == 2
    assert loop_thread in threads


# --- strict ---


def test_strict_and_met(client: TestClient) -> None:
    """A strict request that is expected to be met is translated."""
    response = ask(client, latency_budget_ms=25, strict=True)
    assert response.json()["translations"][0]["operating_point"] == "p2"


@pytest.mark.parametrize(
    "wish",
    [
        {"latency_budget_ms": 5},
        {"min_quality": 30},
        {"latency_budget_ms": 25, "min_quality": 23},
        {"point": "p3", "latency_budget_ms": 25},
        {"point": "p2", "min_quality": 23},
    ],
)
def test_strict_and_not_met(client: TestClient, engine: FakeEngine, wish: dict[str, Any]) -> None:
    """A strict request that nothing is expected to meet is 422, naming the fastest point and what it would take."""
    response = ask(client, **wish, strict=True)
    check_refusal(
        response,
        422,
        "the fastest, p1, is predicted to take 10.0 ms",
        "which does not do",
        "leave strict out",
    )
    assert engine.submitted == []


# --- bad input ---


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": ...}, ["text is missing"]),
        ({"text": []}, ["text is an empty list", "1 to 4 texts"]),
        ({"text": 5}, ["text is 5, not a string"]),
        ({"text": ["a", None]}, ["text[1] is None"]),
        ({"text": "\ud83d"}, ["text holds half a surrogate pair"]),
        ({"source": ...}, ["source is missing", "'en'"]),
        ({"source": "auto"}, ["source 'auto'", "'en'"]),
        ({"target": "en"}, ["target 'en'", "'de'"]),
        ({"latency_budget_ms": 0}, ["latency_budget_ms 0 ", "above 0", "600000"]),
        ({"latency_budget_ms": -5}, ["latency_budget_ms -5 "]),
        ({"latency_budget_ms": float("nan")}, ["latency_budget_ms nan "]),
        ({"latency_budget_ms": float("inf")}, ["latency_budget_ms inf "]),
        ({"latency_budget_ms": 600_001}, ["latency_budget_ms 600001 "]),
        ({"latency_budget_ms": 10**400}, ["latency_budget_ms 1000"]),
        ({"latency_budget_ms": "50"}, ["latency_budget_ms '50' "]),
        ({"latency_budget_ms": True}, ["latency_budget_ms True "]),
        ({"latency_budget_ms": [50]}, ["latency_budget_ms [50] "]),
        ({"min_quality": 0}, ["min_quality 0 "]),
        ({"min_quality": 101}, ["min_quality 101 ", "at most 100"]),
        ({"min_quality": float("nan")}, ["min_quality nan "]),
        ({"min_quality": "good"}, ["min_quality 'good' "]),
        ({"point": "p9"}, ["point 'p9' is unknown", "p1, p2, p3"]),
        ({"point": 2}, ["point 2 is unknown", "p1, p2, p3"]),
        ({"point": ["p1"]}, ["point ['p1'] is unknown"]),
        ({"strict": 1, "latency_budget_ms": 50}, ["strict 1 ", "true or false"]),
        ({"strict": "yes", "latency_budget_ms": 50}, ["strict 'yes' "]),
        ({"latency_budget": 50}, ["field 'latency_budget' is unknown", "latency_budget_ms"]),
        ({"alternatives": -1}, ["alternatives -1 ", "0 or more"]),
        ({"alternatives": "2"}, ["alternatives '2' "]),
        ({"alternatives": True}, ["alternatives True "]),
        ({"scores": 1}, ["scores 1 ", "true or false"]),
        ({"q": "a"}, ["field 'q' is unknown"]),
    ],
)
def test_bad_fields(
    client: TestClient, engine: FakeEngine, changes: dict[str, Any], words: list[str]
) -> None:
    """A bad field is refused with 400, naming it, its value and what it may be; nothing is translated."""
    response = ask(client, **changes)
    check_refusal(response, 400, *words)
    assert response.headers["X-Operating-Point"] == "p1"
    assert engine.submitted == []


def test_a_refused_point(client: TestClient, engine: FakeEngine) -> None:
    """A point that failed its canaries says so when it is asked for."""
    engine.refused = {"p9": "canary sentence 'a' came out as 'bbb'"}
    check_refusal(ask(client, point="p9"), 400, "point 'p9' is refused", "came out as 'bbb'")


def test_quality_that_nobody_measured() -> None:
    """A lowest quality is refused where no point has a BLEU."""
    table = make_table()
    points = tuple(point.model_copy(update={"bleu": None}) for point in table)
    engine = FakeEngine(table.model_copy(update={"points": points}))
    response = ask(TestClient(create_app(ready(engine), LIMITS)), min_quality=20)
    check_refusal(response, 400, "min_quality 20 cannot be judged", "leave it out")


@pytest.mark.parametrize(
    ("content", "content_type", "word"),
    [
        (b"{", "application/json", "not valid JSON"),
        (b"[]", "application/json", "not a JSON object"),
        (b"text=a&source=en&target=de", "application/x-www-form-urlencoded", "application/json"),
    ],
)
def test_bad_bodies(client: TestClient, content: bytes, content_type: str, word: str) -> None:
    """A body that is no JSON object is refused with 400."""
    response = client.post("/v1/translate", content=content, headers={"Content-Type": content_type})
    check_refusal(response, 400, word)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": ["a"] * 5}, ["text holds 5 texts", "4 texts"]),
        ({"text": "x" * 101}, ["text holds 101 characters", "100 characters"]),
        ({"text": ["x" * 60] * 2}, ["text holds 120 characters"]),
        ({"text": "x" * 100_000}, ["body is larger than", "text may hold 100 characters"]),
    ],
)
def test_too_much(client: TestClient, engine: FakeEngine, changes: dict[str, Any], words: list[str]) -> None:
    """More characters, texts or bytes than a request may have are refused with 413 and the limit."""
    check_refusal(ask(client, **changes), 413, *words)
    assert engine.submitted == []


def test_a_full_queue(client: TestClient, engine: FakeEngine) -> None:
    """A full queue is 503 at once, with what is in it and when to come again."""
    engine.failure = overloaded()
    response = ask(client)
    assert response.headers["Retry-After"] == "3"
    assert response.json()["queue"] == {
        "requests": 256,
        "sentences": 300,
        "tokens": 4000,
        "limit_requests": 256,
        "limit_sentences": 512,
        "limit_tokens": 16384,
        "expected_wait_s": 2.4,
    }
    check_refusal(response, 503, "queue is full", code="queue_full")


def test_a_full_queue_may_be_429(engine: FakeEngine, control: FakeControl) -> None:
    """An operator whose clients know only 429 gets that."""
    engine.failure = overloaded()
    client = TestClient(create_app(ready(engine, control), LIMITS, terms=Terms(overload_status=429)))
    check_refusal(ask(client), 429, "queue is full", code="queue_full")


# --- alternatives and scores ---


def test_alternatives(client: TestClient) -> None:
    """As many other translations as were asked for, without scores; none, not even a field, where none were."""
    (translation,) = ask(client, text="a", alternatives=2).json()["translations"]
    assert translation["alternatives"] == [{"text": "A (1)"}, {"text": "A (2)"}]
    assert "score" not in translation
    (translation,) = ask(client, text="a", alternatives=0).json()["translations"]
    assert "alternatives" not in translation


def test_scores(client: TestClient) -> None:
    """A score is the mean log-probability of a token; nothing translated has none, and alternatives have theirs."""
    answer = ask(client, text=["a", ""], scores=True, alternatives=1).json()["translations"]
    assert [(each["text"], each.get("score")) for each in answer] == [("A", -0.25), ("", None)]
    assert [each["alternatives"] for each in answer] == [[{"text": "A (1)", "score": -0.5}], []]


# --- deadline, class and timings ---


def test_a_deadline_that_cannot_be_met(client: TestClient, engine: FakeEngine) -> None:
    """A request that is not expected to be done by its deadline is refused at once, and nothing is translated."""
    response = ask(client, point="p3", deadline_ms=29)
    check_refusal(response, 504, "deadline_ms 29", "p3", "30.0 ms", code="deadline")
    assert engine.submitted == []
    assert ask(client, point="p3", deadline_ms=5000).status_code == 200
    assert engine.asked[-1]["timeout_s"] == pytest.approx(5.0, abs=1.0)


def test_a_deadline_that_passes(client: TestClient, engine: FakeEngine) -> None:
    """At its deadline a request is answered 504, and its translation is given up."""
    engine.go.clear()
    busy = engine.submit(["in the way"])
    check_refusal(ask(client, deadline_ms=60), 504, "took longer than", code="deadline")
    assert engine.futures[1].cancelled()
    assert not busy.cancelled()


def test_the_class_reaches_the_engine(client: TestClient, engine: FakeEngine) -> None:
    """A request waits in the class it names; without one it is interactive."""
    for changes in ({}, {"priority": "batch"}, {"priority": "interactive"}, {"priority": None}):
        assert ask(client, **changes).status_code == 200
    assert [asked["priority"] for asked in engine.asked] == [
        "interactive",
        "batch",
        "interactive",
        "interactive",
    ]


def test_timings(client: TestClient) -> None:
    """Who asks for timings hears of each text what it took, of an empty one nothing."""
    first, empty = ask(client, text=["a", ""], timings=True).json()["translations"]
    assert first["timings"] == {
        "queue_ms": 1.5,
        "translate_ms": 2.5,
        "num_sentences": 1,
        "num_src_tokens": 3,
        "num_tgt_tokens": 2,
        "num_guard_retries": 0,
    }
    assert set(empty["timings"].values()) == {0}


# --- sentence by sentence ---


def events_of(response: Any) -> list[tuple[str, Any]]:
    """The events of a stream, as a reader of the standard's format has them."""
    assert response.headers["Content-Type"].startswith("text/event-stream")
    events = []
    for block in response.text.strip().split("\n\n"):
        name, data = block.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return events


def ask_for_stream(client: TestClient, **changes: Any) -> Any:
    """POST /v1/translate/stream with HELLO changed."""
    return client.post("/v1/translate/stream", json={**HELLO, **changes})


def test_a_stream(client: TestClient) -> None:
    """Sentences come one by one with the number of their text, then what /v1/translate would have answered."""
    response = ask_for_stream(client, text=["a|b", "", "c"], point="p2")
    assert response.status_code == 200
    *sentences, (last, answer) = events_of(response)
    assert sentences == [
        ("sentence", {"index": 0, "delta": "A"}),
        ("sentence", {"index": 0, "delta": "B"}),
        ("sentence", {"index": 2, "delta": "C"}),
    ]
    assert last == "done"
    assert [each["text"] for each in answer["translations"]] == ["A|B", "", "C"]
    assert {each["operating_point"] for each in answer["translations"]} == {"p2"}


def test_a_stream_of_nothing(client: TestClient, engine: FakeEngine) -> None:
    """Where there is nothing to translate the end comes at once."""
    ((name, answer),) = events_of(ask_for_stream(client, text=["", ""]))
    assert (name, [each["text"] for each in answer["translations"]]) == ("done", ["", ""])
    assert engine.submitted == []


def test_a_stream_that_is_refused(client: TestClient, engine: FakeEngine) -> None:
    """What is refused before it begins has a status, not an event."""
    engine.failure = overloaded()
    check_refusal(ask_for_stream(client), 503, "queue is full", code="queue_full")


def test_a_stream_that_breaks(client: TestClient, engine: FakeEngine) -> None:
    """What fails on the way ends the stream with an error and no reason that is not the client's affair."""
    engine.late_failure = ZeroDivisionError("secret")
    *_, (name, error) = events_of(ask_for_stream(client))
    assert (name, error) == ("error", {"error": "internal error"})


def test_a_stream_past_its_deadline(client: TestClient, engine: FakeEngine) -> None:
    """A stream ends at its deadline, and nobody goes on translating for it."""
    engine.go.clear()
    engine.submit(["in the way"])
    *_, (name, error) = events_of(ask_for_stream(client, deadline_ms=60))
    assert (name, error["code"]) == ("error", "deadline")
    assert engine.futures[1].cancelled()


def test_not_ready() -> None:
    """Before the model is loaded the answer is 503, and GET is not possible."""
    client = TestClient(create_app(Lifecycle(), LIMITS))
    check_refusal(ask(client), 503, "loading", code="not_ready")
    assert client.get("/v1/translate").status_code == 405
