"""The daemon's flight recorder, in memory and over HTTP."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from dynhat_runtime.governor.governor import Governor
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from dynhat_runtime.service import error_answers, trace
from dynhat_runtime.service.door import Door
from dynhat_runtime.service.trace import TracePort
from dynhat_runtime.trace import MAX_PAGE_EVENTS, TableIdentity, TraceHeader, parse_line
from dynhat_runtime.trace_ring import TraceRing, header_of
from tests.hand_made import three_points
from tests.test_trace import HEADER, OBSERVATION, SNAPSHOT


def page(ring: TraceRing, after: int = 0) -> dict[str, Any]:
    """A page as a client reads it."""
    answer = json.loads(ring.page_after(after))
    assert isinstance(answer, dict)
    return answer


def values(answer: dict[str, Any]) -> list[object]:
    """A page's events as values."""
    return [parse_line(json.dumps(event)) for event in answer["events"]]


def test_events_come_back_in_order() -> None:
    """What was told is given back as it was and in that order, decisions with what was chosen and why."""
    ring = TraceRing(HEADER)
    table = three_points()
    governor = Governor(table, GovernorRules(latency_budget_ms=35.0), "p6")
    snapshot = ResourceSnapshot(monotonic_s=1.0, source="host", usable_cpus=(0,))
    decision = governor.decide(snapshot)
    ring.observation(OBSERVATION)
    ring.snapshot(snapshot)
    ring.decision(decision)
    answer = page(ring)
    first, second, third = values(answer)
    assert (first, second) == (OBSERVATION, snapshot)
    assert (answer["next"], answer["lost"]) == (3, 0)
    assert parse_line(json.dumps(answer["header"])) == HEADER
    assert getattr(third, "point_id", None) == decision.point_id == "p1"
    assert getattr(third, "reason", None) == decision.reason
    assert getattr(third, "predicted_ms", None) == decision.candidates[0].predicted_ms


def test_only_what_is_new() -> None:
    """Asked with the last answer's `next`, a page has what came since, and nothing twice."""
    ring = TraceRing(HEADER)
    ring.snapshot(SNAPSHOT)
    following = page(ring)["next"]
    assert page(ring, following) == {**page(ring), "events": [], "next": following}
    ring.observation(OBSERVATION)
    assert values(page(ring, following)) == [OBSERVATION]


def test_the_oldest_make_room_and_are_said_to_be_lost() -> None:
    """However much is told, no more than so many bytes are held, and what is gone is counted exactly."""
    ring = TraceRing(HEADER, max_held_bytes=1000)
    for number in range(1, 1001):
        ring.observation(replace(OBSERVATION, num_src_tokens=number))
    answer = page(ring, 100)
    held = [getattr(event, "num_src_tokens", 0) for event in values(answer)]
    assert held == list(range(1001 - len(held), 1001))
    assert 3 <= len(held) <= 10
    assert answer["lost"] == 1000 - len(held) - 100
    assert answer["next"] == 1000


def test_a_page_is_bounded() -> None:
    """More than a page's events come in several pages, whole and in order."""
    ring = TraceRing(HEADER)
    for number in range(1, MAX_PAGE_EVENTS + 11):
        ring.observation(replace(OBSERVATION, num_src_tokens=number))
    first = page(ring)
    second = page(ring, first["next"])
    assert (len(first["events"]), len(second["events"])) == (MAX_PAGE_EVENTS, 10)
    assert second["events"][0]["num_src_tokens"] == MAX_PAGE_EVENTS + 1


def test_a_number_from_the_future_gives_nothing() -> None:
    """A client that kept a number from an earlier daemon gets no events, and a number that is right."""
    ring = TraceRing(HEADER)
    ring.snapshot(SNAPSHOT)
    assert page(ring, 500) == {**page(ring), "events": [], "next": 1, "lost": 0}


def test_told_and_asked_at_once() -> None:
    """While one thread tells, another that follows `next` gets every event once and in order."""
    ring = TraceRing(HEADER)
    seen: list[int] = []

    def tell() -> None:
        for number in range(1, 3001):
            ring.observation(replace(OBSERVATION, num_src_tokens=number))

    teller = threading.Thread(target=tell)
    teller.start()
    following, is_last = 0, False
    while not is_last:
        is_last = not teller.is_alive()
        answer = page(ring, following)
        following = answer["next"]
        seen += [event["num_src_tokens"] for event in answer["events"]]
    teller.join()
    assert seen == list(range(1, 3001))


def test_header_of_this_device() -> None:
    """The header names the device, the table and every rule, and survives being written."""
    rules = GovernorRules(latency_budget_ms=35.0, policy="ladder", dwell_s=2.0)
    header = header_of(TableIdentity.of(three_points()), rules)
    assert header.device
    assert header.rules["policy"] == "ladder"
    assert parse_line(TraceRing(header).header_line) == header


def client(ring: TracePort | None) -> TestClient:
    """The route alone."""
    app = FastAPI()
    error_answers.install(app)
    app.include_router(trace.router(lambda: ring, Door()))
    return TestClient(app)


def test_over_http() -> None:
    """The route answers with the page; without a number, from the beginning."""
    ring = TraceRing(HEADER)
    ring.snapshot(SNAPSHOT)
    ring.observation(OBSERVATION)
    asking = client(ring)
    assert asking.get("/v1/trace").json() == page(ring)
    assert asking.get("/v1/trace?after=1").json() == page(ring, 1)
    assert asking.get("/v1/trace").headers["content-type"] == "application/json"


@pytest.mark.parametrize("after", ["-1", "1.5", "NaN", "", "x", "9" * 40, "٣", "1e3"])
def test_after_is_a_number(after: str) -> None:
    """Anything but a whole number gets 400 with the field and what to give."""
    answer = client(TraceRing(HEADER)).get("/v1/trace", params={"after": after})
    assert answer.status_code == 400
    assert "'next'" in answer.json()["error"]


def test_nothing_recorded_yet() -> None:
    """While the daemon loads there is no trace: 503, to try again."""
    answer = client(None).get("/v1/trace")
    assert answer.status_code == 503
    assert answer.headers["retry-after"]


def test_the_header_type() -> None:
    """A ring without events still says what it is a recording of."""
    assert isinstance(parse_line(json.dumps(page(TraceRing(HEADER))["header"])), TraceHeader)
