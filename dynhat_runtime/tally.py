"""Running totals of what the engine and the control loop do, for whoever reads them. Knows no metrics format.

A tally takes numbers from one thread or several and gives a consistent copy to any.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TallyCopy:
    """A distribution at one moment: how many values lie at or below each edge, and of all their number and sum."""

    edges: tuple[float, ...]
    at_or_below: tuple[int, ...]
    number: int
    total: float


class Tally:
    """A distribution of numbers over fixed edges."""

    def __init__(self, edges: Sequence[float]) -> None:
        """Start empty.

        Args:
            edges: Upper bounds of the buckets, rising.
        """
        self._edges = tuple(edges)
        self._counts = [0] * (len(self._edges) + 1)
        self._total = 0.0
        self._lock = threading.Lock()

    def add(self, value: float) -> None:
        """Count one value."""
        with self._lock:
            self._counts[bisect_left(self._edges, value)] += 1
            self._total += value

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the seconds that what is inside takes, unless it fails."""
        began_s = time.perf_counter()
        yield
        self.add(time.perf_counter() - began_s)

    def copy(self) -> TallyCopy:
        """The distribution as it is now."""
        with self._lock:
            counts, total = list(self._counts), self._total
        below, number = [], 0
        for count in counts[:-1]:
            number += count
            below.append(number)
        return TallyCopy(self._edges, tuple(below), number + counts[-1], total)


WAIT_EDGES_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
WORK_EDGES_S = (0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SENTENCE_EDGES = (1, 2, 4, 8, 16, 32)
TOKEN_EDGES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
SWITCH_EDGES_S = (5e-7, 1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
DECISION_EDGES_S = (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2)

LONGEST_POWER_GAP_S = 10.0
"""Between two readings of the power that energy is counted across."""


@dataclass(slots=True)
class EngineTallies:
    """What an engine did since it, or the one it took over from, began."""

    queue_wait_s: dict[str, Tally] = field(
        default_factory=lambda: {name: Tally(WAIT_EDGES_S) for name in ("interactive", "batch")}
    )
    """By class of request: from its submission until its first sentence began."""
    batch_sentences: Tally = field(default_factory=lambda: Tally(SENTENCE_EDGES))
    batch_tokens: Tally = field(default_factory=lambda: Tally(TOKEN_EDGES))
    """Source tokens of a batch."""
    inference_s: dict[str, Tally] = field(default_factory=dict)
    """By operating point: encoding and decoding of a batch."""
    tokens: Counter[str] = field(default_factory=Counter)
    """By direction, source or target."""
    guard_retries: Counter[str] = field(default_factory=Counter)
    """By the fault of the output that was translated once more."""
    cancelled: int = 0
    """Requests withdrawn before they were done."""

    def batch_done(
        self, point_id: str, num_sentences: int, src_tokens: int, tgt_tokens: int, elapsed_s: float
    ) -> None:
        """Count one batch; called by one thread only."""
        self.batch_sentences.add(num_sentences)
        self.batch_tokens.add(src_tokens)
        if point_id not in self.inference_s:
            self.inference_s = {**self.inference_s, point_id: Tally(WORK_EDGES_S)}
        self.inference_s[point_id].add(elapsed_s)
        self.tokens["source"] += src_tokens
        self.tokens["target"] += tgt_tokens


@dataclass(slots=True)
class ControlTallies:
    """What a control loop did since it, or the one it took over from, began."""

    switch_s: Tally = field(default_factory=lambda: Tally(SWITCH_EDGES_S))
    """What the engine took to replace its active point."""
    decision_s: Tally = field(default_factory=lambda: Tally(DECISION_EDGES_S))
    """What the governor took to decide."""
    energy_j: float | None = None
    """The board's power times time since its first reading; None without one. Gaps in the readings are left out."""
    _power_read: tuple[float, float] | None = None
    """Monotonic time and mW of the last reading of the power."""

    def note_power(self, monotonic_s: float, power_mw: float | None) -> None:
        """Count the energy since the last reading, as if the power had changed evenly between the two."""
        earlier, self._power_read = self._power_read, None
        if power_mw is None:
            return
        self._power_read = (monotonic_s, power_mw)
        self.energy_j = self.energy_j or 0.0
        if earlier is not None and 0 < monotonic_s - earlier[0] <= LONGEST_POWER_GAP_S:
            self.energy_j += (monotonic_s - earlier[0]) * (earlier[1] + power_mw) / 2e3
