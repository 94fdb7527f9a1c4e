"""The fake daemon as a process of its own, asked over HTTP like any other; its log is read as it is written."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

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

    def get(self, path: str, key: str | None = None) -> tuple[int, Any]:
        """Status and JSON of a GET."""
        return fetch(f"{self.url}{path}", key=key)

    def translate(self, text: str, key: str | None = None) -> tuple[int, Any]:
        """Status and JSON of a translation."""
        return fetch(f"{self.url}/translate", {"q": text, "source": "en", "target": "de"}, key)

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


def fetch(url: str, fields: dict[str, str] | None = None, key: str | None = None) -> tuple[int, Any]:
    """Status and JSON of an answer, whatever the status."""
    request = urllib.request.Request(url, headers={"Content-Type": "application/json"})
    if key is not None:
        request.add_header("Authorization", f"Bearer {key}")
    if fields is not None:
        request.data = json.dumps(fields).encode()
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)
