"""Where the daemon stands between loading and gone, and how many requests it is answering.

    loading --> ok --> leaving --> draining
       `----> error

Leaving: told to stop, still serving, but ready no more, so that whoever balances load looks elsewhere.
Belongs to the event loop's thread: nothing here is locked. Starts and stops nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from dynhat_runtime.errors import EngineStoppedError
from dynhat_runtime.service.ports import ControlPort, EnginePort

Phase = Literal["loading", "ok", "leaving", "draining", "error"]

NO_POINT = "none"
"""What stands for the active operating point's id while nothing is loaded."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What answers requests once it is loaded."""

    engine: EnginePort
    control: ControlPort


class Lifecycle:
    """The phase, what serves in it, and the requests in flight."""

    def __init__(self) -> None:
        self.phase: Phase = "loading"
        self.num_in_flight = 0
        self.num_characters = 0
        """Of the texts translated for the facades' clients since the start."""
        self.is_stuck = False
        """Work does not get on; whoever watches it says so."""
        self._serving: Serving | None = None
        self._is_handing_over = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._ending = asyncio.Event()

    @property
    def serving(self) -> Serving:
        """What answers requests.

        Raises:
            EngineStoppedError: Nothing does, not yet or no longer.
        """
        if self._serving is None or self.phase not in ("ok", "leaving"):
            raise EngineStoppedError(f"not ready ({self.phase}): GET /health says when to try again")
        return self._serving

    @property
    def loaded(self) -> Serving | None:
        """What has been loaded, whether or not requests are still taken; None before."""
        return self._serving

    @property
    def is_ready(self) -> bool:
        """Whether new clients should come here."""
        return self.phase == "ok"

    @property
    def active_point_id(self) -> str:
        """Id of the active operating point, or `NO_POINT`."""
        return NO_POINT if self._serving is None else self._serving.engine.active_point_id

    def ready(self, serving: Serving) -> None:
        """Loading is done. A daemon that was told to stop meanwhile stays draining."""
        if self.phase == "loading":
            self._serving = serving
            self.phase = "ok"

    def replace(self, serving: Serving) -> None:
        """From now on these answer; a request that has begun keeps those it began with."""
        assert self._serving is not None, "there is nothing to replace"
        self._serving = serving

    def fail(self) -> None:
        """Loading failed."""
        self.phase = "error"

    @property
    def closes_connections(self) -> bool:
        """Whether every answer is the last on its connection."""
        return self.phase == "draining" or self._is_handing_over

    def hand_over(self) -> None:
        """Somebody else takes the connections to come; those there are get the answer they wait for, and no more."""
        self._is_handing_over = True
        self._ending.set()

    def leave(self) -> None:
        """Serve on, but be ready no more."""
        if self.phase == "ok":
            self.phase = "leaving"

    def drain(self) -> None:
        """Take no more translations."""
        self.phase = "draining"
        self._ending.set()

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count one request as in flight."""
        self.num_in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.num_in_flight -= 1
            if self.num_in_flight == 0:
                self._idle.set()

    async def wait_idle(self) -> None:
        """Return when no request is in flight."""
        await self._idle.wait()

    async def wait_drained(self, timeout_s: float) -> bool:
        """Whether the daemon drains or hands over; waits for it so long. For answers that have no end of their own."""
        try:
            await asyncio.wait_for(self._ending.wait(), timeout_s)
        except asyncio.TimeoutError:
            return False
        return True
