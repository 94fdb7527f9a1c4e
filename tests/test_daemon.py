"""The daemon as a process of its own: it listens at once, loads, serves, drains and goes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dynhat_runtime.daemon import run
from dynhat_runtime.errors import SettingsError
from dynhat_runtime.listeners import open_listener
from dynhat_runtime.settings import load_settings

pytestmark = pytest.mark.daemon

PATIENCE_S = 30.0


class Process:
    """A fake daemon on a free port, and the files that hold it up."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.popen = subprocess.Popen(
            [
                sys.executable,
                str(Path(__file__).with_name("fake_daemon.py")),
                str(folder),
                json.dumps({"port": 0, **settings}),
            ],
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.lines.append(line.rstrip("\n"))

    def touch(self, *names: str) -> None:
        """Let it go on."""
        for name in names:
            (self.folder / name).touch()

    def line(self, pattern: str) -> str:
        """The first line of its log that matches, once there is one."""

        def probe() -> str | None:
            alive = self.popen.poll() is None
            found = next((line for line in self.lines if re.search(pattern, line)), None)
            assert found or alive, f"it ended with {self.popen.returncode}: {self.lines}"
            return found

        return str(until(probe))

    @property
    def url(self) -> str:
        """Where it says it listens."""
        return self.line("loading: ").rpartition(" ")[2]

    def get(self, path: str) -> tuple[int, Any]:
        """Status and JSON of a GET."""
        return fetch(f"{self.url}{path}")

    def translate(self, text: str) -> tuple[int, Any]:
        """Status and JSON of a translation."""
        return fetch(f"{self.url}/translate", {"q": text, "source": "en", "target": "de"})

    def translate_meanwhile(self, text: str) -> tuple[threading.Thread, list[tuple[int, Any]]]:
        """The same on a thread; the list holds its result in the end."""
        answers: list[tuple[int, Any]] = []
        thread = threading.Thread(target=lambda: answers.append(self.translate(text)))
        thread.start()
        return thread, answers

    def terminate(self, signal_number: int = signal.SIGTERM) -> None:
        """Send a signal."""
        self.popen.send_signal(signal_number)

    def wait(self) -> int:
        """Its exit status, once it has one and its log is read."""
        status = self.popen.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return status

    def stopped(self) -> list[str]:
        """What it stopped, in order."""
        path = self.folder / "stopped"
        return path.read_text(encoding="utf-8").split() if path.exists() else []


def until(probe: Callable[[], Any]) -> Any:
    """What `probe` returns, once it is true."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (value := probe()):
        assert time.monotonic() < deadline_s, "it never happened"
        time.sleep(0.02)
    return value


def fetch(url: str, fields: dict[str, str] | None = None) -> tuple[int, Any]:
    """Status and JSON of an answer, whatever the status."""
    request = urllib.request.Request(url, headers={"Content-Type": "application/json"})
    if fields is not None:
        request.data = json.dumps(fields).encode()
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts a fake daemon and sees to its end."""
    started: list[Process] = []

    def start(*names: str, **settings: object) -> Process:
        process = Process(tmp_path, **settings)
        started.append(process)
        process.touch(*names)
        return process

    yield start
    for process in started:
        process.popen.kill()
        process.wait()


def test_from_loading_to_gone(start: Callable[..., Process]) -> None:
    """It answers "loading" at once, says when it is ready, translates, and leaves with 0 on SIGTERM."""
    process = start("go")
    assert process.get("/health") == (503, {"status": "loading"})
    assert process.translate("a")[0] == 503
    process.touch("load")
    line = process.line("ready: ")
    assert line.endswith(f"ready: {process.url} operating point p1 of 3, budget 35 ms")
    assert process.get("/health") == (200, {"status": "ok"})
    assert process.translate("a") == (200, {"translatedText": "A"})
    process.terminate()
    assert process.wait() == 0
    assert process.stopped() == ["control", "engine"]


def test_interrupt_is_a_way_to_stop(start: Callable[..., Process]) -> None:
    """SIGINT stops it as SIGTERM does."""
    process = start("load")
    process.line("ready: ")
    process.terminate(signal.SIGINT)
    assert process.wait() == 0


def test_drain(start: Callable[..., Process]) -> None:
    """On SIGTERM health says draining, new translations are refused, and the one in flight is finished."""
    process = start("load")
    process.line("ready: ")
    thread, answers = process.translate_meanwhile("a")
    until_in_flight(process)
    process.terminate()
    process.line("draining: 1 requests")
    assert process.get("/health") == (503, {"status": "draining"})
    assert process.translate("b")[0] == 503
    process.touch("go")
    thread.join(PATIENCE_S)
    assert answers == [(200, {"translatedText": "A"})]
    assert process.wait() == 0


@pytest.mark.parametrize("is_second_signal", [False, True])
def test_drain_ends(start: Callable[..., Process], is_second_signal: bool) -> None:
    """After the drain timeout, or a second signal, the request in flight is answered 503, exit 0."""
    process = start("load", drain_timeout_s=600 if is_second_signal else 0.2)
    process.line("ready: ")
    thread, answers = process.translate_meanwhile("a")
    until_in_flight(process)
    process.terminate()
    process.line("draining: 1 requests")
    if is_second_signal:
        process.terminate()
    thread.join(PATIENCE_S)
    assert answers[0][0] == 503
    assert process.wait() == 0
    assert process.stopped() == ["control", "engine"]


def until_in_flight(process: Process) -> None:
    """Return when the daemon has begun a translation: its engine notes it."""
    until((process.folder / "submitted").exists)


def test_stop_while_loading(start: Callable[..., Process]) -> None:
    """SIGTERM during loading ends it with 0, never ready, and what was started is stopped."""
    process = start()
    assert process.get("/health")[0] == 503
    process.terminate()
    process.line("draining: ")
    assert process.get("/health") == (503, {"status": "draining"})
    process.touch("load")
    assert process.wait() == 0
    assert not any("ready: " in line for line in process.lines)
    assert process.stopped() == ["control", "engine"]


def test_failed_loading(start: Callable[..., Process]) -> None:
    """A bundle that cannot be loaded ends it with 2 and one line that says why."""
    process = start("broken", "load")
    assert process.wait() == 2
    assert process.lines[-1] == "dynhat: error: weights.safetensors: truncated: fetch it again"
    assert not any("Traceback" in line for line in process.lines)


def test_port_in_use(start: Callable[..., Process]) -> None:
    """A port that another program has ends it at once with 2 and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = start(port=port)
        assert process.wait() == 2
    expected = f"port {port} on 127.0.0.1 is in use: stop the other program or give --port"
    assert process.lines == [f"dynhat: error: {expected}"]


@pytest.mark.parametrize("host", ["no.such.host.invalid", "198.51.100.1", "a" * 70])
def test_a_host_that_is_not_ours(host: str) -> None:
    """A host we cannot listen on is a setting at fault, named in one line."""
    with pytest.raises(SettingsError, match=f"host '?{host}"):
        open_listener(host, 0)


@pytest.mark.parametrize("name", ["bundle", "table"])
def test_a_path_that_is_not_there(tmp_path: Path, name: str) -> None:
    """A path that leads nowhere is refused before anything is loaded."""
    settings = load_settings(command_line={name: tmp_path / "absent", "port": 0})
    with pytest.raises(SettingsError, match=rf"{name} .*absent is not a"):
        run(settings)
