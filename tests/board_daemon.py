"""The real daemon on the shipped bundle, seeing a simulated Jetson: for tests and for `benchmarks/reaction.py`."""

from __future__ import annotations

import json
import math
import re
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dynhat_runtime.model.checkpoint import Bundle, shipped_bundle_path
from tests.simulated_jetson import MODES, PATIENCE_S, SimulatedJetson, View, wait_until

BUDGET_FACTOR = math.sqrt(MODES[0].cpu_khz / MODES[1].cpu_khz)
"""Half way between what the best point takes in MAXN and in 10W, so that each mode has a point of its own."""
Answer = dict[str, Any]


def write_table(folder: Path) -> tuple[Path, float]:
    """The shipped table as if it had been measured at the simulated board's highest clock, and a budget for it."""
    table = Bundle.open(shipped_bundle_path()).table()
    device = table.device.model_copy(update={"cpu_max_frequency_hz": MODES[0].cpu_khz * 1000.0})
    file = folder / "table.json"
    table.model_copy(update={"device": device}).save(file)
    best_ms = max(
        row.total_ms
        for row in table.best.latencies
        if row.num_cpus == table.device.num_cpus and row.num_src_tokens == table.reference_num_tokens
    )
    return file, best_ms * BUDGET_FACTOR


class BoardDaemon:
    """One daemon, from its start to its end."""

    def __init__(
        self,
        board: SimulatedJetson,
        view: View,
        monitor: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._log = board.folder / f"daemon-{time.monotonic_ns()}.log"
        table, budget_ms = write_table(board.folder)
        command = [
            sys.executable, "-m", "dynhat_runtime", "serve", "--port", "0",
            "--table", str(table), "--latency-budget-ms", str(budget_ms),
        ]  # fmt: skip
        with self._log.open("w") as file:
            self._process = board.popen(
                command,
                view,
                # By caps alone: how fast the simulated board really is, is this machine's affair.
                {
                    "DYNHAT_MONITOR": monitor,
                    "DYNHAT_POLICY": "ladder",
                    "OMP_NUM_THREADS": "1",
                    **(environment or {}),
                },
                stderr=file,
            )
        ready = wait_until(
            lambda: re.search(r"ready: (\S+)", self.log()), "the daemon was never ready", 120.0
        )
        self._url = ready[1]

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text()

    def status(self) -> Answer:
        """GET /v1/operating-point, with the id alone as the active point."""
        answer = self._ask("/v1/operating-point")
        return {**answer, "active": answer["active"]["id"]}

    def resources(self) -> Answer:
        """Its snapshot."""
        resources: Answer = self.status()["resources"]
        return resources

    def points(self) -> list[str]:
        """Ids of its points, fastest first."""
        return [point["id"] for point in self._ask("/v1/operating-points")["points"]]

    def translate(self, text: str) -> str:
        """POST /translate."""
        body = json.dumps({"q": text, "source": "en", "target": "de"}).encode()
        return str(self._ask("/translate", body)["translatedText"])

    def wait_for(self, is_true: Callable[[Answer], Any], what: str, patience_s: float = PATIENCE_S) -> Answer:
        """The first status of which that is true."""
        answer: Answer = wait_until(
            lambda: (status := self.status()) and is_true(status) and status,
            f"{what} never happened: {self._log}",
            patience_s,
        )
        return answer

    def reaction_s(self, change: Callable[[], None], is_seen: Callable[[Answer], Any], what: str) -> float:
        """Seconds from a change to the first answer that shows it."""
        change()
        changed_s = time.monotonic()
        self.wait_for(is_seen, what)
        return time.monotonic() - changed_s

    def stop(self) -> int:
        """End it as an operator would; its exit status."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(PATIENCE_S)

    def _ask(self, path: str, body: bytes | None = None) -> Answer:
        request = urllib.request.Request(
            f"{self._url}{path}", data=body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            answer: Answer = json.load(response)
        return answer
