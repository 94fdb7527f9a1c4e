"""The service's door, ids, origins and health over HTTP, against a fake engine."""

from __future__ import annotations

import json
import logging
import urllib.request
from typing import Any

import pytest
from fastapi.testclient import TestClient

from dynhat_runtime.service import deepl
from dynhat_runtime.service.app import Terms, create_app
from dynhat_runtime.service.door import Door
from dynhat_runtime.service.keys import KeyRing
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.limits import RequestLimits
from tests.served import served
from tests.service_fakes import FakeEngine, FakeTrace

KEY, SLOW_KEY = "kitchen-0123456789abcdef", "night-0123456789abcdef"
HELLO = {"text": ["Hello there."], "source": "en", "target": "de"}
OPEN_PATHS = {
    "/",
    "/health",
    "/livez",
    "/readyz",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/translation",
    "/v2/models/translation/ready",
    "/languages",
    "/frontend/settings",
    "/metrics",
    "/openapi.json",
}
"""What is answered without a key: nothing that costs, decides or tells of others."""


def make_client(lifecycle: Lifecycle, limits: RequestLimits | None = None, **terms: Any) -> TestClient:
    """A client of that daemon on these terms."""
    app = create_app(lifecycle, limits or RequestLimits(), FakeTrace, terms=Terms(**terms))
    return TestClient(app, base_url="http://127.0.0.1")


def guarded(lifecycle: Lifecycle, **terms: Any) -> TestClient:
    """A client of a daemon that asks for keys."""
    fields = {
        "keys": {
            "kitchen": {"key": KEY},
            "night": {"key": SLOW_KEY, "priority": "batch", "rate_limit_per_minute": 1},
        }
    }
    return make_client(lifecycle, door=Door(KeyRing.of(fields, "test")), **terms)


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


# --- keys ---


def test_every_path_is_behind_the_door_or_listed(lifecycle: Lifecycle) -> None:
    """Without a key every path refuses, but for those that are open on purpose."""
    client = guarded(lifecycle)
    for path, operations in create_app(Lifecycle(), RequestLimits()).openapi()["paths"].items():
        for method in operations:
            body = {"json": {"q": "a", "source": "en", "target": "de"}} if method in ("post", "put") else {}
            status = client.request(method, path, **body).status_code
            if path in OPEN_PATHS:
                assert status == 200, path
            elif path in ("/translate", "/detect"):  # LibreTranslate's own answer to a missing key
                assert status == 400, path
            else:
                assert status == (403 if path in deepl.PATHS else 401), path


def test_a_key_opens(lifecycle: Lifecycle) -> None:
    """With a key, in either header or LibreTranslate's field, the same paths answer."""
    client = guarded(lifecycle)
    assert client.post("/v1/translate", json=HELLO, headers=bearer(KEY)).status_code == 200
    assert client.get("/v1/decisions", headers={"X-API-Key": KEY}).status_code == 200
    fields = {"q": "a", "source": "en", "target": "de"}
    assert client.post("/translate", json={**fields, "api_key": KEY}).json() == {"translatedText": "A"}
    assert client.post("/translate", data={**fields, "api_key": KEY}).status_code == 200
    assert client.post(f"/translate?api_key={KEY}", json=fields).status_code == 200
    assert client.post("/translate", json=fields, headers=bearer(KEY)).status_code == 200


def test_refusals_in_each_tongue(lifecycle: Lifecycle) -> None:
    """Our own paths answer 401 with a code, LibreTranslate's 400 without a key and 403 with a wrong one."""
    client = guarded(lifecycle)
    missing = client.post("/v1/translate", json=HELLO)
    assert (missing.status_code, missing.json()["code"]) == (401, "missing_key")
    assert missing.headers["WWW-Authenticate"] == "Bearer"
    unknown = client.post("/v1/translate", json=HELLO, headers=bearer("guess-0123456789"))
    assert (unknown.status_code, unknown.json()["code"]) == (401, "unknown_key")
    fields = {"q": "a", "source": "en", "target": "de"}
    assert client.post("/translate", json=fields).status_code == 400
    wrong = client.post("/translate", json={**fields, "api_key": "guess-0123456789"})
    assert (wrong.status_code, list(wrong.json())) == (403, ["error"])


def test_a_key_that_comes_too_often(lifecycle: Lifecycle, engine: FakeEngine) -> None:
    """Beyond a key's rate the answer is 429 with Retry-After, and nothing is translated; other keys go on."""
    client = guarded(lifecycle)
    assert client.post("/v1/translate", json=HELLO, headers=bearer(SLOW_KEY)).status_code == 200
    refused = client.post("/v1/translate", json=HELLO, headers=bearer(SLOW_KEY))
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert len(engine.submitted) == 1
    assert client.post("/v1/translate", json=HELLO, headers=bearer(KEY)).status_code == 200


def test_a_key_has_a_class(lifecycle: Lifecycle, engine: FakeEngine) -> None:
    """A key's requests wait in its class where they do not say; what they say wins."""
    client = guarded(lifecycle)
    client.post("/v1/translate", json=HELLO, headers=bearer(SLOW_KEY))
    client.post("/v1/translate", json={**HELLO, "priority": "batch"}, headers=bearer(KEY))
    client.post("/translate", json={"q": "a", "source": "en", "target": "de", "api_key": KEY})
    assert [asked["priority"] for asked in engine.asked] == ["batch", "batch", "interactive"]


# --- metrics' token, origins, prefix ---


def test_metrics_behind_a_token(lifecycle: Lifecycle) -> None:
    """With a token for metrics, that token alone opens them; told not to show any, there is no such path."""
    client = guarded(lifecycle, metrics_token="scrape-me-please")
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers=bearer(KEY)).status_code == 401
    assert client.get("/metrics", headers=bearer("scrape-me-please")).status_code == 200
    assert make_client(lifecycle, shows_metrics=False).get("/metrics").status_code == 404


def test_other_origins(lifecycle: Lifecycle) -> None:
    """No page of another origin may call, unless its origin is listed."""
    asking = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    name = "Access-Control-Allow-Origin"
    assert name not in make_client(lifecycle).get("/", headers=asking).headers
    client = make_client(lifecycle, cors_origins=("https://a.example",))
    assert client.get("/", headers=asking).headers[name] == "https://a.example"
    assert client.options("/v1/translate", headers=asking).headers[name] == "https://a.example"
    assert name not in client.get("/", headers={"Origin": "https://b.example"}).headers


def test_below_a_path(lifecycle: Lifecycle) -> None:
    """With a prefix everything lies below it, and nothing elsewhere."""
    client = make_client(lifecycle, url_prefix="/mt")
    assert client.get("/mt/health").json() == {"status": "ok"}
    assert client.get("/mt", headers={"Accept": "application/json"}).json()["name"] == "dynhat-runtime"
    moved = client.get("/mt", follow_redirects=False)
    assert (moved.status_code, moved.headers["location"]) == (308, "/mt/")
    for path in ("/health", "/mtx/health", "/"):
        assert client.get(path).status_code == 404
    assert 'route="/health"' in client.get("/mt/metrics").text


# --- request ids and log lines ---


@pytest.mark.parametrize("offered", ["a", "Abc-1.2:3_4", "x" * 128])
def test_a_request_keeps_its_id(lifecycle: Lifecycle, engine: FakeEngine, offered: str) -> None:
    """A client's id comes back with the answer and goes with the request to the engine."""
    response = make_client(lifecycle).post("/v1/translate", json=HELLO, headers={"X-Request-ID": offered})
    assert response.headers["X-Request-ID"] == offered
    assert engine.asked[0]["request_id"] == offered


@pytest.mark.parametrize("offered", [None, "", "a b", "x" * 129, "é", 'a"b', "a\\nb", "a/../b"])
def test_an_id_that_cannot_be(lifecycle: Lifecycle, offered: str | None) -> None:
    """Without an id, or with one that is not fit for a log line, a request gets a new one; errors have one too."""
    headers = {} if offered is None else {"X-Request-ID": offered.encode("latin-1")}
    client = make_client(lifecycle)
    ids = {
        client.get("/nothing", headers=headers).headers["X-Request-ID"],  # type: ignore[arg-type]
        client.get("/", headers=headers).headers["X-Request-ID"],  # type: ignore[arg-type]
    }
    assert len(ids) == 2
    assert all(len(each) == 32 and each.isalnum() for each in ids)


@pytest.mark.parametrize("log_texts", [False, True])
def test_what_is_logged(lifecycle: Lifecycle, caplog: pytest.LogCaptureFixture, log_texts: bool) -> None:
    """A line per answer says route, status, time and whose key, and the text only where that was asked for."""
    client = guarded(lifecycle)
    if log_texts:
        client = make_client(lifecycle, RequestLimits(log_texts=True))
    with caplog.at_level(logging.INFO, logger="dynhat_runtime"):
        client.post("/v1/translate", json=HELLO, headers=bearer(KEY))
        client.post("/translate?q=x", json={"q": "Geheimnis", "source": "en", "target": "de", "api_key": KEY})
        client.get("/Geheimnis")
        client.get("/health")
    lines = [record for record in caplog.records if record.getMessage() == "answered"]
    assert [(line.route, line.code) for line in lines] == [  # type: ignore[attr-defined]
        ("/v1/translate", 200),
        ("/translate", 200),
        ("other", 404),
    ]
    assert lines[0].caller == ("anybody" if log_texts else "kitchen")  # type: ignore[attr-defined]
    told = [str(vars(line)) for line in lines]
    assert not any(KEY in each for each in told)
    assert ("Hello there." in told[0]) is log_texts
    assert ("Geheimnis" in told[1]) is log_texts
    assert "Geheimnis" not in told[2]


# --- health ---


def test_alive_and_ready(lifecycle: Lifecycle, engine: FakeEngine) -> None:
    """Liveness and readiness answer in Kubernetes' and KServe's places, also while the engine is busy."""
    engine.go.clear()
    engine.submit(["in the way"])
    client = make_client(lifecycle)
    for path in ("/livez", "/v2/health/live"):
        assert (client.get(path).status_code, client.get(path).json()) == (200, {"live": True})
    for path in ("/readyz", "/v2/health/ready", "/v2/models/translation/ready"):
        assert (client.get(path).status_code, client.get(path).json()) == (
            200,
            {"ready": True, "status": "ok"},
        )
    assert client.get("/v2").json()["name"] == "dynhat-runtime"
    assert client.get("/v2/models/translation").json()["name"] == "translation"
    assert client.get("/v2/models/another").status_code == 404


def test_loading_is_alive_and_not_ready() -> None:
    """While it loads it is alive and not ready."""
    client = make_client(Lifecycle())
    assert client.get("/livez").status_code == 200
    assert (client.get("/readyz").status_code, client.get("/readyz").json()["status"]) == (503, "loading")


def test_leaving_serves_on(lifecycle: Lifecycle) -> None:
    """During the grace period it is not ready, and still translates; draining, it does not."""
    client = make_client(lifecycle)
    lifecycle.leave()
    assert client.get("/readyz").json() == {"ready": False, "status": "draining"}
    assert client.get("/health").status_code == 503
    assert client.post("/v1/translate", json=HELLO).status_code == 200
    lifecycle.drain()
    refused = client.post("/v1/translate", json=HELLO)
    assert (refused.status_code, refused.json()["code"]) == (503, "not_ready")
    assert refused.headers["Connection"] == "close"
    assert client.get("/livez").status_code == 200


def test_stuck_is_not_alive(lifecycle: Lifecycle) -> None:
    """Who watches decoding may call it stuck: then it is neither alive nor ready."""
    lifecycle.is_stuck = True
    client = make_client(lifecycle)
    assert (client.get("/livez").status_code, client.get("/livez").json()) == (503, {"live": False})
    assert client.get("/readyz").status_code == 503


# --- resources and events ---


def test_resources(lifecycle: Lifecycle) -> None:
    """The latest reading of the device, as the active point's answer has it."""
    client = make_client(lifecycle)
    answer = client.get("/v1/resources").json()["resources"]
    assert answer == client.get("/v1/operating-point").json()["resources"]
    assert answer["cpu_quota_cpus"] == 1.5


def test_events(lifecycle: Lifecycle) -> None:
    """Events begin with the state and the device, tell of each change, and end when the daemon drains."""
    seen: list[str] = []
    with served(lifecycle) as url, urllib.request.urlopen(f"{url}/v1/events", timeout=30) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")
        for raw in response:
            line = raw.decode().rstrip("\n")
            seen += [line] if line else []
            if len(seen) == 4:
                lifecycle.serving.control.pin("p3")
            if line.startswith("data: ") and '"mode": "pinned"' in line:
                lifecycle.drain()
    names = [line.removeprefix("event: ") for line in seen if line.startswith("event: ")]
    assert names[:2] == ["state", "resources"]
    assert names.count("state") == 2
    assert names[-1] == "end"
    assert json.loads(seen[1].removeprefix("data: "))["active"]["id"] == "p1"
