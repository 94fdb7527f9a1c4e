"""Measures: what the largest point takes at rest, arms on their way through a course, every point in every phase.

Each arm gets a fresh daemon, so that none knows what another one taught it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.adaptation_daemon import Daemon, Promise
from benchmarks.adaptation_figures import Pass, PhaseRun, Request, Switch, with_switches
from benchmarks.adaptation_phases import Phase, Resources
from benchmarks.figures import BenchmarkError, percentile

OURS, LARGEST, SMALLEST = "ours", "static largest", "static smallest"
SLACK = 1.25
"""Budget over what the largest point takes at rest."""
NUM_CALIBRATIONS = 3
REFERENCE_PERCENT = 80
"""The budget is for the length that so many of the sentences do not exceed: sentences are not all equally long, and
the daemon's confidence is about one length."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How to measure."""

    bundle: Path
    sentences: Sequence[str]
    pause_s: float
    warm_up_s: float
    """Before an arm's first phase."""
    sweep_requests: int
    """Of each point, in each phase and round."""
    with_quota: bool
    tell: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the promise rests on."""

    largest_ms: float
    """Median of a sentence on the largest point, at rest, as the client sees it."""
    promise: Promise


def calibrate(plan: Plan, largest_id: str, count_tokens: Callable[[str], int]) -> Calibration:
    """Every sentence three times on the largest point, at rest; the best of the three medians counts.

    Others may disturb a shared host, and a budget of such a moment would be no promise.

    Args:
        plan: How to measure.
        largest_id: The point of best quality.
        count_tokens: Of a text, as the model counts.

    Raises:
        BenchmarkError: A translation failed.
    """
    with Daemon.serving(plan.bundle, plan.sentences, None) as daemon:
        daemon.pin(largest_id)
        daemon.keep_asking(time.monotonic() + plan.warm_up_s, 0.0)
        answered = []
        for _ in range(NUM_CALIBRATIONS * len(plan.sentences)):
            answered.append(daemon.translate())
            time.sleep(plan.pause_s)
    failed = next((one.error for one, _ in answered if one.error is not None), None)
    if failed is not None:
        raise BenchmarkError(f"a translation at rest failed: {failed}")
    times_ms = [one.elapsed_ms for one, _ in answered]
    size = len(plan.sentences)
    largest_ms = min(statistics.median(times_ms[i : i + size]) for i in range(0, len(times_ms), size))
    lengths = [count_tokens(sentence) for sentence in plan.sentences]
    lengths += [count_tokens(translation) for _, translation in answered]
    return Calibration(
        largest_ms=largest_ms,
        promise=Promise(round(SLACK * largest_ms, 1), int(percentile(lengths, REFERENCE_PERCENT))),
    )


def run_course(
    plan: Plan, arm: str, pinned_id: str | None, promise: Promise, phases: Sequence[Phase]
) -> Pass:
    """One arm's way through the phases.

    Args:
        plan: How to measure.
        arm: Its name.
        pinned_id: The point it keeps; None leaves the choice to the daemon.
        promise: What the daemon is told to keep.
        phases: In order.

    Raises:
        BenchmarkError: The daemon did not come up, or a disturbance cannot be made.
    """
    with (
        Daemon.serving(plan.bundle, plan.sentences, promise) as daemon,
        daemon.device(with_quota=plan.with_quota) as device,
    ):
        if pinned_id is not None:
            daemon.pin(pinned_id)
        daemon.keep_asking(time.monotonic() + plan.warm_up_s, plan.pause_s)
        runs: list[PhaseRun] = []
        switches: dict[float, Switch] = {}
        for phase in phases:
            first_id, began_s = daemon.active_id(), time.monotonic()
            in_effect_s = device.give(phase.resources)
            requests = daemon.keep_asking(in_effect_s + phase.duration_s, plan.pause_s)
            # Asked for again and again: the why-log forgets.
            switches.update((switch.at_s, switch) for switch in daemon.switches_since(began_s))
            ended_s = time.monotonic()
            errors = daemon.latest_errors()
            runs.append(PhaseRun(phase, began_s, in_effect_s, ended_s, first_id, tuple(requests), (), errors))
            plan.tell(f"{arm}: {phase.name}, {len(requests)} sentences, ends on {daemon.active_id()}")
    return Pass(arm, with_switches(runs, list(switches.values())))


def sweep(
    plan: Plan, promise: Promise, point_ids: Sequence[str], all_resources: Sequence[Resources]
) -> dict[Resources, dict[str, list[Request]]]:
    """A few sentences on every point, pinned, under every kind of resources.

    Raises:
        BenchmarkError: As for `run_course`.
    """
    found: dict[Resources, dict[str, list[Request]]] = {}
    with (
        Daemon.serving(plan.bundle, plan.sentences, promise) as daemon,
        daemon.device(with_quota=plan.with_quota) as device,
    ):
        daemon.keep_asking(time.monotonic() + plan.warm_up_s, plan.pause_s)
        for resources in all_resources:
            device.give(resources)
            of_points = found.setdefault(resources, {})
            for point_id in point_ids:
                daemon.pin(point_id)
                daemon.translate()  # what the point before left behind is gone after this one
                requests = of_points.setdefault(point_id, [])
                for _ in range(plan.sweep_requests):
                    time.sleep(plan.pause_s)
                    requests.append(daemon.translate()[0])
            plan.tell(f"sweep: {resources.in_words()}, {len(point_ids)} points")
    return found
