"""Supervision of sensors: one that fails, hangs or talks nonsense is None, logged once, and tried again later.

`Sensor` keeps what one sensor said, when, and whether to ask it again. `SensorReader` asks many on a thread of
their own, so that whoever wants a reading never waits long for a driver. Knows nothing of what sensors measure.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from dynhat_runtime.resource_snapshot import SensorState

logger = logging.getLogger(__name__)

T = TypeVar("T")

OLDEST_BELIEVED_S = 1.0
"""A value that could not be renewed for so long is no value."""
SLOW_S = 1.0
"""Period of what changes slowly, or decides nothing."""
ABSENT_RETRY_S = 5.0
"""Pause before looking again for what the device does not have: nodes may appear after boot."""
STEADY_S = 30.0
"""A sensor that has answered for so long starts with the shortest pause when it fails again."""
PATIENCE_S = 0.05
"""What one sensor may take before the reader leaves its thread to it and goes on with another."""
LONGEST_REFRESH_S = 0.2
"""What all sensors together may hold up the caller."""
LONGEST_ERROR_CHARS = 300


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long a failing sensor is left alone."""

    first_s: float = 0.0
    """After the first failure."""
    shortest_s: float = 1.0
    """After the second; doubled from then on."""
    longest_s: float = 30.0

    def after(self, num_failures: int) -> float:
        """The pause after so many failures, in seconds."""
        if num_failures <= 1:
            return self.first_s
        return min(self.shortest_s * 2.0 ** min(num_failures - 2, 16), self.longest_s)


class NotYetError(Exception):
    """A sensor has nothing to say yet and wants to be asked at the next reading; no failure."""


@dataclass(frozen=True, slots=True)
class Reading(Generic[T]):
    """What a sensor said, and when."""

    value: T
    source: str
    """The sensor's name."""
    monotonic_s: float


# Rules:
#   1  A value stands until the next answer, but for no longer than its period and `max_age_s`.
#   2  A failure (anything raised) drops the value at once. The first is followed by a try at the next reading,
#      since files vanish for a moment when a process changes cgroups; then pauses double (`Pauses`). They start
#      afresh only after a steady while: a sensor that comes and goes fills no log.
#   3  None as an answer means that the device lacks the sensor: silence, and another look after a while.
#      From a sensor that has answered before it is a failure: it is gone.
#   4  A sensor that is being read is not read by a second thread. One that has not answered within the age limit
#      hangs: it is down until its thread comes back.
#   5  Going down is one log line, coming back another.
#   6  What the monitor sees, value and health, is of one moment: `check` at the end of a reading. A sensor that
#      comes back while a snapshot is being put together belongs to the next one.
class Sensor(Generic[T]):
    """One sensor: its last answer, its health, and when to ask again. Thread-safe."""

    def __init__(
        self,
        name: str,
        ask: Callable[[], T | None],
        period_s: float = 0.0,
        max_age_s: float = OLDEST_BELIEVED_S,
        pauses: Pauses = Pauses(),
    ) -> None:
        """Name a sensor; nothing is read yet.

        Args:
            name: Shown to people: in the log, in the status and in the metrics.
            ask: Reads it; may raise anything and may hang. None means that the device lacks it.
            period_s: How long an answer is not asked for again.
            max_age_s: How long an answer stands after that.
            pauses: How long it is left alone when it fails.
        """
        self.name = name
        self._ask = ask
        self._period_s = period_s
        self._max_age_s = period_s + max_age_s
        self._pauses = pauses
        self._lock = threading.Lock()  # guards all below; held for assignments only
        self._reading: Reading[T] | None = None
        self._was_seen = False
        self._error: str | None = None
        self._asked_s: float | None = None
        self._num_failures = 0
        self._up_since_s = 0.0
        self._failed_s = float("-inf")
        self._retry_s = float("-inf")
        self._shown: tuple[Reading[T] | None, SensorState | None] = (None, None)

    # --- what the reader does -------------------------------------------------------------------------------

    def is_due(self, now_s: float) -> bool:
        """Nobody is reading it, and its pause is over."""
        with self._lock:
            return self._asked_s is None and now_s >= self._retry_s

    def refresh(self, clock: Callable[[], float]) -> None:
        """Ask, and keep the answer. Never raises; may hang as long as the sensor does."""
        with self._lock:
            if self._asked_s is not None:
                return
            self._asked_s = clock()
        try:
            value = self._ask()
        except NotYetError:
            with self._lock:
                self._asked_s = None
        except Exception as error:  # whatever a driver throws at us must not take the other sensors along
            self._failed(_one_line(error), clock())
        else:
            if value is not None:
                self._answered(value, clock())
            elif self._was_seen:
                self._failed("it is gone", clock())
            else:
                self._absent(clock())

    def hasten(self) -> None:
        """Something changed that may help: try again as soon as after a first failure."""
        with self._lock:
            self._retry_s = min(self._retry_s, self._failed_s + self._pauses.first_s)

    def check(self, now_s: float) -> None:
        """Notice that it hangs (rule 4), and settle what this reading shows (rule 6)."""
        with self._lock:
            asked_s = self._asked_s
            is_found_hanging = (
                asked_s is not None and now_s - asked_s > self._max_age_s and self._error is None
            )
            if is_found_hanging:
                self._error, self._was_seen = "does not answer: it hangs", True
            _, state = self._shown
            if not self._was_seen:
                state = None
            elif state is None or state.error != self._error:
                state = SensorState(name=self.name, is_up=self._error is None, error=self._error)
            self._shown = (self._reading, state)
        if is_found_hanging:
            self._complain()

    def _answered(self, value: T, now_s: float) -> None:
        with self._lock:
            was_down = self._error is not None
            if was_down or not self._was_seen:
                self._up_since_s = now_s
            if now_s - self._up_since_s >= STEADY_S:
                self._num_failures = 0
            self._reading = Reading(value, self.name, now_s)
            self._was_seen, self._error, self._asked_s = True, None, None
            self._retry_s = now_s + self._period_s
        if was_down:
            logger.warning("sensor %s is back", self.name)

    def _failed(self, error: str, now_s: float) -> None:
        with self._lock:
            was_up = self._error is None
            self._num_failures += 1
            self._reading, self._was_seen, self._error, self._asked_s = None, True, error, None
            self._failed_s = now_s
            self._retry_s = now_s + self._pauses.after(self._num_failures)
        if was_up:
            self._complain()

    def _absent(self, now_s: float) -> None:
        with self._lock:
            self._asked_s, self._retry_s = None, now_s + ABSENT_RETRY_S

    def _complain(self) -> None:
        logger.warning("sensor %s fails, reads None until it is back: %s", self.name, self._error)

    # --- what the monitor asks ------------------------------------------------------------------------------

    def reading(self, now_s: float) -> Reading[T] | None:
        """The last answer with its time, unless it is too old."""
        reading, _ = self._shown
        return reading if reading is not None and now_s - reading.monotonic_s <= self._max_age_s else None

    def value(self, now_s: float) -> T | None:
        """The last answer, unless it is too old."""
        reading = self.reading(now_s)
        return None if reading is None else reading.value

    def state(self) -> SensorState | None:
        """Whether it answered; None while the device has not shown that it has it."""
        _, state = self._shown
        return state


def _one_line(error: Exception) -> str:
    """What an exception says, short enough for a status line."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return f"{name}: {text}"[:LONGEST_ERROR_CHARS] if text else name


class _Round:
    """The sensors that one refresh still has to ask."""

    def __init__(self, pending: deque[Sensor[Any]]) -> None:
        self.pending = pending
        self.is_done = threading.Event()


class _Worker:
    """A thread that asks the sensors of one round after the other, until it is left to one that hangs."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._inbox: SimpleQueue[_Round | None] = SimpleQueue()
        self._is_left = threading.Event()
        # The thread holds nothing of the reader, so that a forgotten reader is collected and the thread ends.
        threading.Thread(
            target=_work, args=(self._inbox, self._is_left, clock), name="dynhat-sensors", daemon=True
        ).start()

    def give(self, round_: _Round) -> None:
        """Ask these."""
        self._inbox.put(round_)

    def leave(self) -> None:
        """It may finish the sensor it is at, and then end."""
        self._is_left.set()
        self._inbox.put(None)


def _work(inbox: SimpleQueue[_Round | None], is_left: threading.Event, clock: Callable[[], float]) -> None:
    while (round_ := inbox.get()) is not None:
        while not is_left.is_set():
            try:
                sensor = round_.pending.popleft()
            except IndexError:
                round_.is_done.set()
                break
            sensor.refresh(clock)


class SensorReader:
    """Asks sensors on a thread of their own. One caller at a time.

    A thread that hangs is left to the sensor it hangs in, and another takes the rest over: there are never more
    threads than sensors that hang, and one.
    """

    def __init__(
        self,
        sensors: Sequence[Sensor[Any]],
        clock: Callable[[], float] = time.monotonic,
        longest_s: float = LONGEST_REFRESH_S,
    ) -> None:
        """Take the sensors in the order in which they will be asked and listed.

        Args:
            sensors: The sensors; those that cannot hang are best put first.
            clock: Stamps the answers, in seconds.
            longest_s: A refresh ends after it, whoever has not answered.
        """
        self.sensors = tuple(sensors)
        self._clock = clock
        self._longest_s = longest_s
        self._worker: _Worker | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None

    def refresh(self) -> float:
        """Ask every sensor that is due, for at most a short while; the time of the reading, in seconds."""
        now_s = self._clock()
        round_ = _Round(deque(sensor for sensor in self.sensors if sensor.is_due(now_s)))
        give_up_s = time.monotonic() + self._longest_s
        while round_.pending and (left_s := give_up_s - time.monotonic()) > 0:
            self._at_work().give(round_)
            if round_.is_done.wait(min(PATIENCE_S, left_s)):
                break
            if not round_.pending:  # nobody waits behind the last one, so it may take what is left
                round_.is_done.wait(max(give_up_s - time.monotonic(), 0.0))
                break
            self.close()
        now_s = self._clock()
        for sensor in self.sensors:
            sensor.check(now_s)
        return now_s

    def states(self) -> tuple[SensorState, ...]:
        """The sensors this device has, in their order."""
        states = (sensor.state() for sensor in self.sensors)
        return tuple(state for state in states if state is not None)

    def close(self) -> None:
        """Leave the thread: it ends when its sensor answers. The next refresh starts another."""
        if self._finalizer is not None:
            self._finalizer()
        self._worker, self._finalizer = None, None

    def _at_work(self) -> _Worker:
        if self._worker is None:
            self._worker = _Worker(self._clock)
            self._finalizer = weakref.finalize(self, self._worker.leave)
        return self._worker
