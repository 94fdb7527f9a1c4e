"""Record and replay for real: the shipped bundle's daemon under a changed affinity, recorded and replayed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynhat_runtime.model.checkpoint import shipped_bundle_path
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from dynhat_runtime.trace import TracedDecision
from dynhat_runtime.trace_file import TraceFile
from tests.test_end_to_end import PATIENCE_S, Daemon, dynhat, needs_two_cpus

pytestmark = pytest.mark.daemon

TEXT = "The secretive gardener Bartholomew watered the roses."
"""Its words must not be in a trace."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    """One running daemon on the shipped bundle."""
    running = Daemon(shipped_bundle_path())
    yield running
    running.process.terminate()
    assert running.process.wait(PATIENCE_S) == 0, running.log


@pytest.fixture(scope="module")
def trace(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of it: requests on all CPUs, on one, and on all again; with a point pinned by hand for a while."""
    path = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    command = [sys.executable, "-m", "dynhat_runtime", "record", "--url", daemon.url, "--out", str(path)]
    recorder = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    cpus = sorted(os.sched_getaffinity(daemon.process.pid))
    try:
        for usable in (cpus, cpus[:1], cpus):
            os.sched_setaffinity(daemon.process.pid, usable)
            for _ in range(3):
                assert daemon.translate(TEXT)[0] == 200
            time.sleep(0.6)
        daemon.request("/v1/operating-point", {"mode": "pinned", "point": "l2"}, "PUT")
        time.sleep(0.3)
        daemon.request("/v1/operating-point", {"mode": "auto"}, "PUT")
        time.sleep(0.6)
    finally:
        recorder.terminate()
        said = recorder.communicate(timeout=PATIENCE_S)[1]
    assert recorder.returncode == 0, said
    return path


@needs_two_cpus
def test_it_replays_to_the_same_switches(trace: Path, tmp_path: Path) -> None:
    """The governor, replayed from the daemon's start, makes every decision again, and so every switch."""
    done = dynhat("replay", str(trace), "--out", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    answer = json.loads(done.stdout)
    assert answer["replayed"]["switches"] == answer["recorded"]["switches"] != []
    assert answer["replayed"] == answer["recorded"]
    recorded = [each for each in TraceFile(trace).events() if isinstance(each, TracedDecision)]
    replayed = [json.loads(line) for line in (tmp_path / "decisions.jsonl").read_text().splitlines()]
    assert [(each["monotonic_s"], each["point_id"], each["reason_code"]) for each in replayed] == [
        (each.monotonic_s, each.point_id, each.reason_code) for each in recorded
    ]
    assert any(each.mode == "pinned" and each.point_id == "l2" for each in recorded)


@needs_two_cpus
def test_it_shows_what_happened(trace: Path) -> None:
    """The recording is whole: the lost CPU is in it, and no event is missing."""
    file = TraceFile(trace)
    events = list(file.events())
    seen = {each.usable_cpus for each in events if isinstance(each, ResourceSnapshot)}
    assert {1, 2} <= {len(cpus) for cpus in seen if cpus is not None}
    assert (file.flaws.num_broken, file.flaws.num_lost, file.flaws.num_unknown) == (0, 0, 0)
    assert file.header.table.point_ids[0] == "l1-narrow"


def test_no_word_of_a_user_is_in_it(trace: Path) -> None:
    """Neither the text nor its translation is in a trace, whatever else is."""
    content = trace.read_text().lower()
    assert not [
        word for word in ("secretive", "gardener", "bartholomew", "rosen", "roses") if word in content
    ]


def test_other_tables_are_refused(trace: Path, tmp_path: Path) -> None:
    """`dynhat replay` on a profile of another device ends with status 2 and one line."""
    tables = shipped_bundle_path() / "tables"
    content = json.loads(next(tables.glob("*.json")).read_text())
    content["device"]["name"] = "Another Board"
    (tmp_path / "other.json").write_text(json.dumps(content))
    done = dynhat("replay", str(trace), "--table", str(tmp_path / "other.json"))
    assert done.returncode == 2
    assert "operating points of Another Board" in done.stderr
    assert done.stderr.count("\n") == 1
