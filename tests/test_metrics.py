"""GET /metrics, read with the official parser."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from dynhat_runtime import __version__
from dynhat_runtime.queue_load import QueueLoad
from dynhat_runtime.service.app import create_app
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from dynhat_runtime.service.limits import RequestLimits
from tests.service_fakes import FakeControl, FakeDecision, FakeEngine

HELLO = {"source": "en", "target": "de"}


@pytest.fixture
def engine() -> FakeEngine:
    """An engine that answers at once."""
    return FakeEngine()


@pytest.fixture
def control(engine: FakeEngine) -> FakeControl:
    """Its control loop."""
    return FakeControl(engine)


@pytest.fixture
def client(engine: FakeEngine, control: FakeControl) -> TestClient:
    """A client of a daemon that is ready."""
    lifecycle = Lifecycle()
    lifecycle.ready(Serving(engine, control))
    return TestClient(create_app(lifecycle, RequestLimits()))


def read(client: TestClient) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """Every sample by name and labels, as the official parser reads them."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=")
    samples: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(response.text):
        assert family.documentation
        for sample in family.samples:
            samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return samples


def labelled(**labels: str) -> frozenset[tuple[str, str]]:
    """A sample's labels."""
    return frozenset(labels.items())


def test_what_is_said_at_once(client: TestClient) -> None:
    """The state is there before any request: point, queue, sensors, slow-down, error, build."""
    samples = read(client)
    assert samples["dynhat_operating_point"] == {
        labelled(point="p1"): 1,
        labelled(point="p2"): 0,
        labelled(point="p3"): 0,
    }
    assert samples["dynhat_queue_depth"] == {
        labelled(**{"class": "interactive"}): 0,
        labelled(**{"class": "batch"}): 0,
    }
    assert samples["dynhat_sensor_up"] == {labelled(sensor="cpu"): 1, labelled(sensor="thermal"): 0}
    assert samples["dynhat_slow_down_ratio"] == {frozenset(): 1.25}
    assert samples["dynhat_prediction_error_median_ratio"] == {frozenset(): 0.04}
    assert samples["dynhat_guard_retries_total"][labelled(reason="repetition")] == 0
    assert samples["dynhat_refused_points"] == {frozenset(): 0}
    ((labels, value),) = samples["dynhat_build_info"].items()
    assert value == 1
    assert ("version", __version__) in labels


def test_requests_are_counted(client: TestClient) -> None:
    """Every answer counts under its route and status, with its duration."""
    client.post("/translate", json={"q": "a", **HELLO})
    client.post("/translate", json={"q": "a", **HELLO})
    client.post("/translate", json={})
    client.post("/v1/translate", json={"text": "a", **HELLO})
    samples = read(client)
    counted = samples["dynhat_http_requests_total"]
    assert counted[labelled(route="/translate", method="POST", code="200")] == 2
    assert counted[labelled(route="/translate", method="POST", code="400")] == 1
    assert counted[labelled(route="/v1/translate", method="POST", code="200")] == 1
    assert samples["dynhat_http_request_duration_seconds_count"][labelled(route="/translate")] == 3
    assert (
        read(client)["dynhat_http_requests_total"][labelled(route="/metrics", method="GET", code="200")] == 1
    )


def test_made_up_paths_are_one(client: TestClient) -> None:
    """However many paths clients make up, they are one label."""
    for number in range(50):
        client.get(f"/secret/{number}")
    routes = {dict(labels)["route"] for labels in read(client)["dynhat_http_requests_total"]}
    assert routes == {"other"}


def test_every_route_has_its_label(client: TestClient) -> None:
    """No path that GET / names is counted as another."""
    for path in client.get("/", headers={"Accept": "application/json"}).json()["paths"]:
        client.post(path)
    assert "other" not in {dict(labels)["route"] for labels in read(client)["dynhat_http_requests_total"]}


def test_budgets_and_predictions(client: TestClient) -> None:
    """Requests count by whether their budget was met, every promise counts its prediction's error."""
    before = read(client)
    assert before["dynhat_budget_met_total"] == {labelled(met="true"): 0, labelled(met="false"): 0}
    client.post("/v1/translate", json={"text": "a", "latency_budget_ms": 600_000, **HELLO})
    client.post("/v1/translate", json={"text": "a", "latency_budget_ms": 1e-6, **HELLO})
    client.post("/v1/translate", json={"text": "a", **HELLO})
    client.post("/v1/translate", json={"text": "", **HELLO})
    samples = read(client)
    assert samples["dynhat_budget_met_total"] == {labelled(met="true"): 2, labelled(met="false"): 1}
    assert samples["dynhat_prediction_error_ratio_count"] == {frozenset(): 3}


def test_switches_are_counted_once(client: TestClient, control: FakeControl) -> None:
    """Switches count by from, to and reason, each once however often it is asked; a decision to stay does not."""
    control.log += [
        FakeDecision("p1", "p2", "better"),
        FakeDecision("p2", "p1", "slow", "over_budget"),
        FakeDecision("p1", "p1", "stay", "best_fits"),
    ]
    up = labelled(**{"from": "p1", "to": "p2", "reason": "step_up"})
    down = labelled(**{"from": "p2", "to": "p1", "reason": "over_budget"})
    for _ in range(3):
        assert read(client)["dynhat_switches_total"] == {up: 1, down: 1}
    control.log[-1:] = [FakeDecision("p1", "p2", "better"), FakeDecision("p2", "p2", "stay", "best_fits")]
    for _ in range(3):
        assert read(client)["dynhat_switches_total"] == {up: 2, down: 1}


def test_retries_and_refusals(client: TestClient, engine: FakeEngine) -> None:
    """What the engine's guard did is passed on by reason."""
    engine.guard_retries["repetition"] = 4
    engine.refused = {"p9": "nonsense"}
    engine.queue_load = QueueLoad(requests=2, sentences=3, of_batch_requests=1, tokens=40)
    samples = read(client)
    assert samples["dynhat_guard_retries_total"] == {
        labelled(reason="repetition"): 4,
        labelled(reason="empty"): 0,
    }
    assert samples["dynhat_refused_points"] == {frozenset(): 1}
    assert samples["dynhat_queue_depth"] == {
        labelled(**{"class": "interactive"}): 2,
        labelled(**{"class": "batch"}): 1,
    }
    assert samples["dynhat_queue_requests"] == {frozenset(): 2}
    assert samples["dynhat_queue_tokens"] == {frozenset(): 40}


def test_no_text_and_no_address(client: TestClient) -> None:
    """Nothing that a client sends appears."""
    client.post(
        "/translate?key=hush", json={"q": "Geheimnis", **HELLO}, headers={"X-Forwarded-For": "10.9.8.7"}
    )
    client.get("/Geheimnis")
    text = client.get("/metrics").text
    for secret in ("Geheimnis", "GEHEIMNIS", "hush", "10.9.8.7", "testclient"):
        assert secret not in text


def test_while_loading() -> None:
    """Before anything is loaded there are metrics, without an engine's."""
    client = TestClient(create_app(Lifecycle(), RequestLimits()))
    client.get("/health")
    samples = read(client)
    assert samples["dynhat_http_requests_total"] == {labelled(route="/health", method="GET", code="503"): 1}
    assert "dynhat_operating_point" not in samples


def test_two_applications_do_not_mix(engine: FakeEngine, control: FakeControl) -> None:
    """Each application counts for itself."""
    clients: list[Any] = []
    for _ in range(2):
        lifecycle = Lifecycle()
        lifecycle.ready(Serving(engine, control))
        clients.append(TestClient(create_app(lifecycle, RequestLimits())))
    clients[0].get("/health")
    assert "dynhat_http_requests_total" not in read(clients[1])
