"""Whether decoding gets on: what the engine notes of its own progress, and when that has to be called stuck.

Ends nothing that is stuck: it says so, and whoever watches acts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodingProgress:
    """What the engine is at.

    Attributes:
        is_busy: A sentence waits or is being decoded.
        advanced_s: Monotonic time when a decoding step or batch last ended, or work met an idle engine.
        point_id: Operating point of the batch being decoded; None between two of them.
        num_src_tokens: Lengths of what it decodes.
    """

    is_busy: bool
    advanced_s: float
    point_id: str | None = None
    num_src_tokens: tuple[int, ...] = ()


class WorkInHand:
    """The worker's notes. Written by the thread that works and by those that bring it work; read by any, unlocked."""

    def __init__(self) -> None:
        self.batch: tuple[str, tuple[int, ...]] | None = None
        """Operating point and source lengths, in tokens, of what is being decoded."""
        self.advanced_s = time.monotonic()

    def advance(self) -> None:
        """Something ended or began."""
        self.advanced_s = time.monotonic()

    @contextmanager
    def on(self, point_id: str, num_src_tokens: tuple[int, ...]) -> Iterator[None]:
        """Note that this batch is being decoded, until it ends one way or another."""
        self.advance()
        self.batch = (point_id, num_src_tokens)
        try:
            yield
        finally:
            self.batch = None
            self.advance()

    def advancing(self, is_cancelled: Callable[[], bool]) -> Callable[[], bool]:
        """`is_cancelled`, asked between two decoding steps, as a note that one has ended."""

        def ask() -> bool:
            self.advance()
            return is_cancelled()

        return ask

    def progress(self, *, is_busy: bool) -> DecodingProgress:
        """These notes as a value; `is_busy` says whether something waits, should nothing be in hand."""
        advanced_s, batch = self.advanced_s, self.batch
        if batch is None:
            return DecodingProgress(is_busy=is_busy, advanced_s=advanced_s)
        point_id, lengths = batch
        return DecodingProgress(
            is_busy=True, advanced_s=advanced_s, point_id=point_id, num_src_tokens=lengths
        )


# Rules:
#   1  Without work nothing can be stuck.
#   2  With work, something has to end within `factor` times what the whole batch is predicted to take: a decoder
#      that reports every step and one that reports only batches are judged alike.
#   3  Nothing is called stuck sooner than after `shortest_s`: the first call on a GPU, a page fault, a machine that
#      is suddenly busy.
def stuck_for_s(
    progress: DecodingProgress, predicted_ms: float, now_s: float, *, factor: float, shortest_s: float
) -> float | None:
    """How long nothing has ended, in s, if that is too long; None as long as decoding gets on.

    Args:
        progress: What the engine is at.
        predicted_ms: For the batch being decoded; 0 where there is none.
        now_s: The present monotonic time.
        factor: How many times the prediction it may take.
        shortest_s: What it may take at least.
    """
    if not progress.is_busy:
        return None
    silence_s = now_s - progress.advanced_s
    return silence_s if silence_s > max(factor * predicted_ms / 1e3, shortest_s) else None
