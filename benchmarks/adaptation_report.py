"""What the adaptation benchmark found, as Markdown for people and as JSON. Measures nothing."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.adaptation_figures import REACTION_S, Cell, cell_of_runs, share_over
from benchmarks.adaptation_measure import OURS, SLACK, Calibration
from benchmarks.adaptation_outcome import ARMS, ORACLE, DrawnOutcome, Outcome, Verdict, percent, raw
from benchmarks.adaptation_phases import QUOTA_PERIOD_MS
from benchmarks.report import Environment, environment_lines

WORDS = {True: "met", False: "MISSED", None: "not told"}


def as_markdown(
    outcome: Outcome, environment: Environment, command: str, plot: str, notes: Sequence[str]
) -> str:
    """The report of the fixed course.

    Args:
        outcome: What was found.
        environment: Where.
        command: Reproduces it.
        plot: The picture's file name.
        notes: What to know beside the figures.
    """
    num_rounds = sum(one.arm == OURS for one in outcome.passes)
    rows = [
        "| phase | arm | requests | failed | over budget | from 2 s on | median | p95 | BLEU | settled after "
        "| switches |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for position, phase in enumerate(outcome.phases):
        for arm in ARMS:
            one = outcome.cell(arm, position)
            name = f"{arm} ({one.point_id})" if arm == ORACLE else arm
            rows.append(_row(phase.name if arm == ARMS[0] else "", name, one, is_moving=arm == OURS))
    parts = [
        f"# Adaptation, {environment.measured_at[:10]}",
        "\n".join(environment_lines(environment)),
        f"Reproduce with:\n\n    {command}",
        f"![latency, operating point and the largest point's latency over the phases]({plot})",
        "## How it was measured",
        _how(outcome.calibration)
        + f" Phases of {outcome.phases[0].duration_s:g} s follow one another without a pause; every arm passes all of "
        f"them {'once' if num_rounds == 1 else f'in {num_rounds} rounds, in alternating order of the arms'}, each time "
        f"with a fresh daemon. The oracle is found afterwards: every point is pinned in turn under the same "
        f"resources, and of those with at most 5 % of their sentences over the budget the one of best quality is "
        f"taken; if there is none, the one with the least over it.",
        "\n".join(f"- {phase.name}: {phase.resources.in_words()}" for phase in outcome.phases),
        "## Aims",
        _verdict_table(outcome.verdicts()),
        "## Phase by phase",
        "\n".join(rows),
        f"`from 2 s on` counts the requests that began {REACTION_S:g} s after the disturbance or later. BLEU is the "
        f"mean of the table's over the points that answered. `settled after` is the time from the disturbance to "
        f"the last switch before the next one, `switches` all of them, one figure per round; those of the first "
        f"phase follow no disturbance.",
        "Median error of ours in predicting a request's time, from its arrival at the daemon to the answer, from 2 s "
        "on: "
        + _by_phase(outcome, lambda ours: ours.prediction_error)
        + ". How long a translation will be is not known beforehand. At the lengths that they turned out to have, "
        "decoding alone, the last sentences of each phase: "
        + _by_phase(outcome, lambda ours: ours.batch_error)
        + ".",
        *notes,
    ]
    return "\n\n".join(parts) + "\n"


def _by_phase(outcome: Outcome, share: Callable[[Cell], float | None]) -> str:
    """A share of our arm, phase by phase."""
    return ", ".join(
        f"{phase.name} {_share(share(outcome.cell(OURS, position)))}"
        for position, phase in enumerate(outcome.phases)
    )


def as_drawn_markdown(
    outcome: DrawnOutcome, environment: Environment, command: str, plot: str, notes: Sequence[str]
) -> str:
    """The report of disturbances drawn by chance; arguments as for `as_markdown`."""
    runs, requests = outcome.found.runs, outcome.requests
    rows = [
        "| resources | times | requests | over budget | from 2 s on | median | BLEU | switches, mean | most |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for resources in dict.fromkeys(run.phase.resources for run in runs):
        several = [run for run in runs if run.phase.resources == resources]
        one = cell_of_runs(several, outcome.budget_ms, outcome.bleu)
        switches = [len(run.switches) for run in several]
        rows.append(
            f"| {resources.in_words()} | {len(several)} | {one.num_requests} | {_share(one.over)} | "
            f"{_share(one.over_reacted)} | {_ms(one.median_ms)} | {_number(one.bleu)} | "
            f"{statistics.fmean(switches):.2f} | {max(switches)} |"
        )
    minutes = sum(run.phase.duration_s for run in runs) / 60
    overall = share_over(requests, outcome.budget_ms)
    parts = [
        f"# Adaptation to disturbances drawn by chance, {environment.measured_at[:10]}",
        "\n".join(environment_lines(environment)),
        f"Reproduce with:\n\n    {command}",
        f"![latency and operating point over time]({plot})",
        f"{_how(outcome.calibration)} {minutes:.3g} minutes, seed {outcome.seed}: {len(runs) - 1} disturbances, "
        f"{len(requests)} requests, {_share(overall)} of them over the budget, {len(outcome.found.switches)} switches "
        f"({len(outcome.found.switches) / max(len(runs) - 1, 1):.2f} per disturbance). Giving back counts as a "
        f"disturbance, too.",
        "## Aims",
        _verdict_table(outcome.verdicts()),
        "## By resources",
        "\n".join(rows),
        *(f"- {switch.from_id} -> {switch.to_id}, flapping: {switch.reason}" for switch in outcome.flaps),
        *notes,
    ]
    return "\n\n".join(parts) + "\n"


def _how(calibration: Calibration) -> str:
    promise = calibration.promise
    return (
        f"One client sends sentences of about 30 words to `POST /v1/translate`, one after the other, without a "
        f"budget of their own; times are the client's. The daemon's budget is {promise.latency_budget_ms:g} ms for a "
        f"sentence of {promise.reference_tokens} tokens: {SLACK:g} times the {calibration.largest_ms:.0f} ms that the "
        "largest point took at rest, the lowest of three medians. The busy processes (stress-ng) run on the CPUs left "
        f"to the daemon; the quota is the cgroup v1 cpu controller's, with a period of {QUOTA_PERIOD_MS:g} ms."
    )


def _verdict_table(verdicts: Sequence[Verdict]) -> str:
    rows = ["| aim | measured | |", "|---|---|---|"]
    rows += [f"| {one.aim} | {one.figure} | {WORDS[one.is_met]} |" for one in verdicts]
    return "\n".join(rows)


def _row(phase: str, arm: str, one: Cell, *, is_moving: bool) -> str:
    cells = [
        phase,
        arm,
        str(one.num_requests),
        str(one.num_failed),
        _share(one.over),
        _share(one.over_reacted),
        _ms(one.median_ms),
        _ms(one.p95_ms),
        _number(one.bleu),
        " / ".join(f"{seconds:.1f} s" for seconds in one.settled_s) if is_moving else "–",
        " / ".join(map(str, one.num_switches)) if is_moving else "–",
    ]
    return f"| {' | '.join(cells)} |"


def _share(share: float | None) -> str:
    return "–" if share is None else percent(share)


def _ms(time_ms: float | None) -> str:
    return "–" if time_ms is None else f"{time_ms:.0f} ms"


def _number(number: float | None) -> str:
    return "–" if number is None else f"{number:.1f}"


def as_json(outcome: Outcome, environment: Environment, command: str) -> dict[str, Any]:
    """Everything of the fixed course, every request and switch with it."""
    return {
        "environment": dataclasses.asdict(environment),
        "command": command,
        "calibration": dataclasses.asdict(outcome.calibration),
        "verdicts": [dataclasses.asdict(one) for one in outcome.verdicts()],
        "cells": [
            {"phase": phase.name, "arm": arm, **dataclasses.asdict(outcome.cell(arm, position))}
            for position, phase in enumerate(outcome.phases)
            for arm in ARMS
        ],
        "passes": raw(outcome.passes),
        "sweep": [
            {
                "resources": dataclasses.asdict(resources),
                "point": point_id,
                "requests": [dataclasses.asdict(one) for one in requests],
            }
            for resources, of_points in outcome.sweep.items()
            for point_id, requests in of_points.items()
        ],
    }


def as_drawn_json(outcome: DrawnOutcome, environment: Environment, command: str) -> dict[str, Any]:
    """Everything of the disturbances drawn by chance."""
    return {
        "environment": dataclasses.asdict(environment),
        "command": command,
        "calibration": dataclasses.asdict(outcome.calibration),
        "seed": outcome.seed,
        "verdicts": [dataclasses.asdict(one) for one in outcome.verdicts()],
        "passes": raw([outcome.found]),
    }
