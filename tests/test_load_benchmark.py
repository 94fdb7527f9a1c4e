"""The load benchmark on the tiny bundle, a few seconds of it: whatever hour it is, nothing is lost. Times no one."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import load, load_report
from benchmarks.figures import Check
from benchmarks.load_fuzz import Fuzzed, fuzz
from benchmarks.load_measure import Drained, Loaded, Memory, Probe, serving
from benchmarks.load_measure import drain as measure_drain
from benchmarks.load_measure import load as measure_load
from dynhat_runtime.model.checkpoint import Bundle

EFFORT = replace(
    load.QUICK,
    num_clients=60,
    seconds=3.0,
    warm_up_s=1.0,
    drain_after_s=1.0,
    pause_s=0.1,
    queue_limit_requests=4,
)
FATES: dict[str, Any] = {
    "num_sent": 12,
    "statuses": {"200": 10, "503": 2},
    "lost": [],
    "num_not_connected": 0,
    "num_hung_up": 0,
    "accepted_ms": [5.0] * 10,
    "refused_ms": [1.0] * 2,
    "elapsed_s": 2.0,
    "cpu_s": 0.5,
}
MEMORY = tuple(Memory(float(second), 300.0) for second in range(10))


def complaints(checks: tuple[Check, ...]) -> list[str]:
    """Claims of the checks that do not hold."""
    return [check.claim for check in checks if not check.holds]


@pytest.mark.daemon
def test_more_clients_than_room(tiny_bundle: Bundle) -> None:
    """Under far more clients than the queue holds every answer is 200, 429 or 503, and a stop then loses nothing."""
    with serving(tiny_bundle.path, EFFORT.queue_limit_requests) as (process, url):
        loaded = measure_load(process, url, EFFORT)
        drained = measure_drain(process, url, EFFORT)
    statuses = loaded.fates["statuses"]
    assert set(statuses) == {"200", "429", "503"}
    assert loaded.fates["lost"] == []
    assert {(probe.path, probe.status) for probe in loaded.probes} == {("/livez", 200), ("/readyz", 200)}
    assert drained.fates["lost"] == []
    assert set(drained.fates["statuses"]) <= load_report.ALLOWED
    assert (drained.exit_status, drained.gave_up, drained.num_abandoned) == (0, False, 0)
    assert drained.num_answered == statuses["200"] + drained.fates["statuses"]["200"]


@pytest.mark.daemon
def test_made_up_requests(tiny_bundle: Bundle) -> None:
    """Requests made up from the committed description meet no undocumented status and no misshapen answer."""
    with serving(tiny_bundle.path) as (_, url):
        found = fuzz(url, 120)
    assert found.num_cases >= 120
    assert found.server_errors == []
    assert found.undocumented == []
    assert found.misshapen == []
    assert found.translates_afterwards
    assert {200, 400} <= set(found.statuses)


@pytest.mark.parametrize(
    ("changes", "memory", "status", "claim"),
    [
        ({}, MEMORY, 200, None),
        (
            {"statuses": {"200": 10, "500": 2}},
            MEMORY,
            200,
            "every answer is 200, 429 or 503: 10 x 200, 2 x 500",
        ),
        (
            {"lost": ["ConnectionResetError"]},
            MEMORY,
            200,
            "none of 12 requests is lost (1: ConnectionResetError)",
        ),
        ({}, MEMORY, 503, "all 1 health answers are 200"),
        (
            {},
            (*MEMORY, *(Memory(10.0 + n, 330.0) for n in range(10))),
            200,
            "memory is flat: +30.0 MiB from the",
        ),
    ],
)
def test_what_is_wrong_is_said(
    changes: dict[str, Any], memory: tuple[Memory, ...], status: int, claim: str | None
) -> None:
    """Each way to fail the load fails its check, and no other."""
    loaded = Loaded({**FATES, **changes}, (Probe("/livez", status, 2.0),), memory, 1.0, 1.5)
    found = complaints(load_report.of_load(EFFORT, loaded).checks)
    assert len(found) == (claim is not None)
    assert claim is None or found[0].startswith(claim)


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({}, None),
        ({"num_answered": 11}, "every translation that the daemon says it answered (11) arrived"),
        ({"exit_status": -9}, "it ends with status -9"),
        ({"gave_up": True}, "it gave up on no request, and no client left"),
        ({"num_abandoned": 1}, "it gave up on no request, and no client left"),
    ],
)
def test_what_is_wrong_with_a_drain_is_said(changes: dict[str, Any], claim: str | None) -> None:
    """Each way to fail the drain fails its check, and no other."""
    drained = replace(Drained(FATES, 0, 1.5, 10, 0, gave_up=False), **changes)
    assert complaints(load_report.of_drain(EFFORT, drained).checks) == ([] if claim is None else [claim])


def test_what_is_wrong_with_answers_is_said() -> None:
    """Findings of the fuzzing fail their checks and are shown."""
    found = Fuzzed("4.0", 3, elapsed_ms=[1.0], server_errors=["POST /a: 500"], translates_afterwards=True)
    result = load_report.of_fuzz(found)
    assert [check.holds for check in result.checks] == [False, True, True, True]
    assert result.notes == ("- POST /a: 500",)


def test_the_command_line() -> None:
    """`--help` shows every section and loads nothing heavy; what cannot be is refused with 2."""
    root = Path(load.__file__).parent.parent
    command = [sys.executable, "-m", "benchmarks.load"]
    done = subprocess.run(
        [*command, "--help"], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in load.SECTIONS)
    for arguments in (["nothing"], ["--clients", "0"], ["--seconds", "0"]):
        with pytest.raises(SystemExit, match="2"):
            load.parse(arguments)
    asked = load.parse(["drain", "--quick", "--json", "--clients", "3"])
    assert (asked.sections, load.effort_of(asked).num_clients) == (["drain"], 3)
    assert json.dumps(load.parse([]).sections) == '["load", "drain", "fuzz"]'
