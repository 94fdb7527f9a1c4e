"""Runs the governor over a recording, event by event. Sums up nothing and writes nothing.

The governor is the one that serves. What it learns from is what was recorded; where it chose another point than was
recorded, a translation is taken to be as much slower than the table as the recorded one was:

    replayed ms = recorded ms x table's ms on the replayed point / table's ms on the recorded point

both at the translation's lengths and under the caps of its time.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from dynhat_runtime.governor.decision import Decision
from dynhat_runtime.governor.governor import Governor, ObservationResult
from dynhat_runtime.governor.latency_model import LatencyModel
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.observation import Handling, Observation
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from dynhat_runtime.trace import Event, Gap, TracedDecision

NUM_REMEMBERED_CHANGES = 64
"""Of the active point: a translation began under one of the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """One decision on a recorded snapshot."""

    decision: Decision
    recorded: TracedDecision | None
    """What was decided then; None where the recording does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One recorded translation."""

    recorded: Observation
    replayed: Observation
    """The same on the point that the replayed governor had made active."""
    result: ObservationResult | None
    """What the replayed governor expected of it; None where it could not expect anything."""


Step = Decided | Observed | Gap


class Replayer:
    """The governor, and beside it what is known of the recorded one."""

    def __init__(self, table: OperatingPointTable, rules: GovernorRules) -> None:
        """Begin with nothing observed.

        Args:
            table: The points there were.
            rules: To decide by; those of the recording, or others.

        Raises:
            SettingsError: The rules ask what the table cannot answer.
        """
        rules.check_against(table)
        self._table = table
        self._rules = rules
        self._model = LatencyModel(table)
        self._governor: Governor | None = None
        self._num_cpus: float | None = None
        self._recorded_active = _ActiveLog()
        self._replayed_active = _ActiveLog()

    def steps(self, events: Iterable[Event]) -> Iterator[Step]:
        """Every event's consequence, in order.

        Raises:
            UnknownOperatingPointError: The recording names a point that the table does not have.
        """
        for event, following in _with_following(events):
            if isinstance(event, ResourceSnapshot):
                recorded = following if isinstance(following, TracedDecision) else None
                if recorded is not None and recorded.monotonic_s != event.monotonic_s:
                    recorded = None
                yield self._decide(event, recorded)
            elif isinstance(event, Observation):
                yield self._observe(event)
            elif isinstance(event, Handling):
                if self._governor is not None:
                    self._governor.note_handling(event)
            elif isinstance(event, Gap):
                yield event

    def _decide(self, snapshot: ResourceSnapshot, recorded: TracedDecision | None) -> Decided:
        """Decide as the daemon does; what people pinned then is pinned again."""
        governor = self._governor or self._begin(recorded)
        if recorded is not None and recorded.mode == "pinned":
            governor.pin(recorded.point_id)
        elif recorded is not None:
            governor.set_auto()
        decision = governor.decide(snapshot)
        self._num_cpus = snapshot.effective_cpus
        if decision.changed:
            governor.became_active(decision.point_id, decision.decided_monotonic_s)
        self._replayed_active.note(decision.point_id, snapshot.monotonic_s)
        if recorded is not None:
            self._recorded_active.note(self._table[recorded.point_id].id, snapshot.monotonic_s)
        return Decided(decision=decision, recorded=recorded)

    def _begin(self, recorded: TracedDecision | None) -> Governor:
        first_id = None if recorded is None else recorded.active_id
        self._governor = Governor(self._table, self._rules, first_id)
        self._replayed_active.note(self._governor.active_id, -math.inf)
        if recorded is not None:
            self._recorded_active.note(recorded.active_id, -math.inf)
        return self._governor

    def _observe(self, observation: Observation) -> Observed:
        replayed = self._moved(observation)
        result = None if self._governor is None else self._governor.observe(replayed)
        return Observed(recorded=observation, replayed=replayed, result=result)

    def _moved(self, observation: Observation) -> Observation:
        """The translation on the point that was active in the replay when it began.

        One that had a point of its own then keeps it.
        """
        began_s = observation.monotonic_s - observation.elapsed_ms / 1e3
        recorded_id = self._recorded_active.at(began_s)
        replayed_id = self._replayed_active.at(began_s)
        if replayed_id is None or recorded_id not in (None, observation.point_id):
            return observation
        ratio = self._base_ms(replayed_id, observation) / self._base_ms(observation.point_id, observation)
        return replace(observation, point_id=replayed_id, elapsed_ms=observation.elapsed_ms * ratio)

    def _base_ms(self, point_id: str, observation: Observation) -> float:
        return self._model.predict_ms(
            self._table[point_id],
            num_src_tokens=observation.num_src_tokens,
            num_tgt_tokens=observation.num_tgt_tokens,
            num_cpus=self._num_cpus,
        )


class _ActiveLog:
    """Which point was active when, of late."""

    def __init__(self) -> None:
        self._changes: deque[tuple[float, str]] = deque(maxlen=NUM_REMEMBERED_CHANGES)

    def note(self, point_id: str, monotonic_s: float) -> None:
        """It is active from then on."""
        if not self._changes or self._changes[-1][1] != point_id:
            self._changes.append((monotonic_s, point_id))

    def at(self, monotonic_s: float) -> str | None:
        """The one that was active then; None while nothing is noted."""
        for since_s, point_id in reversed(self._changes):
            if since_s <= monotonic_s:
                return point_id
        return self._changes[0][1] if self._changes else None


def _with_following(events: Iterable[Event]) -> Iterator[tuple[Event, Event | None]]:
    """Every event with the one after it."""
    previous: Event | None = None
    for event in events:
        if previous is not None:
            yield previous, event
        previous = event
    if previous is not None:
        yield previous, None
