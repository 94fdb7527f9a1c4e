"""What GET /metrics says, in Prometheus' text format: base units, bounded labels, no texts and no addresses.

The only importer of prometheus_client. Counts what passes the service; everything else is read from the engine and
the control loop when it is asked for. Each application has a registry of its own.
"""

from __future__ import annotations

import platform
from collections import Counter as Count
from collections.abc import Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from dynhat_runtime import __version__
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from dynhat_runtime.service.ports import DecisionPort

CONTENT_TYPE = CONTENT_TYPE_LATEST

disable_created_metrics()  # type: ignore[no-untyped-call]  # each series' time of birth: half of the answer, unread

DURATION_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
ERROR_BUCKETS = (-0.5, -0.25, -0.1, -0.05, -0.02, 0.0, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0)

WHY_LOG = 256
"""Decisions looked through for switches: only more switches than this between two readings would be missed."""


class Metrics:
    """The counters of one application, and its registry."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "dynhat_requests", "Requests answered.", ["route", "code"], registry=self._registry
        )
        self._duration = Histogram(
            "dynhat_request_duration_seconds",
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
        self._registry.register(_ServingCollector(lifecycle))

    def request_answered(self, route: str, code: int, duration_s: float) -> None:
        """Count one request; `route` is one of the routes there are, or one word for all others."""
        self._requests.labels(route, str(code)).inc()
        self._duration.labels(route).observe(duration_s)

    def promise_kept(self, predicted_ms: float, elapsed_ms: float, is_met: bool | None) -> None:
        """Note what a translation was predicted to take and what it took; `is_met` is None without a budget."""
        self._prediction_error.observe(predicted_ms / elapsed_ms - 1)
        if is_met is not None:
            self._budget_met.labels(str(is_met).lower()).inc()

    def exposition(self) -> bytes:
        """Everything, as GET /metrics answers it."""
        return generate_latest(self._registry)


class _ServingCollector(Collector):
    """Reads the engine and the control loop, once they are loaded."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._switches: Count[tuple[str, str, str]] = Count()
        self._last_seen: DecisionPort | None = None

    def describe(self) -> Iterator[Metric]:
        """Nothing beforehand, so that registering reads nothing."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """What there is to say at this moment."""
        serving = self._lifecycle.loaded
        if serving is None:
            return
        yield from _engine_metrics(serving)
        yield from _control_metrics(serving)
        yield self._switch_metric(serving)

    def _switch_metric(self, serving: Serving) -> Metric:
        """Switches since the daemon began, counted on from the last reading of the why-log."""
        decisions = serving.control.decisions(WHY_LOG)
        for decision in reversed(decisions):
            if decision is self._last_seen:
                break
            if decision.changed:
                self._switches[decision.active_id, decision.point_id, decision.reason_code] += 1
        changes = [decision for decision in decisions if decision.changed]
        self._last_seen = changes[-1] if changes else self._last_seen
        metric = CounterMetricFamily(
            "dynhat_switches", "Changes of the active operating point.", labels=["from", "to", "reason"]
        )
        for labels, number in sorted(self._switches.items()):
            metric.add_metric(labels, number)
        return metric


def _engine_metrics(serving: Serving) -> Iterator[Metric]:
    engine = serving.engine
    active = GaugeMetricFamily(
        "dynhat_operating_point", "1 for the active operating point.", labels=["point"]
    )
    for point in engine.table:
        active.add_metric([point.id], float(point.id == engine.active_point_id))
    yield active
    yield GaugeMetricFamily("dynhat_queue_depth", "Sentences waiting.", value=engine.queue_depth)
    yield GaugeMetricFamily(
        "dynhat_refused_points", "Points of the table that failed their canaries.", value=len(engine.refused)
    )
    retries = CounterMetricFamily(
        "dynhat_guard_retries",
        "Requests translated anew because the output was degenerate.",
        labels=["reason"],
    )
    for reason, number in sorted(engine.guard_retries.items()):
        retries.add_metric([reason], number)
    yield retries


def _control_metrics(serving: Serving) -> Iterator[Metric]:
    status = serving.control.status()
    sensors = GaugeMetricFamily("dynhat_sensor_up", "1 where a sensor answers.", labels=["sensor"])
    for sensor in () if status.snapshot is None else status.snapshot.sensors:
        sensors.add_metric([sensor.name], float(sensor.is_up))
    yield sensors
    if status.slow_down_factor is not None:
        yield GaugeMetricFamily(
            "dynhat_slow_down_ratio",
            "How much slower than measured translations are at present.",
            value=status.slow_down_factor,
        )
    if status.prediction_error_fraction is not None:
        yield GaugeMetricFamily(
            "dynhat_prediction_error_median_ratio",
            "Median absolute error of the last predictions of a batch.",
            value=status.prediction_error_fraction,
        )
