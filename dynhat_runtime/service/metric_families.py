"""What the engine, the control loop and the device say of themselves, as families of metrics, at the moment of asking.

Counts nothing but switches, which it reads out of the why-log. What is not known is left out, never zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from dynhat_runtime.resource_snapshot import ResourceSnapshot
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from dynhat_runtime.service.ports import DecisionPort
from dynhat_runtime.tally import Tally

WHY_LOG = 256
"""Decisions looked through for switches: only more switches than this between two readings would be missed."""

MIB = 2**20

DEVICE_GAUGES = (
    # name, what it is, field of the snapshot, factor to the base unit
    ("effective_cpus", "CPU time that the process can get, in CPUs.", "effective_cpus", 1.0),
    ("cpu_load_ratio", "Busy share of all CPUs.", "cpu_load_fraction", 1.0),
    (
        "cpu_pressure_ratio",
        "Share of the last 10 s in which a task waited for a CPU.",
        "cpu_pressure_fraction",
        1.0,
    ),
    ("gpu_load_ratio", "Busy share of the GPU.", "gpu_load_fraction", 1.0),
    ("memory_available_bytes", "Memory that can be had.", "memory_available_mib", MIB),
    ("memory_size_bytes", "Memory there is.", "memory_total_mib", MIB),
    ("temperature_celsius", "The hottest thermal zone.", "temperature_celsius", 1.0),
    ("cooling_state_ratio", "The most engaged cooling device's state.", "cooling_state_fraction", 1.0),
    ("power_watts", "Power that the board draws.", "power_mw", 1e-3),
    ("battery_ratio", "Charge of the battery.", "battery_fraction", 1.0),
)


class ServingCollector(Collector):
    """Reads the lifecycle, and once something is loaded the engine and the control loop."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._switches: Counter[tuple[str, str, str]] = Counter()
        self._last_seen: DecisionPort | None = None

    def describe(self) -> Iterator[Metric]:
        """Nothing beforehand, so that registering reads nothing."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """What there is to say at this moment."""
        yield GaugeMetricFamily(
            "dynhat_ready", "1 when new clients should come here.", value=float(self._lifecycle.is_ready)
        )
        yield GaugeMetricFamily(
            "dynhat_requests_in_flight", "Requests being answered.", value=self._lifecycle.num_in_flight
        )
        serving = self._lifecycle.loaded
        if serving is None:
            return
        yield from _engine_families(serving)
        yield from _queue_families(serving)
        yield from _control_families(serving)
        yield self._switch_family(serving)
        snapshot = serving.control.status().snapshot
        if snapshot is not None:
            yield from _device_families(snapshot)

    def _switch_family(self, serving: Serving) -> Metric:
        """Switches since the daemon began, counted on from the last reading of the why-log."""
        decisions = serving.control.decisions(WHY_LOG)
        for decision in reversed(decisions):
            if decision is self._last_seen:
                break
            if decision.changed:
                self._switches[decision.active_id, decision.point_id, decision.reason_code] += 1
        changes = [decision for decision in decisions if decision.changed]
        self._last_seen = changes[-1] if changes else self._last_seen
        family = CounterMetricFamily(
            "dynhat_switches", "Changes of the active operating point.", labels=["from", "to", "reason"]
        )
        for labels, number in sorted(self._switches.items()):
            family.add_metric(labels, number)
        return family


def _histogram(name: str, about: str, tally: Tally) -> Metric:
    """A distribution without labels."""
    family = HistogramMetricFamily(name, about)
    _add(family, [], tally)
    return family


def _histograms(name: str, about: str, label: str, tallies: Mapping[str, Tally]) -> Metric:
    """A distribution for each value of a label."""
    family = HistogramMetricFamily(name, about, labels=[label])
    for value, tally in sorted(tallies.items()):
        _add(family, [value], tally)
    return family


def _add(family: HistogramMetricFamily, labels: list[str], tally: Tally) -> None:
    copy = tally.copy()
    buckets: list[tuple[str, float]] = [
        (str(float(edge)), number) for edge, number in zip(copy.edges, copy.at_or_below, strict=True)
    ]
    family.add_metric(labels, buckets=[*buckets, ("+Inf", copy.number)], sum_value=copy.total)


def _counters(name: str, about: str, label: str, numbers: Mapping[str, float]) -> Metric:
    """A counter for each value of a label."""
    family = CounterMetricFamily(name, about, labels=[label])
    for value, number in sorted(numbers.items()):
        family.add_metric([value], number)
    return family


def _engine_families(serving: Serving) -> Iterator[Metric]:
    engine, tallies = serving.engine, serving.engine.tallies
    active = GaugeMetricFamily(
        "dynhat_operating_point", "1 for the active operating point.", labels=["point"]
    )
    for point in engine.table:
        active.add_metric([point.id], float(point.id == engine.active_point_id))
    yield active
    yield GaugeMetricFamily(
        "dynhat_refused_points", "Points of the table that failed their canaries.", value=len(engine.refused)
    )
    yield _histogram("dynhat_batch_size", "Sentences translated together.", tallies.batch_sentences)
    yield _histogram("dynhat_batch_tokens", "Source tokens translated together.", tallies.batch_tokens)
    yield _counters(
        "dynhat_tokens",
        "Tokens read and written.",
        "direction",
        {direction: tallies.tokens[direction] for direction in ("source", "target")},
    )
    yield _histograms(
        "dynhat_inference_seconds", "Encoding and decoding of a batch.", "point", tallies.inference_s
    )
    yield _counters(
        "dynhat_guard_retries",
        "Requests translated anew because the output was degenerate.",
        "reason",
        engine.guard_retries,
    )
    yield CounterMetricFamily(
        "dynhat_cancelled_requests", "Requests given up before they were done.", value=tallies.cancelled
    )


def _queue_families(serving: Serving) -> Iterator[Metric]:
    load = serving.engine.queue_load
    depth = GaugeMetricFamily("dynhat_queue_depth", "Sentences waiting.", labels=["class"])
    depth.add_metric(["interactive"], load.sentences - load.of_batch_requests)
    depth.add_metric(["batch"], load.of_batch_requests)
    yield depth
    yield GaugeMetricFamily("dynhat_queue_requests", "Requests not answered yet.", value=load.requests)
    yield GaugeMetricFamily("dynhat_queue_tokens", "Source tokens waiting.", value=load.tokens)
    yield _histograms(
        "dynhat_queue_wait_seconds",
        "From a request's submission until its first sentence began.",
        "class",
        serving.engine.tallies.queue_wait_s,
    )


def _control_families(serving: Serving) -> Iterator[Metric]:
    status, tallies = serving.control.status(), serving.control.tallies
    sensors = GaugeMetricFamily("dynhat_sensor_up", "1 where a sensor answers.", labels=["sensor"])
    for sensor in () if status.snapshot is None else status.snapshot.sensors:
        sensors.add_metric([sensor.name], float(sensor.is_up))
    yield sensors
    yield _histogram(
        "dynhat_switch_duration_seconds", "Replacing the active operating point.", tallies.switch_s
    )
    yield _histogram("dynhat_decision_seconds", "Deciding on an operating point.", tallies.decision_s)
    if tallies.energy_j is not None:
        yield CounterMetricFamily(
            "dynhat_energy_joules", "Energy that the board drew since the start.", value=tallies.energy_j
        )
    if status.slow_down_factor is not None:
        yield GaugeMetricFamily(
            "dynhat_slow_down_ratio",
            "How much slower than measured translations are at present.",
            value=status.slow_down_factor,
        )
    if status.handling_ms is not None:
        yield GaugeMetricFamily(
            "dynhat_handling_seconds",
            "What requests take at present besides being decoded and waiting for others.",
            value=status.handling_ms / 1e3,
        )
    if status.prediction_error_fraction is not None:
        yield GaugeMetricFamily(
            "dynhat_prediction_error_median_ratio",
            "Median absolute error of the last predictions of a batch.",
            value=status.prediction_error_fraction,
        )


def _device_families(snapshot: ResourceSnapshot) -> Iterator[Metric]:
    """The device as the latest reading has it."""
    for processor in ("cpu", "gpu"):
        family = GaugeMetricFamily(
            f"dynhat_device_{processor}_frequency_hertz",
            f"Clock of the {processor.upper()}: as it is, and its ceiling.",
            labels=["kind"],
        )
        for kind in ("current", "max"):
            value = getattr(snapshot, f"{processor}_{kind}_frequency_hz")
            if value is not None:
                family.add_metric([kind], value)
        if family.samples:
            yield family
    for name, about, field, factor in DEVICE_GAUGES:
        value = getattr(snapshot, field)
        if value is not None:
            yield GaugeMetricFamily(f"dynhat_device_{name}", about, value=value * factor)
