"""What happens to a daemon in the field, by chance: CPUs come and go, neighbours, pinned points, reloads good and bad.

Asks for no translation.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

TIMEOUT_S = 60.0
SHORTEST_S, LONGEST_S = 0.2, 2.0
"""Between two of them."""
NEIGHBOUR_S = 2.0
BUSY = "import time; end = time.monotonic() + {:g}\nwhile time.monotonic() < end: pass"


class Disturber:
    """Disturbs one daemon on a thread of its own, until it is stopped; then the daemon is at rest again."""

    def __init__(self, pid: int, address: str, config: Path, point_ids: Sequence[str], seed: int) -> None:
        """Begin at once.

        Args:
            pid: The daemon's process.
            address: Where it listens.
            config: The settings file that it reads anew when it is told to.
            point_ids: What may be pinned.
            seed: Of chance.
        """
        self.num_done: Counter[str] = Counter()
        self.failures: list[str] = []
        self._pid, self._address, self._config, self._point_ids = pid, address, config, point_ids
        self._chance = random.Random(seed)
        self._cpus = sorted(os.sched_getaffinity(0))
        self._is_over = threading.Event()
        self._neighbour: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="disturber", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, and put everything back."""
        self._is_over.set()
        self._thread.join(TIMEOUT_S)
        self._end_neighbour()
        self._give_cpus(self._cpus)
        self._set_point({"mode": "auto"})
        self._reload("")

    def _run(self) -> None:
        kinds: tuple[tuple[str, Callable[[], None]], ...] = (
            ("a CPU taken or given back", self._change_cpus),
            ("a busy neighbour", self._be_a_neighbour),
            ("a point pinned or let go", self._pin),
            ("a reload", lambda: self._reload(f"latency_budget_ms = {self._chance.randint(10, 60)}\n")),
            (
                "a reload that changes limits",
                lambda: self._reload(f"char_limit = {self._chance.randint(5000, 9000)}\n"),
            ),
            ("a reload that is refused", lambda: self._reload("char_limit = 0\n")),
        )
        while not self._is_over.wait(self._chance.uniform(SHORTEST_S, LONGEST_S)):
            kind, disturb = self._chance.choice(kinds)
            try:
                disturb()
                self.num_done[kind] += 1
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.failures.append(f"{kind}: {error!r}")

    def _change_cpus(self) -> None:
        self._give_cpus(self._chance.choice([self._cpus, self._cpus[:1]]))

    def _give_cpus(self, cpus: Sequence[int]) -> None:
        for thread in os.listdir(f"/proc/{self._pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), cpus)

    def _be_a_neighbour(self) -> None:
        self._end_neighbour()
        self._neighbour = subprocess.Popen([sys.executable, "-S", "-c", BUSY.format(NEIGHBOUR_S)])

    def _end_neighbour(self) -> None:
        if self._neighbour is not None:
            self._neighbour.kill()
            self._neighbour.wait()
            self._neighbour = None

    def _pin(self) -> None:
        pinned = {"mode": "pinned", "point": self._chance.choice(self._point_ids)}
        self._set_point(self._chance.choice([pinned, {"mode": "auto"}]))

    def _set_point(self, body: dict[str, str]) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
        with contextlib.closing(connection):
            connection.request(
                "PUT", "/v1/operating-point", json.dumps(body), {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            answer = response.read()
            if response.status != http.client.OK:
                raise ValueError(f"{response.status}: {answer[:200]!r}")

    def _reload(self, settings: str) -> None:
        other = self._config.with_suffix(".new")
        other.write_text(settings, encoding="utf-8")
        other.replace(self._config)
        os.kill(self._pid, signal.SIGHUP)
