"""The Grafana dashboard asks only for metrics that GET /metrics has."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from dynhat_runtime.resource_snapshot import ResourceSnapshot
from dynhat_runtime.service.app import create_app
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from dynhat_runtime.service.limits import RequestLimits
from tests.service_fakes import SINCE, FakeControl, FakeDecision, FakeEngine, FakeStatus

DASHBOARD = Path(__file__).parent.parent / "grafana" / "dynhat.json"


def expressions() -> list[str]:
    """Every query of every panel."""
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def full_exposition() -> str:
    """GET /metrics of a daemon that has every sensor and has done everything once."""
    engine = FakeEngine()
    control = FakeControl(engine)
    control.log.append(FakeDecision("p1", "p2", "better"))
    engine.tallies.batch_done("p1", 1, 8, 9, 0.02)
    for monotonic_s in (1.0, 2.0):
        control.tallies.note_power(monotonic_s, 5000.0)
    snapshot = ResourceSnapshot(
        monotonic_s=1.0,
        source="jetson",
        usable_cpus=(0, 1),
        cpu_current_frequency_hz=1e9,
        cpu_max_frequency_hz=1.5e9,
        cpu_load_fraction=0.5,
        cpu_pressure_fraction=0.1,
        memory_available_mib=1000,
        memory_total_mib=4000,
        temperature_celsius=50,
        gpu_current_frequency_hz=3e8,
        gpu_max_frequency_hz=9e8,
        gpu_load_fraction=0.9,
        power_mw=5000,
        cooling_state_fraction=0.5,
        battery_fraction=0.8,
        sensors=control.state.snapshot.sensors if control.state.snapshot else (),
    )
    control.state = FakeStatus("p1", "auto", SINCE, "start", snapshot)
    lifecycle = Lifecycle()
    lifecycle.ready(Serving(engine, control))
    client = TestClient(create_app(lifecycle, RequestLimits()))
    client.post("/v1/translate", json={"text": "a", "source": "en", "target": "de", "latency_budget_ms": 50})
    return client.get("/metrics").text


def test_every_metric_of_the_dashboard_exists() -> None:
    """No panel asks for a name, or a label of it, that the daemon does not have."""
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(full_exposition()):
        for sample in family.samples:
            labels.setdefault(sample.name, {"job"}).update(sample.labels)
    for expression in expressions():
        names = re.findall(r"\b(?:dynhat|process)_\w+", expression)
        assert names, expression
        for name in names:
            assert name in labels, f"{name} in {expression}"
        known = set().union(*(labels[name] for name in names))
        for group in re.findall(r"\bby \(([^)]*)\)", expression):
            assert {label.strip() for label in group.split(",")} <= known, expression


def test_every_metric_is_on_the_dashboard() -> None:
    """Whatever the daemon measures of itself can be seen."""
    asked = "\n".join(expressions())
    for family in text_string_to_metric_families(full_exposition()):
        if family.name.startswith("dynhat_"):
            assert family.name in asked, family.name
