"""Mixed traffic against a running daemon: every route a client uses, right and wrong requests, clients that leave.

Each client is a thread with a connection of its own. Measures nothing of the daemon itself.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.sentences import SENTENCES

TIMEOUT_S = 60.0
JSON = {"Content-Type": "application/json"}
LONGEST_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, and what may be answered."""

    kind: str
    method: str
    path: str
    body: Any = None
    statuses: tuple[int, ...] = (200,)


@dataclass(slots=True)
class Seen:
    """What a client met with."""

    times_ms: list[float] = field(default_factory=list)
    """Of single sentences, from asking to the whole answer."""
    num_answered: Counter[str] = field(default_factory=Counter)
    """By kind."""
    failures: list[str] = field(default_factory=list)
    """Requests without an answer, or with another than was due."""

    def add(self, other: Seen) -> None:
        """Count another client's in."""
        self.times_ms += other.times_ms
        self.num_answered += other.num_answered
        self.failures += other.failures


def asks(chance: random.Random, point_ids: Sequence[str]) -> Ask:
    """A request drawn by chance."""
    one, pair = chance.choice(SENTENCES), {"source": "en", "target": "de"}
    some = chance.sample(SENTENCES, 4)

    def native(kind: str, statuses: tuple[int, ...] = (200,), **more: Any) -> Ask:
        return Ask(kind, "POST", "/v1/translate", {"text": [one], **pair, **more}, statuses)

    def libre(kind: str, statuses: tuple[int, ...] = (200,), **more: Any) -> Ask:
        return Ask(kind, "POST", "/translate", {"q": one, **pair, **more}, statuses)

    drawn: list[tuple[int, Callable[[], Ask]]] = [
        (20, lambda: libre("sentence")),
        (4, lambda: libre("list", q=some)),
        (3, lambda: libre("html", q=f"<p>{one} <b>{some[0]}</b></p>", format="html")),
        (2, lambda: libre("alternatives", alternatives=2)),
        (2, lambda: libre("auto", source="auto")),
        (6, lambda: native("budget", latency_budget_ms=chance.uniform(3, 60))),
        (3, lambda: native("point", point=chance.choice(point_ids))),
        (2, lambda: native("strict", (200, 422), latency_budget_ms=chance.uniform(0.1, 30), strict=True)),
        (2, lambda: native("deadline", (200, 504), deadline_ms=chance.choice([1, 50, 1000]))),
        (2, lambda: native("batch class", priority="batch")),
        (2, lambda: Ask("stream", "POST", "/v1/translate/stream", {"text": " ".join(some), **pair})),
        (2, lambda: Ask("deepl", "POST", "/v2/translate", {"text": [one], "target_lang": "DE"})),
        (1, lambda: Ask("detect", "POST", "/detect", {"q": one})),
        (2, lambda: Ask("metrics", "GET", "/metrics")),
        (
            2,
            lambda: Ask("state", "GET", chance.choice(["/v1/decisions?last=20", "/v1/resources", "/health"])),
        ),
        (1, lambda: libre("unknown language", (400,), target="xx")),
        (1, lambda: libre("too long", (400, 413), q="word " * 2000)),
        (1, lambda: Ask("no JSON", "POST", "/v1/translate", "{", (400, 422))),
        (1, lambda: native("leaves", text=[" ".join(some) for _ in range(4)])),
    ]
    weights = [weight for weight, _ in drawn]
    return chance.choices(drawn, weights)[0][1]()


class Client:
    """Asks one thing after the other until it is told to stop; pauses when told to."""

    def __init__(self, address: str, point_ids: Sequence[str], seed: int, going: threading.Event) -> None:
        """Begin as soon as `going` is set, and pause whenever it is not."""
        self.seen = Seen()
        self._address, self._point_ids = address, point_ids
        self._chance = random.Random(seed)
        self._going, self._is_over = going, threading.Event()
        self._connection = http.client.HTTPConnection(address, timeout=TIMEOUT_S)
        self._is_idle = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"client-{seed}", daemon=True)
        self._thread.start()

    def wait_idle(self) -> None:
        """Return when it pauses: every request of its has been answered and its connection is closed."""
        self._is_idle.wait(TIMEOUT_S)

    def stop(self) -> None:
        """Let the request under way be answered; ask no more."""
        self._is_over.set()
        self._going.set()
        self._thread.join(TIMEOUT_S)
        self._connection.close()

    def _run(self) -> None:
        while not self._is_over.is_set():
            if not self._going.is_set():
                self._connection.close()
                self._is_idle.set()
                self._going.wait()
                self._is_idle.clear()
                continue
            self._do(asks(self._chance, self._point_ids))
            time.sleep(self._chance.uniform(0.0, LONGEST_PAUSE_S))

    def _do(self, ask: Ask) -> None:
        began_s = time.monotonic()
        try:
            status, answer = self._leave(ask) if ask.kind == "leaves" else self._ask(ask)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self._connection.close()
            self.seen.failures.append(f"{ask.kind}: {error!r}")
            return
        if status not in ask.statuses:
            self.seen.failures.append(f"{ask.kind}: {status} {answer[:200]!r}")
            return
        self.seen.num_answered[ask.kind] += 1
        if ask.kind == "sentence":
            self.seen.times_ms.append((time.monotonic() - began_s) * 1e3)

    def _ask(self, ask: Ask) -> tuple[int, bytes]:
        data = ask.body if isinstance(ask.body, str | None) else json.dumps(ask.body)
        self._connection.request(ask.method, ask.path, data, JSON)
        response = self._connection.getresponse()
        return response.status, response.read()

    def _leave(self, ask: Ask) -> tuple[int, bytes]:
        """Close the connection before the answer: what was asked for is given up, and nobody is owed anything."""
        leaving = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
        leaving.request(ask.method, ask.path, json.dumps(ask.body), JSON)
        time.sleep(self._chance.uniform(0.0, 0.02))
        leaving.close()
        return ask.statuses[0], b""
