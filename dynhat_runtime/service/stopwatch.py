"""How long a request has been in our hands: from its arrival, without the time its client took to send its body.

It arrives with the last of its head, before anything of it is parsed; the server notes when.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from fastapi import Request
from starlette.types import Message, Receive, Scope

from dynhat_runtime.service.ports import Translated

ARRIVED_S = "arrived_s"
"""Of a scope's state: monotonic time when the request arrived."""


@dataclass(slots=True)
class Stopwatch:
    """Of one request. The gate starts it; the route reads it, and tells it what the engine took."""

    is_alone: bool
    """No other request was in flight when it came: if it waited, then for nobody."""
    began_s: float
    """Monotonic time of its arrival."""
    body_s: float = 0.0
    """What the client took for its body."""
    decoded_ms: float | None = None
    """What of it was decoding, of a request of one sentence."""
    queued_ms: float = 0.0

    @property
    def elapsed_ms(self) -> float:
        """Since the request was here."""
        return (time.monotonic() - self.began_s - self.body_s) * 1e3

    @property
    def handling_ms(self) -> float | None:
        """What it took so far besides decoding and waiting for others; None where no single sentence was decoded."""
        if self.decoded_ms is None:
            return None
        waited_ms = 0.0 if self.is_alone else self.queued_ms
        return max(self.elapsed_ms - self.decoded_ms - waited_ms, 0.0)

    def timing_body(self, receive: Receive) -> Receive:
        """`receive`, with the time that the body takes noted."""

        async def timed() -> Message:
            asked_s = time.monotonic()
            message = await receive()
            if message["type"] == "http.request":
                self.body_s += time.monotonic() - asked_s
            return message

        return timed

    def translated(self, details: tuple[Translated | None, ...]) -> None:
        """Take note of what the engine says of the request's texts."""
        known = [each for each in details if each is not None]
        if len(known) == 1 and known[0].num_sentences == 1:
            self.queued_ms = known[0].queue_ms
            self.decoded_ms = known[0].elapsed_ms - known[0].queue_ms


def start(scope: Scope, *, is_alone: bool) -> Stopwatch:
    """Start the stopwatch of the request in `scope`."""
    state = scope.setdefault("state", {})
    stopwatch = Stopwatch(is_alone, state.get(ARRIVED_S, time.monotonic()))
    state["stopwatch"] = stopwatch
    return stopwatch


def of(request: Request) -> Stopwatch:
    """The request's, which the gate started."""
    stopwatch: Stopwatch = request.state.stopwatch
    return stopwatch
