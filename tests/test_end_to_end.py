"""The installed command on a bundle: the real daemon as a process, real HTTP, real affinity."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dynhat_runtime.model.checkpoint import SENTENCEPIECE_MODEL, WEIGHTS, Bundle
from tests.real_daemon import PATIENCE_S, Daemon
from tests.tiny_bundle import SENTENCES

pytestmark = pytest.mark.daemon

needs_two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two usable CPUs")


def dynhat(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-m", "dynhat_runtime", *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


@pytest.fixture(scope="module")
def daemon(tiny_bundle: Bundle) -> Iterator[Daemon]:
    """One running daemon on the tiny bundle."""
    running = Daemon(tiny_bundle.path)
    yield running
    running.stop()


def test_health_and_points(daemon: Daemon) -> None:
    """A ready daemon is healthy and lists its points fastest first, with what was measured."""
    assert daemon.request("/health")[:2] == (200, {"status": "ok"})
    points = daemon.request("/v1/operating-points")[1]["points"]
    assert [point["id"] for point in points] == ["small", "middle", "large"]
    assert [point["latency_ms"] for point in points] == [10, 20, 40]


def test_translate_text_and_list(daemon: Daemon) -> None:
    """A text gives a text, a list a list, and the header names the point."""
    status, answer, headers = daemon.translate(SENTENCES[0])
    assert status == 200
    text = answer["translatedText"]
    assert isinstance(text, str)
    assert headers["x-operating-point"] in {"small", "middle", "large"}
    assert daemon.translate([SENTENCES[0], "", "42"])[1] == {"translatedText": [text, "", "42"]}


def test_bad_request(daemon: Daemon) -> None:
    """A request at fault gets 400 with the field, and the header all the same."""
    status, answer, headers = daemon.request("/translate", {"source": "en", "target": "de"})
    assert (status, list(answer)) == (400, ["error"])
    assert "q is missing" in answer["error"]
    assert "x-operating-point" in headers


def test_pin_and_auto(daemon: Daemon) -> None:
    """A pinned point serves at once and until auto is asked for."""
    try:
        body = {"mode": "pinned", "point": "small"}
        answer = daemon.request("/v1/operating-point", body, "PUT")[1]
        assert (answer["active"]["id"], answer["mode"]) == ("small", "pinned")
        assert daemon.translate(SENTENCES[0])[2]["x-operating-point"] == "small"
    finally:
        status, answer, _ = daemon.request("/v1/operating-point", {"mode": "auto"}, "PUT")
    assert (status, answer["mode"]) == (200, "auto")


@needs_two_cpus
def test_losing_a_cpu_moves_the_point_and_nobody_notices(daemon: Daemon) -> None:
    """Without one of two CPUs the active point steps down, with it back it returns, and no request fails."""
    pid = daemon.process.pid
    cpus = sorted(os.sched_getaffinity(pid))
    os.sched_setaffinity(pid, cpus[:2])
    daemon.wait_until_active("large")
    statuses: list[int] = []
    points: list[str] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            status, _, headers = daemon.translate(SENTENCES[0])
            statuses.append(status)
            points.append(headers["x-operating-point"])

    clients = [threading.Thread(target=client) for _ in range(3)]
    for thread in clients:
        thread.start()
    try:
        os.sched_setaffinity(pid, cpus[:1])
        daemon.wait_until_active("middle")
        followed = {tuple(os.sched_getaffinity(int(t))) for t in os.listdir(f"/proc/{pid}/task")}
        answer = daemon.request("/v1/operating-point")[1]
        time.sleep(0.2)
        os.sched_setaffinity(pid, cpus[:2])
        daemon.wait_until_active("large")
        time.sleep(0.2)
    finally:
        stop.set()
        for thread in clients:
            thread.join()
        os.sched_setaffinity(pid, cpus)
    assert followed == {(cpus[0],)}
    assert answer["resources"]["usable_cpus"] == cpus[:1]
    assert "on 1 CPU, over the budget" in answer["reason"] or "on 1 CPU" in answer["reason"]
    assert set(statuses) == {200}
    assert {"middle", "large"} <= set(points)


def test_status_command(daemon: Daemon) -> None:
    """`dynhat status` says the point, and why."""
    done = dynhat("status", "--url", daemon.url)
    assert done.returncode == 0
    assert re.search(r"operating point\s+large", done.stdout)
    assert re.search(r"reason\s+\S", done.stdout)


def test_promise(daemon: Daemon) -> None:
    """A named point translates one request alone, a budget is kept and said so, and a strict one is refused."""
    body = {"text": [SENTENCES[0], "42"], "source": "en", "target": "de"}
    status, answer, headers = daemon.request("/v1/translate", {**body, "point": "small"})
    assert status == 200
    assert {text["operating_point"] for text in answer["translations"]} == {"small"}
    assert headers["x-operating-point"] == "small"
    assert answer["translations"][1]["text"] == "42"
    _, answer, _ = daemon.request("/v1/translate", {**body, "latency_budget_ms": 600_000, "strict": True})
    assert {text["budget_met"] for text in answer["translations"]} == {True}
    assert all(text["predicted_ms"] > 0 < text["elapsed_ms"] for text in answer["translations"])
    status, answer, _ = daemon.request("/v1/translate", {**body, "latency_budget_ms": 0.01, "strict": True})
    assert status == 422
    assert "the fastest, small, is predicted to take" in answer["error"]
    assert daemon.request("/v1/translate", {**body, "min_quality": 20})[0] == 400


def test_why_log(daemon: Daemon) -> None:
    """Pinning and letting go are in the why-log, with snapshot and candidates, and in the metrics."""
    daemon.request("/v1/operating-point", {"mode": "pinned", "point": "small"}, "PUT")
    daemon.request("/v1/operating-point", {"mode": "auto"}, "PUT")
    decisions = daemon.request("/v1/decisions?last=256")[1]["decisions"]
    pinned = [decision for decision in decisions if decision["mode"] == "pinned" and decision["changed"]]
    assert pinned[-1]["point_id"] == "small"
    assert [candidate["point_id"] for candidate in pinned[-1]["candidates"]] == ["small", "middle", "large"]
    assert pinned[-1]["snapshot"]["source"]
    assert len(daemon.request("/v1/decisions?last=1")[1]["decisions"]) == 1
    with urllib.request.urlopen(f"{daemon.url}/metrics", timeout=PATIENCE_S) as answer:
        samples = [
            sample
            for family in text_string_to_metric_families(answer.read().decode())
            for sample in family.samples
        ]
    switched = [sample for sample in samples if sample.name == "dynhat_switches_total"]
    assert any(sample.labels["to"] == "small" and sample.labels["reason"] == "pinned" for sample in switched)
    assert sum(sample.value for sample in samples if sample.name == "dynhat_operating_point") == 1


def test_explain_and_watch(daemon: Daemon) -> None:
    """`dynhat explain` and one picture of `dynhat watch` name the active point."""
    done = dynhat("explain", "--url", daemon.url)
    assert done.returncode == 0, done.stderr
    assert re.match(r"(small|middle|large) has been active since \S+, chosen by the policy ", done.stdout)
    done = dynhat("watch", "--once", "--url", daemon.url)
    assert done.returncode == 0, done.stderr
    for point_id in ("small", "middle", "large"):
        assert point_id in done.stdout


def test_watch_ends_on_interrupt(daemon: Daemon) -> None:
    """`dynhat watch` prints lines into a pipe at once, and Ctrl-C ends it with 0 and without a traceback."""
    command = [sys.executable, "-m", "dynhat_runtime", "watch", "--interval-s", "0.1", "--url", daemon.url]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # a test run in the background ignores it
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert all("point=" in line for line in lines)
    assert (process.returncode, errors) == (0, "")


def test_nonsense_is_not_served(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """Points that claim to translate and do not are refused: the daemon says so and does not start."""
    table = tiny_bundle.table()
    claiming = tuple(point.model_copy(update={"bleu": 25.0}) for point in table)
    path = tmp_path / "table.json"
    table.model_copy(update={"points": claiming}).save(path)
    done = dynhat("serve", "--port", "0", "--bundle", str(tiny_bundle.path), "--table", str(path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "dynhat: error: all 3 operating points were refused (small: "
    )
    for point_id in ("small", "middle", "large"):
        assert f"operating point {point_id} is refused: canary sentence" in done.stderr


def test_translate_is_line_for_line(tiny_bundle: Bundle) -> None:
    """Every input line gives one output line, an empty one an empty one; beam 1 and a named point work."""
    lines = [SENTENCES[0], "", f"{SENTENCES[1]} {SENTENCES[2]}", "42", SENTENCES[0]]
    arguments = ("translate", "--bundle", str(tiny_bundle.path), "--point", "middle", "--beam", "1")
    done = dynhat(*arguments, stdin="\n".join(lines) + "\n")
    assert done.returncode == 0, done.stderr
    answers = done.stdout.split("\n")
    assert len(answers) == len(lines) + 1
    assert (answers[1], answers[3], answers[5]) == ("", "42", "")
    assert answers[0] == answers[4] != ""


def test_points_as_json(tiny_bundle: Bundle) -> None:
    """`dynhat points --json` is a list from fastest to best, each with its id."""
    done = dynhat("points", "--bundle", str(tiny_bundle.path), "--json")
    assert [point["id"] for point in json.loads(done.stdout)] == ["small", "middle", "large"]


@pytest.mark.parametrize("command", [("translate",), ("points",), ("serve", "--port", "0")])
@pytest.mark.parametrize("spoil", ["missing", "truncated", "altered"])
def test_spoilt_bundle(tiny_bundle: Bundle, tmp_path: Path, command: tuple[str, ...], spoil: str) -> None:
    """A spoilt file ends every command with status 2 and one line that names it and the remedy."""
    bundle = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    file = bundle / (SENTENCEPIECE_MODEL if spoil == "altered" else WEIGHTS)
    content = file.read_bytes()
    if spoil == "missing":
        file.unlink()
    else:
        file.write_bytes(content[:100] if spoil == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    done = dynhat(*command, "--bundle", str(bundle))
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert len(errors) == 1
    assert str(file) in errors[0]
    assert "restore the file" in errors[0]
    assert "Traceback" not in done.stderr


def test_a_client_that_leaves_stops_the_work(daemon: Daemon) -> None:
    """When a client closes its connection in the middle, what it asked for is given up and leaves the queue."""
    text = " ".join(SENTENCES * 2)[:4900]
    body = json.dumps({"q": text, "source": "en", "target": "de"}).encode()
    host, port = daemon.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        head = "POST /translate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        until_metric(daemon, "dynhat_queue_requests", 1)
    until_metric(daemon, "dynhat_cancelled_requests_total", 1)
    until_metric(daemon, "dynhat_queue_requests", 0)
    assert daemon.translate(SENTENCES[0])[0] == 200


def until_metric(daemon: Daemon, name: str, value: float) -> None:
    """Return once a metric without labels has that value."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with urllib.request.urlopen(daemon.url + "/metrics", timeout=PATIENCE_S) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = {sample.name: sample.value for family in families for sample in family.samples}
        if samples[name] == value:
            return
        assert time.monotonic() < deadline, f"{name} did not become {value}"
        time.sleep(0.005)


def test_a_stream_from_the_real_engine(daemon: Daemon) -> None:
    """Sentences arrive one after the other, and add up to what the plain route answers."""
    text = f"{SENTENCES[0]} {SENTENCES[1]}\n{SENTENCES[2]}"
    body = {"text": text, "source": "en", "target": "de", "point": "small"}
    request = urllib.request.Request(
        daemon.url + "/v1/translate/stream", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        data = [
            json.loads(line[6:]) for line in answer.read().decode().splitlines() if line.startswith("data: ")
        ]
    *pieces, done = data
    assert len(pieces) == 3
    plain = daemon.request("/v1/translate", body)[1]["translations"][0]["text"]
    assert "".join(piece["delta"] for piece in pieces) == plain == done["translations"][0]["text"]


def test_a_reload_of_the_real_daemon(daemon: Daemon) -> None:
    """SIGHUP with nothing changed is said and harms nothing."""
    daemon.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + PATIENCE_S
    while not any("reloaded: keys and limits" in line for line in daemon.log):
        assert time.monotonic() < deadline, daemon.log
        time.sleep(0.02)
    assert daemon.translate(SENTENCES[0])[0] == 200
