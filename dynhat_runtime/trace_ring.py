"""The daemon's flight recorder: the last events as lines in memory, for whoever comes to fetch them.

Writes no file, so that a full disk is nothing to the daemon; `dynhat record` does.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import asdict
from datetime import datetime, timezone
from itertools import islice

from dynhat_runtime import __version__
from dynhat_runtime.governor.decision import Decision
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.monitor.identity import device_name
from dynhat_runtime.observation import Handling, Observation
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from dynhat_runtime.trace import MAX_PAGE_EVENTS, Event, TableIdentity, TracedDecision, TraceHeader, as_line

MAX_HELD_BYTES = 2 * 2**20
"""Of lines, less what Python adds: about seven minutes at four decisions a second."""


class TraceRing:
    """Takes events from one thread, gives them to any. The oldest make room for the newest."""

    def __init__(self, header: TraceHeader, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        """Hold nothing yet.

        Args:
            header: Of what is going to be recorded.
            max_held_bytes: Length of all lines together.
        """
        self.header_line = as_line(header)
        self._max_held_bytes = max_held_bytes
        self._lock = threading.Lock()
        self._lines: deque[str] = deque()
        self._num_held_bytes = 0
        self._num_seen = 0

    # --- what the control loop tells ------------------------------------------------------------------------

    def snapshot(self, snapshot: ResourceSnapshot) -> None:
        """The governor decides on this next."""
        self._take(snapshot)

    def observation(self, observation: Observation) -> None:
        """The governor learns from this next."""
        self._take(observation)

    def handling(self, handling: Handling) -> None:
        """The governor learns from this next."""
        self._take(handling)

    def decision(self, decision: Decision) -> None:
        """What it decided on the last snapshot."""
        self._take(traced(decision))

    def _take(self, event: Event) -> None:
        line = as_line(event)
        with self._lock:
            self._lines.append(line)
            self._num_seen += 1
            self._num_held_bytes += len(line)
            while self._num_held_bytes > self._max_held_bytes:
                self._num_held_bytes -= len(self._lines.popleft())

    # --- what others fetch ----------------------------------------------------------------------------------

    def page_after(self, number: int) -> str:
        """Events after the one of this number, counted from 1, as one JSON object; at most 4096 of them.

        Its fields: `header`; `events`; `next`, the number to ask with next; `lost`, how many are held no more.
        """
        with self._lock:
            num_gone = self._num_seen - len(self._lines)
            first = min(max(number, num_gone), self._num_seen)
            lines = list(islice(self._lines, first - num_gone, first - num_gone + MAX_PAGE_EVENTS))
        return (
            f'{{"header":{self.header_line},"events":[{",".join(lines)}],'
            f'"next":{first + len(lines)},"lost":{max(first - number, 0)}}}'
        )


def header_of(table: TableIdentity, rules: GovernorRules) -> TraceHeader:
    """The header of a recording that begins now, on this device."""
    return TraceHeader(
        dynhat_version=__version__,
        started_at=datetime.now(timezone.utc).isoformat(),
        device=device_name(),
        table=table,
        rules=asdict(rules),
    )


def traced(decision: Decision) -> TracedDecision:
    """What a recording keeps of a decision."""
    chosen = next(each for each in decision.candidates if each.point_id == decision.point_id)
    return TracedDecision(
        monotonic_s=decision.decided_monotonic_s,
        active_id=decision.active_id,
        point_id=decision.point_id,
        mode=decision.mode,
        policy=decision.policy,
        reason_code=decision.reason_code,
        predicted_ms=chosen.predicted_ms,
        slow_down_factor=decision.slow_down_factor,
        slow_down_std=decision.slow_down_std,
        reason=decision.reason if decision.changed else None,
        wants_canary=decision.wants_canary,
    )
