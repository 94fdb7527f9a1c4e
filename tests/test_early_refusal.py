"""A full queue refuses before anything is read, but tells only those who may ask; against a fake engine."""

from __future__ import annotations

import asyncio

import pytest
from fastapi.testclient import TestClient
from starlette.types import Message

from dynhat_runtime.service.app import Terms, create_app
from dynhat_runtime.service.door import Door
from dynhat_runtime.service.keys import KeyRing
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.limits import RequestLimits
from tests.service_fakes import FakeEngine, overloaded

KEY = "kitchen-0123456789abcdef"
PATHS = {"/translate": 429, "/v2/translate": 429, "/v1/translate": 503, "/v1/translate/stream": 503}


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_read(lifecycle: Lifecycle, engine: FakeEngine, path: str) -> None:
    """Each facade's refusal comes while the body has not begun to arrive."""
    engine.failure = overloaded()
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body was asked for")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
    asyncio.run(create_app(lifecycle, RequestLimits())(scope, receive, send))
    assert sent[0]["status"] == PATHS[path]
    headers = dict(sent[0]["headers"])
    assert headers[b"retry-after"] == b"3"
    assert headers[b"x-operating-point"] == b"p1"
    assert (b"queue_full" in sent[1]["body"]) == path.startswith("/v1")


def test_only_who_may_ask_is_told(lifecycle: Lifecycle, engine: FakeEngine) -> None:
    """With keys, whoever brings none or a wrong one hears that, and nothing of the queue."""
    engine.failure = overloaded()
    keys = KeyRing.of({"keys": {"kitchen": {"key": KEY}}}, "test")
    client = TestClient(create_app(lifecycle, RequestLimits(), terms=Terms(door=Door(keys))))
    body = {"text": "a", "source": "en", "target": "de"}
    assert client.post("/v1/translate", json=body).json()["code"] == "missing_key"
    wrong = {"Authorization": "Bearer no-such-key-0123456789"}
    assert client.post("/v1/translate", json=body, headers=wrong).json()["code"] == "unknown_key"
    right = {"Authorization": f"Bearer {KEY}"}
    assert client.post("/v1/translate", json=body, headers=right).json()["code"] == "queue_full"
    in_body = {"q": "a", "source": "en", "target": "de", "api_key": KEY}
    assert client.post("/translate", json=in_body).status_code == 429


def test_a_refusal_costs_no_token(lifecycle: Lifecycle, engine: FakeEngine) -> None:
    """A key that may come once a minute and met a full queue may still come once."""
    keys = KeyRing.of({"keys": {"kitchen": {"key": KEY, "rate_limit_per_minute": 1}}}, "test")
    client = TestClient(create_app(lifecycle, RequestLimits(), terms=Terms(door=Door(keys))))
    headers, body = {"X-API-Key": KEY}, {"text": "a", "source": "en", "target": "de"}
    engine.failure = overloaded()
    statuses = [client.post("/v1/translate", json=body, headers=headers).status_code for _ in range(3)]
    engine.failure = None
    statuses += [client.post("/v1/translate", json=body, headers=headers).status_code for _ in range(2)]
    assert statuses == [503, 503, 503, 200, 429]


def test_what_is_no_translation_is_answered(lifecycle: Lifecycle, engine: FakeEngine) -> None:
    """A full queue keeps nobody from asking for languages, health or the wrong method."""
    engine.failure = overloaded()
    client = TestClient(create_app(lifecycle, RequestLimits()))
    paths = ("/languages", "/readyz", "/v1/resources", "/v2/usage")
    assert [client.get(path).status_code for path in paths] == [200] * len(paths)
    assert client.get("/v1/translate").status_code == 405
