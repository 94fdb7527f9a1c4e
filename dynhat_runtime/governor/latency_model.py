"""How long a sentence takes on an operating point: read between the measured rows of the table.

Knows lengths and CPUs only; what a lowered clock does is the forecast's affair. Learns nothing: the same
question always gets the same answer.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

from dynhat_runtime.operating_point import LatencyMeasurement, OperatingPoint, OperatingPointTable

MAX_KEPT_PLANS = 64
"""Numbers of CPUs whose plan is worked out once: it is asked for with every observation."""


class _Curve(NamedTuple):
    """Milliseconds over a length in tokens: measured knots, lengths rising."""

    lengths: tuple[int, ...]
    times_ms: tuple[float, ...]


class _RowsOfCpus(NamedTuple):
    """What was measured of a point on one number of CPUs."""

    num_cpus: int
    encoder: _Curve
    """Over the source length."""
    rest: _Curve
    """Over the target length: the decoder, and what the whole sentence takes beyond encoder and decoder."""


class LatencyModel:
    """Latency of every point of a table, alone on any number of CPUs, at any length; and what neighbours cost."""

    def __init__(self, table: OperatingPointTable, num_busy_neighbours: int = 0) -> None:
        """Prepare the curves of `table`.

        Args:
            table: The points and what was measured of them.
            num_busy_neighbours: Busy processes to plan for; the nearest number measured is taken.
        """
        self.table = table
        self._rows = {point.id: _rows_by_cpus(point, 0) for point in table}
        self._planned_slow_downs: dict[float | None, float] = {}
        self._planned_rows = {point.id: _rows_by_cpus(point, num_busy_neighbours) for point in table}

    def predict_ms(
        self, point: OperatingPoint, *, num_src_tokens: int, num_tgt_tokens: int, num_cpus: float | None
    ) -> float:
        """Latency of one sentence at the clock of the measurement, without neighbours (or with the fewest measured).

        In the lengths: piecewise linear through the measured rows, continued past the ends, never below the
        smallest measured. In the CPUs: linear in 1/CPUs between measured numbers; a share of the smallest
        number takes proportionally longer; more than the largest does not help.

        Args:
            point: A point of the model's table.
            num_src_tokens: Source length.
            num_tgt_tokens: Target length, that is decoder steps.
            num_cpus: CPUs' worth of time, fractions allowed; None means the largest measured number.

        Raises:
            UnknownOperatingPointError: The table has no such point.
        """
        assert num_cpus is None or num_cpus > 0
        rows = self._rows[self.table[point.id].id]
        return _at_cpus_ms(rows, num_src_tokens, num_tgt_tokens, num_cpus)

    def planned_slow_down(self, num_cpus: float | None) -> float:
        """How much longer sentences take beside the neighbours planned for: the points' geometric mean, 1 or more.

        Args:
            num_cpus: As for `predict_ms`.
        """
        if num_cpus in self._planned_slow_downs:
            return self._planned_slow_downs[num_cpus]
        length = self.table.reference_num_tokens
        logarithms = [
            math.log(
                _at_cpus_ms(self._planned_rows[point_id], length, length, num_cpus)
                / _at_cpus_ms(rows, length, length, num_cpus)
            )
            for point_id, rows in self._rows.items()
        ]
        if len(self._planned_slow_downs) == MAX_KEPT_PLANS:
            self._planned_slow_downs.clear()
        return self._planned_slow_downs.setdefault(num_cpus, max(math.exp(fmean(logarithms)), 1.0))


def _at_cpus_ms(
    rows: tuple[_RowsOfCpus, ...], num_src_tokens: int, num_tgt_tokens: int, num_cpus: float | None
) -> float:
    """One sentence on this many CPUs."""
    if num_cpus is None or num_cpus >= rows[-1].num_cpus:
        return _at_lengths_ms(rows[-1], num_src_tokens, num_tgt_tokens)
    if num_cpus <= rows[0].num_cpus:
        return _at_lengths_ms(rows[0], num_src_tokens, num_tgt_tokens) * rows[0].num_cpus / num_cpus
    upper = bisect_left(rows, num_cpus, key=lambda row: row.num_cpus)
    fewer, more = rows[upper - 1], rows[upper]
    share_of_more = (1 / fewer.num_cpus - 1 / num_cpus) / (1 / fewer.num_cpus - 1 / more.num_cpus)
    fewer_ms = _at_lengths_ms(fewer, num_src_tokens, num_tgt_tokens)
    more_ms = _at_lengths_ms(more, num_src_tokens, num_tgt_tokens)
    return fewer_ms + share_of_more * (more_ms - fewer_ms)


def _rows_by_cpus(point: OperatingPoint, num_busy_neighbours: int) -> tuple[_RowsOfCpus, ...]:
    """The point's measurements beside the wanted number of neighbours as curves, fewest CPUs first."""
    measured = {row.num_busy_neighbours for row in point.latencies}
    nearest = min(measured, key=lambda number: (abs(number - num_busy_neighbours), number))
    by_cpus: defaultdict[int, list[LatencyMeasurement]] = defaultdict(list)
    for row in (row for row in point.latencies if row.num_busy_neighbours == nearest):
        by_cpus[row.num_cpus].append(row)
    return tuple(
        _RowsOfCpus(
            num_cpus,
            encoder=_curve((row.num_src_tokens, row.encoder_ms) for row in rows),
            # Measured totals minus the encoder, so that a measured row is predicted as its total.
            rest=_curve((row.num_tgt_tokens, row.total_ms - row.encoder_ms) for row in rows),
        )
        for num_cpus, rows in sorted(by_cpus.items())
    )


def _curve(measured: Iterable[tuple[int, float]]) -> _Curve:
    """Knots in rising order; rows of one length count with their mean."""
    by_length: defaultdict[int, list[float]] = defaultdict(list)
    for length, time_ms in measured:
        by_length[length].append(time_ms)
    lengths = tuple(sorted(by_length))
    return _Curve(lengths, tuple(fmean(by_length[length]) for length in lengths))


def _at_lengths_ms(rows: _RowsOfCpus, num_src_tokens: int, num_tgt_tokens: int) -> float:
    return _on_curve_ms(rows.encoder, num_src_tokens) + _on_curve_ms(rows.rest, num_tgt_tokens)


def _on_curve_ms(curve: _Curve, length: int) -> float:
    """The curve at `length`; past the ends the outermost line goes on, down to the smallest measured."""
    lengths, times_ms = curve
    if len(lengths) == 1:
        # One knot gives no slope. The line through the origin is the cautious one for longer sentences.
        return times_ms[0] * max(length / lengths[0], 1.0)
    right = _segment_end(lengths, length)
    left = right - 1
    slope = (times_ms[right] - times_ms[left]) / (lengths[right] - lengths[left])
    return max(times_ms[left] + slope * (length - lengths[left]), min(times_ms))


def _segment_end(lengths: Sequence[int], length: int) -> int:
    """Index of the right end of the segment whose line serves `length`."""
    return min(max(bisect_left(lengths, length), 1), len(lengths) - 1)
