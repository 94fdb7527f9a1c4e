"""The daemon's pulse under systemd: its state in words, and the watchdog fed as long as decoding gets on.

It beats on the event loop, so a loop that hangs is not alive either. Kills nothing: systemd ends a process whose
watchdog goes unfed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Protocol

from dynhat_runtime.decoding_progress import DecodingProgress, stuck_for_s
from dynhat_runtime.governor.request_choice import RequestWish
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.service.ports import ControlPort
from dynhat_runtime.systemd_notify import Notifier

LONGEST_INTERVAL_S = 1.0
BEATS_PER_PERIOD = 4
"""So that one late beat does not cost the daemon its life."""

logger = logging.getLogger(__name__)


class WatchedEngine(Protocol):
    """What of an engine is watched."""

    @property
    def table(self) -> OperatingPointTable:
        """The points it serves."""

    @property
    def active_point_id(self) -> str:
        """Id of the point that the next translation will use."""

    @property
    def progress(self) -> DecodingProgress:
        """What it is at."""


@dataclass(frozen=True, slots=True)
class StallLimits:
    """When decoding counts as stuck; see `stuck_for_s`."""

    factor: float
    shortest_s: float


class Heartbeat:
    """Beats for one engine and its control loop."""

    def __init__(
        self, notifier: Notifier, engine: WatchedEngine, control: ControlPort, limits: StallLimits
    ) -> None:
        self._notifier = notifier
        self._engine = engine
        self._control = control
        self._limits = limits
        self._told: str | None = None
        self._is_stuck = False

    async def run(self, watchdog_period_s: float | None) -> None:
        """Beat until cancelled, often enough for a watchdog with this period."""
        interval_s = min(LONGEST_INTERVAL_S, (watchdog_period_s or float("inf")) / BEATS_PER_PERIOD)
        while True:
            self.beat(time.monotonic())
            await asyncio.sleep(interval_s)

    def beat(self, now_s: float) -> None:
        """Say what changed, and feed the watchdog unless decoding is stuck."""
        stuck_s = self._stuck_for_s(now_s)
        if stuck_s is None:
            self._notifier.feed_watchdog()
        self._note(stuck_s)
        status = self.status if stuck_s is None else f"stuck: nothing decoded for {stuck_s:.0f} s"
        if status != self._told:
            self._notifier.status(status)
            self._told = status

    @property
    def status(self) -> str:
        """What is being served, in words."""
        chosen_by = "the governor" if self._control.status().mode == "auto" else "hand"
        return (
            f"serving: operating point {self._engine.active_point_id} of {len(self._engine.table)}, "
            f"chosen by {chosen_by}"
        )

    def _stuck_for_s(self, now_s: float) -> float | None:
        progress = self._engine.progress
        return stuck_for_s(
            progress,
            self._predicted_ms(progress),
            now_s,
            factor=self._limits.factor,
            shortest_s=self._limits.shortest_s,
        )

    def _predicted_ms(self, progress: DecodingProgress) -> float:
        """What the batch in hand was to take."""
        if progress.point_id is None:
            return 0.0
        wish = RequestWish(num_src_tokens=progress.num_src_tokens, point_id=progress.point_id)
        return self._control.choose(wish).predicted_ms

    def _note(self, stuck_s: float | None) -> None:
        """Log it once when decoding gets stuck, and once when it goes on."""
        is_stuck = stuck_s is not None
        if is_stuck and not self._is_stuck:
            logger.error("decoding is stuck: nothing has ended for %.1f s; the watchdog goes unfed", stuck_s)
        elif self._is_stuck and not is_stuck:
            logger.warning("decoding goes on: the watchdog is fed again")
        self._is_stuck = is_stuck
