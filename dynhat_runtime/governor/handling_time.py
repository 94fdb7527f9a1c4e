"""What requests take besides being decoded, on every operating point alike. A value that learns."""

from __future__ import annotations

from dataclasses import dataclass

WEIGHT = 0.1
"""Of the newest request, once there are many."""
SURPRISE_FACTOR, SURPRISE_MS = 2.0, 2.0
"""A request that took more than so many times what is believed, and so much on top, counts as that: one that met with
a collection of garbage says little of the next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlingTime:
    """A mean that follows what is seen. It is the same work for every point, so it is added, not multiplied: of the
    fastest points it is a third, of the slowest hardly anything."""

    mean_ms: float = 0.0
    num_observed: int = 0

    def updated(self, elapsed_ms: float) -> HandlingTime:
        """The belief after one more request."""
        seen_ms = min(elapsed_ms, SURPRISE_FACTOR * self.mean_ms + SURPRISE_MS)
        weight = max(WEIGHT, 1 / (self.num_observed + 1))
        return HandlingTime(
            mean_ms=self.mean_ms + weight * (seen_ms - self.mean_ms), num_observed=self.num_observed + 1
        )
