"""The daemon's pulse: notices when decoding is stuck, feeds systemd's watchdog when it is not, and says how things are.

It beats on the event loop, so a loop that hangs is not alive either. Kills nothing: systemd ends a process whose
watchdog goes unfed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from dynhat_runtime.decoding_progress import stuck_for_s
from dynhat_runtime.governor.request_choice import RequestWish
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from dynhat_runtime.systemd_notify import Notifier

LONGEST_INTERVAL_S = 1.0
BEATS_PER_PERIOD = 4
"""So that one late beat does not cost the daemon its life."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StallLimits:
    """When decoding counts as stuck; see `stuck_for_s`."""

    factor: float
    shortest_s: float


class Heartbeat:
    """Beats for whatever a lifecycle has loaded."""

    def __init__(self, notifier: Notifier, lifecycle: Lifecycle, limits: Callable[[], StallLimits]) -> None:
        self._notifier = notifier
        self._lifecycle = lifecycle
        self._limits = limits
        self._told: str | None = None

    async def run(self, watchdog_period_s: float | None) -> None:
        """Beat until cancelled, often enough for a watchdog with this period."""
        interval_s = min(LONGEST_INTERVAL_S, (watchdog_period_s or float("inf")) / BEATS_PER_PERIOD)
        while True:
            self.beat(time.monotonic())
            await asyncio.sleep(interval_s)

    # Rules:
    #   1  As long as nothing is loaded, nothing is said: systemd waits for READY.
    #   2  Decoding gets on, or there is none: the watchdog is fed.
    #   3  Decoding is stuck: it is not, and whoever asks for health hears of it.
    def beat(self, now_s: float) -> None:
        """Say what changed, and feed the watchdog unless decoding is stuck."""
        serving = self._lifecycle.loaded
        if serving is None:
            return
        stuck_s = self._stuck_for_s(serving, now_s)
        if stuck_s is None:
            self._notifier.feed_watchdog()
        self._note(stuck_s)
        self._tell(status_of(serving) if stuck_s is None else f"stuck: nothing decoded for {stuck_s:.0f} s")

    def _stuck_for_s(self, serving: Serving, now_s: float) -> float | None:
        progress = serving.engine.progress
        predicted_ms = 0.0
        if progress.point_id is not None:
            wish = RequestWish(num_src_tokens=progress.num_src_tokens, point_id=progress.point_id)
            predicted_ms = serving.control.choose(wish).predicted_ms
        limits = self._limits()
        return stuck_for_s(progress, predicted_ms, now_s, factor=limits.factor, shortest_s=limits.shortest_s)

    def _note(self, stuck_s: float | None) -> None:
        """Log it once when decoding gets stuck, and once when it goes on."""
        was_stuck, self._lifecycle.is_stuck = self._lifecycle.is_stuck, stuck_s is not None
        if stuck_s is not None and not was_stuck:
            logger.error("decoding is stuck: nothing has ended for %.1f s; the watchdog goes unfed", stuck_s)
        elif was_stuck and stuck_s is None:
            logger.warning("decoding goes on: the watchdog is fed again")

    def _tell(self, status: str) -> None:
        """Once, and only as long as the daemon is not on its way out, which says so itself."""
        if status != self._told and self._lifecycle.phase == "ok":
            self._notifier.status(status)
            self._told = status


def status_of(serving: Serving) -> str:
    """What is being served, in words."""
    chosen_by = "the governor" if serving.control.status().mode == "auto" else "hand"
    engine = serving.engine
    return f"serving: operating point {engine.active_point_id} of {len(engine.table)}, chosen by {chosen_by}"
