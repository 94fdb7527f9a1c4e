"""Record and replay for real: the shipped bundle's daemon under a changed affinity, recorded and replayed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from dynhat_runtime.model.checkpoint import Bundle, shipped_bundle_path
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from dynhat_runtime.trace import TracedDecision
from dynhat_runtime.trace_file import TraceFile
from tests.test_end_to_end import PATIENCE_S, dynhat, needs_two_cpus

pytestmark = pytest.mark.daemon

TEXT = "The secretive gardener Bartholomew watered the roses."
"""Its words must not be in a trace."""


class Daemon:
    """`dynhat serve` on a free port, with the shipped bundle and its default policy."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "dynhat_runtime", "serve", "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        log: list[str] = []
        for line in self.process.stderr:
            log.append(line)
            if found := re.search(r"ready: (http://\S+)", line):
                self.url = found[1]
                break
        else:
            pytest.fail(f"the daemon ended with {self.process.wait()}: {log}")
        threading.Thread(target=log.extend, args=(self.process.stderr,), daemon=True).start()

    def send(self, method: str, path: str, body: object) -> None:
        """A request that succeeds."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            assert answer.status == 200


SHIPPED = Bundle.open(shipped_bundle_path()).table()
PINNED = SHIPPED.points[3].id


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of it: requests on all CPUs, on one, and on all again; then a point pinned by hand for a while."""
    path = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    daemon = Daemon()
    command = [sys.executable, "-m", "dynhat_runtime", "record", "--url", daemon.url, "--out", str(path)]
    recorder = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    cpus = sorted(os.sched_getaffinity(daemon.process.pid))
    try:
        for usable in (cpus, cpus[:1], cpus):
            os.sched_setaffinity(daemon.process.pid, usable)
            for _ in range(3):
                daemon.send("POST", "/translate", {"q": TEXT, "source": "en", "target": "de"})
            time.sleep(0.6)
        daemon.send("PUT", "/v1/operating-point", {"mode": "pinned", "point": PINNED})
        time.sleep(0.3)
        daemon.send("PUT", "/v1/operating-point", {"mode": "auto"})
        time.sleep(0.6)
    finally:
        recorder.terminate()
        said = recorder.communicate(timeout=PATIENCE_S)[1]
        daemon.process.terminate()
        status = daemon.process.wait(PATIENCE_S)
    assert recorder.returncode == 0, said
    assert status == 0
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
    assert any(each.mode == "pinned" and each.point_id == PINNED for each in recorded)


@needs_two_cpus
def test_it_shows_what_happened(trace: Path) -> None:
    """The recording is whole: the lost CPU is in it, and no event is missing."""
    file = TraceFile(trace)
    events = list(file.events())
    seen = {each.usable_cpus for each in events if isinstance(each, ResourceSnapshot)}
    assert {1, 2} <= {len(cpus) for cpus in seen if cpus is not None}
    assert (file.flaws.num_broken, file.flaws.num_lost, file.flaws.num_unknown) == (0, 0, 0)
    assert file.header.table.point_ids[0] == SHIPPED.points[0].id


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
