"""How much may wait for the engine and how much does, as values. Holds no request and refuses none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Priority = Literal["interactive", "batch"]
"""Whether somebody waits for the answer."""
PRIORITIES: tuple[Priority, ...] = ("interactive", "batch")

SHORTEST_RETRY_S = 1
LONGEST_RETRY_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """What may wait at most; one request larger than that is taken when nothing else waits."""

    requests: int = 256
    sentences: int = 512
    tokens: int = 16384
    """Source tokens, an eos per sentence included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLoad:
    """What waits at one moment."""

    requests: int = 0
    """Not answered yet, whether or not some of their sentences are being translated."""
    sentences: int = 0
    """Not yet in a batch."""
    of_batch_requests: int = 0
    """Those of the sentences that belong to requests of the class batch."""
    tokens: int = 0
    """Source tokens of the sentences."""
    limits: QueueLimits = QueueLimits()
    expected_wait_s: float | None = None
    """How long they will take at the pace of the last batches; None before the first."""

    @property
    def retry_after_s(self) -> int:
        """When a client that was refused should come again, in whole seconds as Retry-After has it."""
        expected_s = math.ceil(self.expected_wait_s or 0.0)
        return min(max(expected_s, SHORTEST_RETRY_S), LONGEST_RETRY_S)

    def as_dict(self) -> dict[str, int | float | None]:
        """What a refused client is told."""
        return {
            "requests": self.requests,
            "sentences": self.sentences,
            "tokens": self.tokens,
            "limit_requests": self.limits.requests,
            "limit_sentences": self.limits.sentences,
            "limit_tokens": self.limits.tokens,
            "expected_wait_s": None if self.expected_wait_s is None else round(self.expected_wait_s, 3),
        }
