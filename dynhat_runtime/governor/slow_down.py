"""How much slower than the table everything is now: one factor, learned from finished translations.

A value: `updated` gives another one. Knows nothing of points, caps and budgets, and has no clock.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowDown:
    """Belief in the slow-down factor: its logarithm is normal."""

    log_mean: float
    log_variance: float

    @property
    def factor(self) -> float:
        """Median of the factor."""
        raise NotImplementedError

    @property
    def std(self) -> float:
        """Standard deviation of the factor's logarithm; about its relative error."""
        raise NotImplementedError

    def updated(self, ratio: float, monotonic_s: float) -> SlowDown:
        """The belief after one more translation took `ratio` times what the table says."""
        raise NotImplementedError
