"""Measured figures as values: summaries of samples, aims, checks, and one benchmark's result.

Measures nothing and formats nothing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FEWEST_FOR_P99 = 100
"""With fewer samples the 99th percentile is just the largest."""


class BenchmarkError(Exception):
    """A benchmark that could not come to its figures."""


@dataclass(frozen=True, slots=True)
class Summary:
    """Samples in a few numbers; `p99` is None where there are too few of them."""

    num_samples: int
    median: float
    p99: float | None
    minimum: float
    maximum: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Summary:
        """Summarise at least one sample."""
        assert samples, "nothing was measured"
        p99 = percentile(samples, 99) if len(samples) >= FEWEST_FOR_P99 else None
        return cls(len(samples), statistics.median(samples), p99, min(samples), max(samples))

    @classmethod
    def ratio(cls, above: Sequence[float], below: Sequence[float]) -> Summary:
        """Ratio of the medians; its spread is the widest that the samples allow."""
        return cls(
            num_samples=min(len(above), len(below)),
            median=statistics.median(above) / statistics.median(below),
            p99=None,
            minimum=min(above) / max(below),
            maximum=max(above) / min(below),
        )


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of them do not exceed (nearest rank)."""
    return sorted(samples)[max(1, math.ceil(len(samples) * percent / 100)) - 1]


@dataclass(frozen=True, slots=True)
class Aim:
    """What a figure should not exceed, in the figure's unit."""

    statistic: Literal["median", "p99"]
    at_most: float

    def value_in(self, summary: Summary) -> float | None:
        """The statistic it speaks of."""
        return summary.median if self.statistic == "median" else summary.p99

    def is_met(self, summary: Summary) -> bool | None:
        """Whether it was; None where too few samples were taken to tell."""
        value = self.value_in(summary)
        return None if value is None else value <= self.at_most


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of a report. A ratio has the unit "x"."""

    name: str
    unit: str
    summary: Summary
    aims: tuple[Aim, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """Something that has to hold for the figures to mean anything."""

    claim: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Result:
    """What one benchmark found.

    Attributes:
        how: How it was measured, for a reader who doubts it.
        notes: What to know beside the figures, such as the paper's own.
    """

    name: str
    title: str
    how: str
    figures: tuple[Figure, ...]
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """What a benchmark gets: the bundle, how thorough to be, and whom to tell how far it is."""

    bundle: Path
    is_quick: bool
    tell: Callable[[str], None]
