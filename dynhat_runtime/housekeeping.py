"""Memory that requests needed goes back to the system once nobody has asked for anything for a moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from dynhat_runtime.c_allocator import release_free_memory
from dynhat_runtime.service.lifecycle import Lifecycle

IDLE_S = 2.0
"""Without work, before it is done; also between two looks."""


class Housekeeping:
    """Tidies up behind whatever a lifecycle has loaded."""

    def __init__(self, lifecycle: Lifecycle, tidy: Callable[[], None] = release_free_memory) -> None:
        self._lifecycle = lifecycle
        self._tidy = tidy
        self._done_after_s = 0.0

    async def run(self) -> None:
        """Look now and then, until cancelled."""
        while True:
            await asyncio.sleep(IDLE_S)
            if self.is_due(time.monotonic()):
                await asyncio.to_thread(self._tidy)

    def is_due(self, now_s: float) -> bool:
        """Whether the engine has been idle for long enough, and has worked since this was last said."""
        serving = self._lifecycle.loaded
        if serving is None:
            return False
        progress = serving.engine.progress
        if (
            progress.is_busy
            or now_s - progress.advanced_s < IDLE_S
            or progress.advanced_s == self._done_after_s
        ):
            return False
        self._done_after_s = progress.advanced_s
        return True
