"""Joins sensing, deciding and acting: monitor.read -> governor.decide -> engine.switch_to, a few times a second.

Hands the governor what the engine measured, and keeps the why-log. Holds no rule of its own: what to run is the
governor's decision, how to switch is the engine's affair.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from statistics import median
from typing import Literal, Protocol, runtime_checkable

from dynhat_runtime.governor.decision import Decision, Mode
from dynhat_runtime.governor.governor import Governor, ObservationResult
from dynhat_runtime.governor.recorder import Recorder
from dynhat_runtime.governor.request_choice import RequestChoice, RequestWish
from dynhat_runtime.governor.rules import GovernorRules, PolicyName
from dynhat_runtime.monitor import Monitor
from dynhat_runtime.observation import Handling, Observation
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from dynhat_runtime.tally import ControlTallies

logger = logging.getLogger(__name__)

MAX_REMEMBERED_COMPLAINTS = 32
MAX_WAITING_OBSERVATIONS = 1024
"""Between two passes; of more the oldest are lost."""
NUM_JUDGED_PREDICTIONS, NUM_SHOWN_PREDICTIONS = 256, 32
CANARY_INTERVAL_S = 2.0
LOST_CANARY_S = 60.0
"""A canary that brought no observation for so long brings none."""
QUIET_S = 1.0
"""Without an observation for so long, and with nothing queued, the engine counts as idle."""


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


@runtime_checkable
class CanaryEngine(Protocol):
    """What else an engine has that can translate a sentence of its own."""

    @property
    def queue_depth(self) -> int:
        """Sentences waiting."""
        ...

    def run_canary(self) -> object:
        """Translate one fixed sentence on the active point, behind whatever else there is, and return at once.

        What it took comes back as an observation with `is_canary`.
        """
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
    policy: PolicyName
    slow_down_factor: float | None = None
    """Of everything against the table's figures; None before the first decision."""
    slow_down_std: float | None = None
    """Of its logarithm; about its relative error."""
    handling_ms: float | None = None
    """What requests take besides being decoded; None before the first decision."""
    num_predictions: int = 0
    """Observations that a prediction was made for, since the start."""
    prediction_error_fraction: float | None = None
    """Median of |predicted / actual - 1| over the last 256; None before the first."""
    latest_predictions: tuple[ObservationResult, ...] = ()
    """The last 32 of them, oldest first."""


class ControlLoop:
    """Keeps the engine on the operating point that fits the device.

    A daemon thread ticks. `pin` and `set_auto` may be called from any thread and have taken effect when they
    return. `status`, `decisions`, `choose` and `observe` may be, too, and never wait for a sensor.
    """

    def __init__(
        self,
        monitor: Monitor,
        engine: Engine,
        table: OperatingPointTable,
        rules: GovernorRules,
        interval_s: float = 0.25,
        history: int = 256,
        recorder: Recorder | None = None,
        tallies: ControlTallies | None = None,
    ) -> None:
        """Join the parts; nothing runs before `start` or `tick`.

        Args:
            monitor: Read once per tick, never by two threads at a time.
            engine: Switched when the decision says so.
            table: The points the engine can switch to.
            rules: Budget, policy and limits.
            interval_s: Pause between ticks.
            history: How many changes the why-log keeps.
            recorder: Told all that the governor is told, and what it says.
            tallies: Counted on in; a loop that takes over goes on with those of the one before.

        Raises:
            SettingsError: The rules ask what the table cannot answer.
        """
        self.tallies = tallies or ControlTallies()
        self._monitor = monitor
        self._engine = engine
        self._canary_engine = engine if isinstance(engine, CanaryEngine) else None
        self._table = table
        self._rules = rules
        self._recorder = recorder
        self._interval_s = interval_s
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._observed: deque[Observation | Handling] = deque(maxlen=MAX_WAITING_OBSERVATIONS)

        self._governor_lock = threading.Lock()  # held while the governor thinks, never while a sensor is read
        self._governor = Governor(table, rules, engine.active_point_id)

        self._pass_lock = threading.Lock()  # one pass at a time; guards what only a pass touches:
        self._followed_cpus: tuple[int, ...] | None = None
        self._complaints: deque[str] = deque(maxlen=MAX_REMEMBERED_COMPLAINTS)
        self._last_observed_s = -CANARY_INTERVAL_S
        self._last_canary_s = -LOST_CANARY_S
        self._canary_is_out = False

        self._publish_lock = threading.Lock()  # held for an assignment only; guards what readers see:
        self._changes: deque[Decision] = deque(maxlen=history)
        self._latest: Decision | None = None
        self._judged: deque[ObservationResult] = deque(maxlen=NUM_JUDGED_PREDICTIONS)
        self._status = ControlStatus(
            active_id=engine.active_point_id,
            mode="auto",
            since_utc=datetime.now(timezone.utc),
            reason="nothing decided yet",
            snapshot=None,
            policy=rules.policy,
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
        self._wake.set()
        thread.join(timeout_s)
        if thread.is_alive():
            logger.warning("control loop did not end within %.1f s; a sensor or the engine hangs", timeout_s)

    def _run(self, stopping: threading.Event) -> None:
        while not stopping.is_set():
            self._wake.clear()
            self.tick()
            if not stopping.is_set():
                self._wake.wait(self._interval_s)

    def tick(self) -> None:
        """One pass. What goes wrong in it is logged, and the engine keeps its point."""
        with self._pass_lock:
            self._pass_or_complain()

    # --- what the engine and requests ask for ---------------------------------------------------------------

    def observe(self, observation: Observation) -> None:
        """Take note of one finished batch. Returns at once: the governor learns in the next pass.

        A batch that took longer than the budget brings that pass about now.
        """
        self._observed.append(observation)
        # No more often than once a budget's time: that is how long such a batch takes.
        if observation.elapsed_ms > self._rules.latency_budget_ms:
            self._wake.set()

    def note_handling(self, handling: Handling) -> None:
        """Take note of what one request took besides being decoded. Returns at once."""
        self._observed.append(handling)

    def choose(self, wish: RequestWish) -> RequestChoice:
        """The operating point for one request alone.

        Raises:
            UnknownOperatingPointError: The table has no such point.
            RequestError: A quality is asked for that the table does not state.
        """
        with self._governor_lock:
            return self._governor.choose(wish)

    # --- what people ask for --------------------------------------------------------------------------------

    def pin(self, point_id: str) -> None:
        """Run `point_id`, whatever the resources, until `set_auto`. In effect on return.

        Raises:
            UnknownOperatingPointError: The table has no such point; nothing changed.
            EngineError: The engine could not switch; the mode is what it was before.
        """
        with self._pass_lock:
            before = self._governor.pinned_id
            with self._governor_lock:
                self._governor.pin(point_id)
            try:
                self._pass()
            except Exception:
                self._restore_pin(before)
                raise

    def _restore_pin(self, point_id: str | None) -> None:
        with self._governor_lock:
            if point_id is None:
                self._governor.set_auto()
            else:
                self._governor.pin(point_id)

    def set_auto(self) -> None:
        """Let the governor choose again. In effect on return."""
        with self._pass_lock:
            self._restore_pin(None)
            with self._publish_lock:
                self._status = replace(self._status, mode="auto")
            self._pass_or_complain()

    def status(self) -> ControlStatus:
        """Where the loop stands."""
        with self._publish_lock:
            status, judged = self._status, tuple(self._judged)
        error = median(abs(result.error_fraction) for result in judged) if judged else None
        latest = judged[-NUM_SHOWN_PREDICTIONS:]
        return replace(status, prediction_error_fraction=error, latest_predictions=latest)

    def decisions(self, last: int | None = None) -> tuple[Decision, ...]:
        """The last changes, oldest first, and the latest decision if that was none.

        Args:
            last: No more than the last so many of them; None is all that the why-log keeps.
        """
        with self._publish_lock:
            kept = tuple(self._changes)
            if self._latest is not None and not self._latest.changed:
                kept = (*kept, self._latest)
        return kept if last is None else kept[max(len(kept) - last, 0) :]

    # --- one pass -------------------------------------------------------------------------------------------

    def _pass_or_complain(self) -> None:
        try:
            self._pass()
        except Exception as error:  # the loop must outlive whatever a part throws
            self._complain("control loop pass failed, the engine keeps its point", error)

    def _pass(self) -> None:
        """Read, learn, decide, act, publish. The caller holds the pass lock."""
        snapshot = self._read()
        # The engine's word on its active point stands, also if something else switched it.
        if self._engine.active_point_id != self._governor.active_id:
            self._became_active(self._engine.active_point_id, snapshot.monotonic_s)
        self._learn()
        self._record("snapshot", snapshot)
        self.tallies.note_power(snapshot.monotonic_s, snapshot.power_mw)
        with self.tallies.decision_s.timed(), self._governor_lock:
            decision = self._governor.decide(snapshot)
        self._follow(snapshot)
        if decision.changed:
            self._switch(decision)
        self._publish(decision)
        self._record("decision", decision)
        if decision.wants_canary:
            self._run_canary()

    def _learn(self) -> None:
        """Hand the governor what was observed since the last pass, in order."""
        while self._observed:
            observation = self._observed.popleft()
            if isinstance(observation, Handling):
                self._learn_handling(observation)
            else:
                self._learn_from(observation)

    def _learn_handling(self, handling: Handling) -> None:
        self._record("handling", handling)
        with self._governor_lock:
            self._governor.note_handling(handling)

    def _learn_from(self, observation: Observation) -> None:
        self._record("observation", observation)
        with self._governor_lock:
            result = self._governor.observe(observation)
        # Any will do: with traffic, no canary is needed.
        self._last_observed_s, self._canary_is_out = time.monotonic(), False
        if result is not None:
            with self._publish_lock:
                self._judged.append(result)
                self._status = replace(self._status, num_predictions=self._status.num_predictions + 1)

    def _run_canary(self) -> None:
        """Ask an idle engine for a sentence of our own: one at a time, and one in two seconds at most."""
        engine, now_s = self._canary_engine, time.monotonic()
        if engine is None or engine.queue_depth or now_s - self._last_observed_s < QUIET_S:
            return
        if now_s - self._last_canary_s < (LOST_CANARY_S if self._canary_is_out else CANARY_INTERVAL_S):
            return
        self._last_canary_s, self._canary_is_out = now_s, True
        try:
            engine.run_canary()
        except Exception as error:
            self._canary_is_out = False
            self._complain("engine cannot translate a canary", error)

    def _record(
        self,
        what: Literal["snapshot", "observation", "handling", "decision"],
        value: ResourceSnapshot | Observation | Handling | Decision,
    ) -> None:
        """A recorder that fails holds up nothing."""
        if self._recorder is None:
            return
        try:
            getattr(self._recorder, what)(value)
        except Exception as error:
            self._complain(f"recorder failed to take a {what}", error)

    def _read(self) -> ResourceSnapshot:
        try:
            return self._monitor.read()
        except Exception as error:
            if self._governor.pinned_id is None:
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
        with self.tallies.switch_s.timed():
            self._engine.switch_to(decision.point_id)
        self._became_active(decision.point_id, decision.decided_monotonic_s)
        fields = {"from": decision.active_id, "to": decision.point_id, "reason": decision.reason}
        logger.info("switch", extra=fields)

    def _became_active(self, point_id: str, monotonic_s: float) -> None:
        with self._governor_lock:
            self._governor.became_active(point_id, monotonic_s)
        with self._publish_lock:
            self._status = replace(self._status, active_id=point_id, since_utc=datetime.now(timezone.utc))

    def _publish(self, decision: Decision) -> None:
        with self._publish_lock:
            if decision.changed:
                self._changes.append(decision)
            self._latest = decision
            self._status = replace(
                self._status,
                mode=decision.mode,
                reason=decision.reason,
                snapshot=decision.snapshot,
                policy=decision.policy,
                slow_down_factor=decision.slow_down_factor,
                slow_down_std=decision.slow_down_std,
                handling_ms=decision.handling_ms,
            )

    def _complain(self, what: str, error: Exception) -> None:
        """Log a failure once, not on every tick."""
        complaint = f"{what}: {error!r}"
        if complaint not in self._complaints:
            self._complaints.append(complaint)
            logger.error("%s", complaint, exc_info=error)
