"""Joins sensing, deciding and acting: monitor.read -> decide -> engine.switch_to, a few times a second.

Keeps the why-log. Holds no rule of its own: what to run is the governor's decision, how to switch is the
engine's affair.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Protocol

from dynhat_runtime.governor.latency_model import LatencyModel
from dynhat_runtime.governor.policy import Decision, GovernorRules, GovernorState, Mode, decide
from dynhat_runtime.monitor import Monitor
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.resource_snapshot import ResourceSnapshot

logger = logging.getLogger(__name__)

MAX_REMEMBERED_COMPLAINTS = 32


class Engine(Protocol):
    """What the loop needs of an engine."""

    @property
    def active_point_id(self) -> str:
        """The point that translations starting now will use."""
        ...

    def switch_to(self, point_id: str) -> None:
        """Make `point_id` the active point before returning."""
        ...

    def follow_cpus(self, cpus: tuple[int, ...]) -> None:
        """Compute on these CPUs from now on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlStatus:
    """Where the loop stands after its last pass."""

    active_id: str
    mode: Mode
    since_utc: datetime
    """When the active point became active."""
    reason: str
    """Of the latest decision."""
    snapshot: ResourceSnapshot | None
    """What the latest decision saw; None before the first."""


class ControlLoop:
    """Keeps the engine on the operating point that fits the device.

    A daemon thread ticks. `pin` and `set_auto` may be called from any thread and have taken effect when they
    return. `status` and `decisions` never wait for a sensor.
    """

    def __init__(
        self,
        monitor: Monitor,
        engine: Engine,
        table: OperatingPointTable,
        rules: GovernorRules,
        interval_s: float = 0.25,
        history: int = 256,
    ) -> None:
        """Join the parts; nothing runs before `start` or `tick`.

        Args:
            monitor: Read once per tick, never by two threads at a time.
            engine: Switched when the decision says so.
            table: The points the engine can switch to.
            rules: Budget, dead band and dwell.
            interval_s: Pause between ticks.
            history: How many changes the why-log keeps.
        """
        self._monitor = monitor
        self._engine = engine
        self._table = table
        self._rules = rules
        self._model = LatencyModel(table, rules.num_busy_neighbours)
        self._interval_s = interval_s
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

        self._pass_lock = threading.Lock()  # one pass at a time; guards what only a pass touches:
        # Time is the snapshots' own, as a recording has another clock. The first point sits out no dwell.
        self._state = GovernorState(active_id=engine.active_point_id, since_monotonic_s=-math.inf)
        self._followed_cpus: tuple[int, ...] | None = None
        self._complaints: deque[str] = deque(maxlen=MAX_REMEMBERED_COMPLAINTS)

        self._publish_lock = threading.Lock()  # held for an assignment only; guards what readers see:
        self._changes: deque[Decision] = deque(maxlen=history)
        self._latest: Decision | None = None
        self._status = ControlStatus(
            active_id=self._state.active_id,
            mode="auto",
            since_utc=datetime.now(timezone.utc),
            reason="nothing decided yet",
            snapshot=None,
        )

    # --- running --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Tick in a daemon thread until `stop`."""
        assert self._thread is None, "the control loop runs already"
        # An event of its own, so that a thread that outlived `stop` does not come back to life.
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(self._stopping,), name="dynhat-control-loop", daemon=True
        )
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """End the thread, waiting at most `timeout_s` for a pass to finish. Harmless if it does not run."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._stopping.set()
        thread.join(timeout_s)
        if thread.is_alive():
            logger.warning("control loop did not end within %.1f s; a sensor or the engine hangs", timeout_s)

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            self.tick()
            stopping.wait(self._interval_s)

    def tick(self) -> None:
        """One pass. What goes wrong in it is logged, and the engine keeps its point."""
        with self._pass_lock:
            self._pass_or_complain()

    # --- what people ask for --------------------------------------------------------------------------------

    def pin(self, point_id: str) -> None:
        """Run `point_id`, whatever the resources, until `set_auto`. In effect on return.

        Raises:
            UnknownOperatingPointError: The table has no such point; nothing changed.
            EngineError: The engine could not switch; the mode is what it was before.
        """
        known_id = self._table[point_id].id
        with self._pass_lock:
            before = self._state.pinned_id
            self._state = replace(self._state, pinned_id=known_id)
            try:
                self._pass()
            except Exception:
                self._state = replace(self._state, pinned_id=before)
                raise

    def set_auto(self) -> None:
        """Let the governor choose again. In effect on return."""
        with self._pass_lock:
            self._state = replace(self._state, pinned_id=None)
            with self._publish_lock:
                self._status = replace(self._status, mode="auto")
            self._pass_or_complain()

    def status(self) -> ControlStatus:
        """Where the loop stands."""
        with self._publish_lock:
            return self._status

    def decisions(self) -> tuple[Decision, ...]:
        """The last changes, oldest first, and the latest decision if that was none."""
        with self._publish_lock:
            if self._latest is None or self._latest.changed:
                return tuple(self._changes)
            return (*self._changes, self._latest)

    # --- one pass -------------------------------------------------------------------------------------------

    def _pass_or_complain(self) -> None:
        try:
            self._pass()
        except Exception as error:  # the loop must outlive whatever a part throws
            self._complain("control loop pass failed, the engine keeps its point", error)

    def _pass(self) -> None:
        """Read, decide, act, publish. The caller holds the pass lock."""
        snapshot = self._read()
        # The engine's word on its active point stands, also if something else switched it.
        if self._engine.active_point_id != self._state.active_id:
            self._became_active(self._engine.active_point_id, snapshot.monotonic_s)
        decision = decide(snapshot, self._state, self._rules, self._model)
        self._follow(snapshot)
        if decision.changed:
            self._switch(decision)
        self._publish(decision)

    def _read(self) -> ResourceSnapshot:
        try:
            return self._monitor.read()
        except Exception as error:
            if self._state.pinned_id is None:
                raise
            # A pinned point needs no sensor: a broken monitor must not keep people from choosing by hand.
            self._complain("monitor failed, the pinned point stands on the last reading", error)
            return self._status.snapshot or ResourceSnapshot(monotonic_s=time.monotonic(), source="none")

    def _follow(self, snapshot: ResourceSnapshot) -> None:
        """Tell the engine of other usable CPUs; a refusal does not hold up the switch and is tried again."""
        if snapshot.usable_cpus is None or snapshot.usable_cpus == self._followed_cpus:
            return
        try:
            self._engine.follow_cpus(snapshot.usable_cpus)
        except Exception as error:
            self._complain("engine cannot follow the usable CPUs", error)
        else:
            self._followed_cpus = snapshot.usable_cpus

    def _switch(self, decision: Decision) -> None:
        before = self._state.active_id
        self._engine.switch_to(decision.point_id)
        self._became_active(decision.point_id, decision.decided_monotonic_s)
        fields = {"from_point": before, "to_point": decision.point_id, "reason": decision.reason}
        logger.info("switch from=%s to=%s reason=%r", *fields.values(), extra=fields)

    def _became_active(self, point_id: str, monotonic_s: float) -> None:
        self._state = replace(self._state, active_id=point_id, since_monotonic_s=monotonic_s)
        with self._publish_lock:
            self._status = replace(self._status, active_id=point_id, since_utc=datetime.now(timezone.utc))

    def _publish(self, decision: Decision) -> None:
        with self._publish_lock:
            if decision.changed:
                self._changes.append(decision)
            self._latest = decision
            self._status = replace(
                self._status, mode=decision.mode, reason=decision.reason, snapshot=decision.snapshot
            )

    def _complain(self, what: str, error: Exception) -> None:
        """Log a failure once, not on every tick."""
        complaint = f"{what}: {error!r}"
        if complaint not in self._complaints:
            self._complaints.append(complaint)
            logger.error("%s", complaint, exc_info=error)
