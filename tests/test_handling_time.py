"""Tests of what requests take besides being decoded: measured, learned, and added to every prediction."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import uvicorn
from fastapi.testclient import TestClient

from dynhat_runtime.governor.forecast import Forecast
from dynhat_runtime.governor.handling_time import HandlingTime
from dynhat_runtime.governor.latency_model import LatencyModel
from dynhat_runtime.governor.request_choice import RequestWish
from dynhat_runtime.observation import Handling
from dynhat_runtime.replay.replayer import Decided, Replayer
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from dynhat_runtime.service.app import create_app
from dynhat_runtime.service.limits import RequestLimits
from tests.control_fakes import wait_until
from tests.hand_made import three_points
from tests.service_fakes import FakeControl, FakeEngine, ready
from tests.test_governor import BUDGET_MS, FOUR_CPUS, Bench
from tests.test_replay import LADDER, decisions, snapshot, translated

LIMITS = RequestLimits(char_limit=100, batch_limit=4, timeout_s=10)
ASKED = {"text": "Hello there.", "source": "en", "target": "de"}
BODY_S = 0.3


# --- what is believed -------------------------------------------------------------------------------------------


def test_it_follows_what_is_seen() -> None:
    """Nothing is believed at first; steady requests are believed soon, others within dozens."""
    belief = HandlingTime()
    assert belief.mean_ms == 0
    for _ in range(10):
        belief = belief.updated(4.0)
    assert belief.mean_ms == pytest.approx(4.0, rel=0.15)
    for _ in range(40):
        belief = belief.updated(8.0)
    assert belief.mean_ms == pytest.approx(8.0, rel=0.05)


def test_a_wild_request_moves_little() -> None:
    """One request that took a second changes the belief by less than a third, and the next ones bring it back."""
    belief = HandlingTime(mean_ms=4.0, num_observed=100)
    after = belief.updated(1000.0)
    assert 4.0 < after.mean_ms < 5.2
    for _ in range(30):
        after = after.updated(4.0)
    assert after.mean_ms == pytest.approx(4.0, rel=0.02)


# --- what follows from it ---------------------------------------------------------------------------------------


def forecast(snapshot: ResourceSnapshot, handling_ms: float) -> Forecast:
    """Of the hand-made points, with nothing learned but this."""
    return Forecast.of(LatencyModel(three_points()), snapshot, None, confidence=0.95, handling_ms=handling_ms)


@pytest.mark.parametrize(
    "resources", [FOUR_CPUS, replace(FOUR_CPUS, cpu_quota_cpus=0.5, cpu_quota_period_ms=10.0)]
)
def test_it_is_added_to_every_point(resources: ResourceSnapshot) -> None:
    """Of every point the request takes so much longer, needs so much more, and meets a so much larger budget alike."""
    without, with_it = forecast(resources, 0.0), forecast(resources, 5.0)
    for point in three_points():
        decoding_ms = without.predicted_ms(point.id, 30, 30)
        assert with_it.predicted_ms(point.id, 30, 30) == pytest.approx(decoding_ms + 5)
        assert with_it.needed_ms(decoding_ms + 5) == pytest.approx(without.needed_ms(decoding_ms) + 5)
        assert with_it.probability_met(decoding_ms + 5, 45.0) == pytest.approx(
            without.probability_met(decoding_ms, 40.0)
        )
    assert with_it.largest_met_ms(45.0) == pytest.approx(without.largest_met_ms(40.0) + 5)


def test_a_budget_below_it_is_met_by_nothing() -> None:
    """A budget that handling alone takes up has no chance, and is no error."""
    assert forecast(FOUR_CPUS, 5.0).probability_met(15.0, 4.0) < 1e-6


def test_the_governor_counts_it() -> None:
    """A point whose decoding alone fits gives way once requests take too long in all; its batches' predictions stay."""
    bench = Bench()
    bench.decide()
    assert bench.work(1.0, 20).point_id == "p6"
    for _ in range(50):
        bench.governor.note_handling(Handling(monotonic_s=bench.now_s, elapsed_ms=BUDGET_MS - 30))
    decision = bench.decide()
    assert decision.point_id == "p3"
    assert decision.handling_ms == pytest.approx(BUDGET_MS - 30, rel=0.02)
    assert "ms besides decoding" in decision.reason
    choice = bench.governor.choose(RequestWish(num_src_tokens=(30,), point_id="p1"))
    assert choice.predicted_ms == pytest.approx(10 + BUDGET_MS - 30, rel=0.1)
    result = bench.translate(1.0)
    assert result is not None
    assert result.error_fraction == pytest.approx(0, abs=0.1)


def test_a_replay_counts_it() -> None:
    """Recorded handling bears on the decisions after it, of the policy that learns alone."""
    seen = [translated(0.1 * i, "p6", 30.0) for i in range(1, 10)]
    handled = [Handling(monotonic_s=1.0, elapsed_ms=25.0)] * 50
    events = [snapshot(0.0), *seen, *handled, snapshot(5.0)]
    for policy, expected in (("predictive", ["p6", "p1"]), ("ladder", ["p6", "p6"])):
        rules = replace(LADDER, policy=policy)
        found = [step for step in Replayer(three_points(), rules).steps(events) if isinstance(step, Decided)]
        assert decisions(found) == expected


# --- how it is measured -----------------------------------------------------------------------------------------


def test_a_request_of_one_sentence_tells(engine: FakeEngine, control: FakeControl) -> None:
    """Its time is noted once, less what the engine took; where it took all, as here, next to nothing is left."""
    client = TestClient(create_app(ready(engine, control), LIMITS))
    answer = client.post("/v1/translate", json=ASKED).json()
    (noted,) = control.handlings
    assert noted.elapsed_ms > 0
    assert noted.elapsed_ms < answer["translations"][0]["elapsed_ms"] + 100


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/translate", {**ASKED, "text": ["One.", "Two."]}),
        ("/v1/translate", {**ASKED, "text": ""}),
        ("/v1/translate", {**ASKED, "source": "xx"}),
        ("/nowhere", ASKED),
    ],
)
def test_others_tell_nothing(engine: FakeEngine, control: FakeControl, path: str, body: object) -> None:
    """Several texts, nothing to translate, a refusal: no figure of a sentence."""
    TestClient(create_app(ready(engine, control), LIMITS)).post(path, json=body)
    assert control.handlings == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/translate", {"q": "Hello.", "source": "en", "target": "de"}),
        ("/v2/translate", {"text": ["Hello."], "target_lang": "DE"}),
    ],
)
def test_the_facades_tell_too(engine: FakeEngine, control: FakeControl, path: str, body: object) -> None:
    """A daemon that only LibreTranslate's or DeepL's clients ask learns it as well."""
    answer = TestClient(create_app(ready(engine, control), LIMITS)).post(path, json=body)
    assert answer.status_code == 200, answer.text
    assert len(control.handlings) == 1


@pytest.fixture
def served(engine: FakeEngine, control: FakeControl) -> Iterator[int]:
    """The port of a real server around the fakes."""
    server = uvicorn.Server(
        uvicorn.Config(create_app(ready(engine, control), LIMITS), port=0, log_level="error", lifespan="off")
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def test_a_body_that_takes_its_time_is_the_clients_affair(served: int, control: FakeControl) -> None:
    """Neither the answer's time nor what is learned holds the wait for a slow client."""
    body = json.dumps(ASKED).encode()
    head = f"POST /v1/translate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    with socket.create_connection(("127.0.0.1", served)) as connection:
        began_s = time.monotonic()
        connection.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body[:10])
        time.sleep(BODY_S)
        connection.sendall(body[10:])
        received = b""
        while part := connection.recv(65536):
            received += part
        took_ms = (time.monotonic() - began_s) * 1e3
    (translation,) = json.loads(received.partition(b"\r\n\r\n")[2])["translations"]
    # What the daemon did before it needed the body, it did while the client was still sending: that counts.
    assert translation["elapsed_ms"] < took_ms - BODY_S * 1e3 / 2
    wait_until(lambda: bool(control.handlings))  # it is noted once the answer has left
    (noted,) = control.handlings
    assert noted.elapsed_ms < took_ms - BODY_S * 1e3 / 2
