"""The daemon on sockets it inherits: nobody is refused, neither while it loads nor while it goes."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.booted_systemd import wait_until
from tests.test_systemd_notify import with_sockets

pytestmark = pytest.mark.daemon

PATIENCE_S = 30.0
DRAIN_S = 10 * PATIENCE_S


class Activated:
    """A socket like systemd's, and fake daemons on it, one after another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listener = socket.create_server(("127.0.0.1", 0))
        self._started: list[subprocess.Popen[str]] = []

    def start(self) -> subprocess.Popen[str]:
        """Another daemon on the socket; its engine is held up by files, as `fake_daemon.py` says."""
        program = str(Path(__file__).with_name("fake_daemon.py"))
        command = [sys.executable, program, str(self.folder), json.dumps({"drain_timeout_s": DRAIN_S})]
        self._started.append(with_sockets([self.listener], command, stderr=subprocess.PIPE))
        return self._started[-1]

    def touch(self, *names: str) -> None:
        """Let it go on."""
        for name in names:
            (self.folder / name).touch()

    def close(self) -> None:
        """End what runs."""
        for process in self._started:
            process.kill()
            process.communicate()
        self.listener.close()


class Asking:
    """A translation asked for on a thread, over a connection that stays open."""

    def __init__(self, listener: socket.socket) -> None:
        self.connection = http.client.HTTPConnection(*listener.getsockname(), timeout=PATIENCE_S)
        self.connection.connect()
        self.outcome: tuple[int, str | None] | None = None
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        body = json.dumps({"q": "a", "source": "en", "target": "de"})
        self.connection.request("POST", "/translate", body, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        response.read()
        self.outcome = response.status, response.headers["Connection"]

    def answer(self) -> tuple[int, str | None]:
        """Status of the answer, and what it says of the connection."""
        self._thread.join(PATIENCE_S)
        assert self.outcome is not None, "no answer"
        return self.outcome


@pytest.fixture
def activated(tmp_path: Path) -> Iterator[Activated]:
    """The socket, with no daemon yet."""
    activated = Activated(tmp_path)
    yield activated
    activated.close()


def test_nobody_is_refused_while_it_loads(activated: Activated) -> None:
    """A request that comes before the model is loaded waits and is answered: on a port of its own it would get 503."""
    activated.start()
    asking = Asking(activated.listener)
    asking._thread.join(1.0)
    assert asking.outcome is None
    activated.touch("load", "go")
    assert asking.answer() == (200, None)


def test_handing_over(activated: Activated) -> None:
    """Told to stop it answers what it has begun, as the last on that connection, leaves newcomers to the next daemon,
    and goes with 0."""
    activated.touch("load")
    first = activated.start()
    begun = Asking(activated.listener)
    wait_until((activated.folder / "submitted").exists, "begun")
    first.send_signal(signal.SIGTERM)
    assert first.stderr is not None
    assert any("handing over the socket" in line for line in first.stderr)
    newcomer = Asking(activated.listener)
    activated.touch("go")
    assert begun.answer() == (200, "close")
    assert first.wait(PATIENCE_S) == 0
    assert newcomer.outcome is None
    activated.start()
    assert newcomer.answer() == (200, None)


def test_connected_but_not_yet_asked(activated: Activated) -> None:
    """Who has been accepted and sends the request only then is answered too."""
    activated.touch("load", "go")
    first = activated.start()
    assert Asking(activated.listener).answer() == (200, None)
    with socket.create_connection(activated.listener.getsockname(), PATIENCE_S) as silent:
        Asking(activated.listener).answer()  # by then the silent one has been accepted: it came before
        first.send_signal(signal.SIGTERM)
        assert first.stderr is not None
        assert any("handing over the socket" in line for line in first.stderr)
        silent.sendall(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
        assert silent.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert first.wait(PATIENCE_S) == 0


def test_an_answer_without_an_end(activated: Activated) -> None:
    """Who listens to events does not hold up a restart: the stream ends."""
    activated.touch("load", "go")
    first = activated.start()
    events = http.client.HTTPConnection(*activated.listener.getsockname(), timeout=PATIENCE_S)
    events.request("GET", "/v1/events")
    stream = events.getresponse()
    assert stream.status == 200
    first.send_signal(signal.SIGTERM)
    assert first.wait(PATIENCE_S) == 0
    assert b"event: end" in stream.read()


def test_stop_while_loading(activated: Activated) -> None:
    """Told to stop while it loads it accepts nobody, and goes with 0."""
    first = activated.start()
    waiting = Asking(activated.listener)
    assert first.stderr is not None
    assert any("loading: " in line for line in first.stderr)
    first.send_signal(signal.SIGTERM)
    activated.touch("load", "go")
    assert first.wait(PATIENCE_S) == 0
    assert waiting.outcome is None
    activated.start()
    assert waiting.answer() == (200, None)
