"""The daemon that is measured, in a process of its own, and the client that asks it one sentence after the other."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.adaptation_device import Device
from benchmarks.adaptation_figures import Request, Switch
from benchmarks.children import Child, child
from benchmarks.figures import BenchmarkError

ALL_DECISIONS = 256
"""As many as the daemon keeps."""
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Promise:
    """What the daemon is told to keep."""

    latency_budget_ms: float
    reference_tokens: int
    """Length of the sentence that the budget is for, source and target."""


class Daemon:
    """A running daemon and one connection to it. Translates each sentence in turn."""

    def __init__(self, url: str, process: Child, sentences: Sequence[str]) -> None:
        self.url = url
        self.process = process
        self._address = urlsplit(url).netloc
        self._connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
        self._sentences = cycle(sentences)

    @classmethod
    @contextlib.contextmanager
    def serving(cls, bundle: Path, sentences: Sequence[str], promise: Promise | None) -> Iterator[Daemon]:
        """A fresh daemon on a free port, ready; in the end it is stopped.

        Args:
            bundle: What it serves.
            sentences: What it is asked, in turn.
            promise: None leaves budget and length at the table's.

        Raises:
            BenchmarkError: It did not come up.
        """
        # Only what is said here: no DYNHAT_ variables of the shell's.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("DYNHAT_")}
        arguments = ["-m", "dynhat_runtime", "serve", "--port", "0", "--bundle", str(bundle)]
        if promise is not None:
            arguments += ["--latency-budget-ms", f"{promise.latency_budget_ms:g}"]
            environment["DYNHAT_REFERENCE_TOKENS"] = str(promise.reference_tokens)
        with child(arguments, environment) as process:
            while not (found := re.search(r"ready: (http\S+)", process.log_text())):
                process.pause("readiness")
            daemon = cls(found[1], process, sentences)
            try:
                yield daemon
            finally:
                daemon._connection.close()

    @contextlib.contextmanager
    def device(self, *, with_quota: bool) -> Iterator[Device]:
        """What the daemon is left with, to be changed."""
        with Device.of(self.process, with_quota=with_quota) as device:
            yield device

    def translate(self) -> tuple[Request, str]:
        """Have the next sentence translated, with no budget of its own; the request, and its translation."""
        body = {"text": [next(self._sentences)], "source": "en", "target": "de"}
        began_s = time.monotonic()
        try:
            status, answer = self._ask("POST", "/v1/translate", body)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._connection.close()
            return Request(began_s, _ms_since(began_s), None, repr(error)), ""
        elapsed_ms = _ms_since(began_s)
        if status != http.client.OK:
            return Request(began_s, elapsed_ms, None, f"{status}: {answer}"), ""
        (translation,) = answer["translations"]
        answered = Request(
            began_s,
            elapsed_ms,
            translation["operating_point"],
            predicted_ms=translation["predicted_ms"],
            answered_ms=translation["elapsed_ms"],
        )
        return answered, translation["text"]

    def keep_asking(self, until_s: float, pause_s: float) -> list[Request]:
        """One sentence after the other until that monotonic time, with a pause after each."""
        requests = []
        while time.monotonic() < until_s:
            requests.append(self.translate()[0])
            time.sleep(pause_s)
        return requests

    def pin(self, point_id: str) -> None:
        """Have it run this point, whatever comes."""
        self._expect("PUT", "/v1/operating-point", {"mode": "pinned", "point": point_id})

    def active_id(self) -> str:
        """The point it runs."""
        return str(self._expect("GET", "/v1/operating-point")["active"]["id"])

    def latest_errors(self) -> tuple[float, ...]:
        """Of its predictions for the last sentences, at the lengths they turned out to have: predicted / actual - 1."""
        latest = self._expect("GET", "/v1/operating-point")["latest_predictions"]
        return tuple(one["predicted_ms"] / one["actual_ms"] - 1 for one in latest)

    def point_ids(self) -> list[str]:
        """All it serves, fastest first."""
        return [point["id"] for point in self._expect("GET", "/v1/operating-points")["points"]]

    def switches_since(self, monotonic_s: float) -> list[Switch]:
        """From its why-log, oldest first. Its clock is the same as ours, as it is the system's."""
        return [
            Switch(
                at_s=decision["decided_monotonic_s"],
                from_id=decision["active_id"],
                to_id=decision["point_id"],
                reason=decision["reason"],
                slow_down_factor=decision["slow_down_factor"],
                slow_down_std=decision["slow_down_std"],
            )
            for decision in self.decisions()
            if decision["changed"] and decision["decided_monotonic_s"] >= monotonic_s
        ]

    def decisions(self) -> list[dict[str, Any]]:
        """The whole why-log, oldest first."""
        return list(self._expect("GET", f"/v1/decisions?last={ALL_DECISIONS}")["decisions"])

    def _expect(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer to a request that has to succeed.

        Raises:
            BenchmarkError: It did not.
        """
        try:
            status, answer = self._ask(method, path, body)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self.process.failed(f"gave no answer to {method} {path} ({error!r})") from error
        if status != http.client.OK:
            raise BenchmarkError(f"{method} {path} was answered with {status}: {answer}")
        return answer

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
        data = None if body is None else json.dumps(body).encode()
        self._connection.request(method, path, data, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        return response.status, json.loads(response.read())


def _ms_since(began_s: float) -> float:
    return (time.monotonic() - began_s) * 1e3
