"""The installed command as a process on a bundle, asked over HTTP."""

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
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 60.0


class Daemon:
    """`dynhat serve` on a free port. It goes by caps alone: the tiny table's latencies are made up, and a governor that
    learns would learn just that."""

    def __init__(self, bundle: Path, *options: str, **settings: str) -> None:
        """Start it with these options, and these settings as variables; return when it is ready."""
        command = [sys.executable, "-m", "dynhat_runtime", "serve", "--port", "0", "--bundle", str(bundle)]
        command += ["--policy", "ladder", *options]
        variables = {f"DYNHAT_{name.upper()}": value for name, value in settings.items()}
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env={**os.environ, **variables}
        )
        assert self.process.stderr is not None
        self.log: list[str] = []
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"ready: (http://\S+)", line):
                self.url = found[1]
                break
        else:
            pytest.fail(f"the daemon ended with {self.process.wait()}: {self.log}")
        threading.Thread(target=self.log.extend, args=(self.process.stderr,), daemon=True).start()

    def request(
        self, path: str, body: Any = None, method: str | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON and headers of one request."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.status, json.load(answer), dict(answer.headers)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error), dict(error.headers)

    def translate(self, q: Any) -> tuple[int, Any, dict[str, str]]:
        """POST /translate."""
        return self.request("/translate", {"q": q, "source": "en", "target": "de"})

    def active_id(self) -> str:
        """Id of the active operating point."""
        return str(self.request("/v1/operating-point")[1]["active"]["id"])

    def wait_until_active(self, point_id: str) -> None:
        """Return once `point_id` is active."""
        deadline = time.monotonic() + PATIENCE_S
        while self.active_id() != point_id:
            assert time.monotonic() < deadline, f"{point_id} did not become active"
            time.sleep(0.02)

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self.url.removeprefix("http://").split(":")
        return host, int(port)

    def stop(self) -> None:
        """Have it end, which it does with 0."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_S) == 0, self.log
