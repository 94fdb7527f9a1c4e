"""Spans of answered requests, as a collector receives them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fastapi.testclient import TestClient

from dynhat_runtime.errors import SettingsError
from dynhat_runtime.service.app import create_app
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from dynhat_runtime.service.limits import RequestLimits
from dynhat_runtime.telemetry import RequestSpans
from tests.service_fakes import FakeControl, FakeEngine

TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """Where a collector listens, and what it was sent."""
    bodies: list[bytes] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", bodies
    server.shutdown()
    server.server_close()


def test_a_request_becomes_a_span(collector: tuple[str, list[bytes]]) -> None:
    """A collector is sent route, status, id and point of each request, below the client's span, and no text."""
    service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    endpoint, bodies = collector
    spans = RequestSpans(endpoint)
    engine = FakeEngine()
    lifecycle = Lifecycle()
    lifecycle.ready(Serving(engine, FakeControl(engine)))
    client = TestClient(create_app(lifecycle, RequestLimits(), spans=spans))
    client.post(
        "/v1/translate?key=hush",
        json={"text": "Geheimnis", "source": "en", "target": "de"},
        headers={"X-Request-ID": "r-1", "traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"},
    )
    engine.late_failure = ZeroDivisionError()
    client.post("/v1/translate", json={"text": "a", "source": "en", "target": "de"})
    spans.close()
    sent = [
        span
        for body in bodies
        for resource in service.ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    first, second = sent
    assert first.name == "POST /v1/translate"
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert first.end_time_unix_nano > first.start_time_unix_nano > 1.7e18
    attributes = {each.key: each.value for each in first.attributes}
    assert attributes["http.route"].string_value == "/v1/translate"
    assert attributes["http.response.status_code"].int_value == 200
    assert attributes["dynhat.request_id"].string_value == "r-1"
    assert attributes["dynhat.operating_point"].string_value == "p1"
    assert (first.status.code, second.status.code) == (0, 2)
    assert not any(secret in body for secret in (b"Geheimnis", b"hush") for body in bodies)


def test_a_collector_that_is_not_there() -> None:
    """Nobody listens at the endpoint: requests are answered, and the end does not hang."""
    spans = RequestSpans("http://127.0.0.1:9/v1/traces")
    client = TestClient(create_app(Lifecycle(), RequestLimits(), spans=spans))
    assert client.get("/livez").status_code == 200
    spans.close()


def test_without_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra the setting is refused with what to install."""
    monkeypatch.setattr("dynhat_runtime.telemetry.find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match=r"dynhat-runtime\[otel\]"):
        RequestSpans("http://127.0.0.1:4318/v1/traces")
