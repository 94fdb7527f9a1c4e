"""What GET /metrics says, in Prometheus' text format: base units, bounded labels, no texts and no addresses.

Counts what passes the service; everything else is read from the engine and the control loop when it is asked for.
Outlives any one application: a reload makes another application over the same counts.
"""

from __future__ import annotations

import platform

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.process_collector import ProcessCollector

from dynhat_runtime import __version__
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.metric_families import ServingCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST

disable_created_metrics()  # type: ignore[no-untyped-call]  # each series' time of birth: half of the answer, unread

DURATION_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
ERROR_BUCKETS = (-0.5, -0.25, -0.1, -0.05, -0.02, 0.0, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)


class Metrics:
    """The counters of one application, and its registry."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "dynhat_http_requests",
            "Requests answered.",
            ["route", "method", "code"],
            registry=self._registry,
        )
        self._duration = Histogram(
            "dynhat_http_request_duration_seconds",
            "From a request's first byte to its answer's last.",
            ["route"],
            registry=self._registry,
            buckets=DURATION_BUCKETS_S,
        )
        self._budget_met = Counter(
            "dynhat_budget_met",
            "Requests with a latency budget of their own, by whether it was met.",
            ["met"],
            registry=self._registry,
        )
        for met in ("true", "false"):
            self._budget_met.labels(met)
        self._prediction_error = Histogram(
            "dynhat_prediction_error_ratio",
            "Predicted over actual latency, minus 1, of requests to /v1/translate.",
            registry=self._registry,
            buckets=ERROR_BUCKETS,
        )
        build = Info("dynhat_build", "What is running.", registry=self._registry)
        build.info({"version": __version__, "python": platform.python_version()})
        ProcessCollector(registry=self._registry)
        self._reloads = Counter(
            "dynhat_reloads", "Reloads asked for, by outcome.", ["outcome"], registry=self._registry
        )
        for outcome in ("done", "refused"):
            self._reloads.labels(outcome)
        self._registry.register(ServingCollector(lifecycle))

    def request_answered(self, route: str, method: str, code: int, duration_s: float) -> None:
        """Count one request; route and method are of those there are, or one word for all others."""
        self._requests.labels(route, method, str(code)).inc()
        self._duration.labels(route).observe(duration_s)

    def promise_kept(self, predicted_ms: float, elapsed_ms: float, is_met: bool) -> None:
        """Note what a translation was predicted to take, what it took, and whether its budget was met."""
        self._prediction_error.observe(predicted_ms / elapsed_ms - 1)
        self._budget_met.labels(str(is_met).lower()).inc()

    def reloaded(self, is_done: bool) -> None:
        """Count one reload of the settings."""
        self._reloads.labels("done" if is_done else "refused").inc()

    def exposition(self) -> bytes:
        """Everything, as GET /metrics answers it."""
        return generate_latest(self._registry)
