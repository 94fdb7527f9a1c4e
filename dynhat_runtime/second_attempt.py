"""Decides whether a request with degenerate output is translated once more, and on which point. Translates nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import pairwise

from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.translation_request import TranslationRequest


def next_larger(table: OperatingPointTable, guarded_ids: Collection[str]) -> dict[str, str]:
    """Of every guarded point but the best, the guarded point next in the table's order of quality."""
    quality = table.quality_by_id()
    return dict(pairwise(sorted((p.id for p in table if p.id in guarded_ids), key=quality.__getitem__)))


# A request is translated a second time, on the next larger guarded point, when all hold:
#   1  its first attempt is done, on a guarded point, and a sentence of it is degenerate;
#   2  there is a larger guarded point;
#   3  the second attempt, taken to last as much longer as the table says, is done within `retry_within_ms`.
def second_point(
    request: TranslationRequest, now_s: float, table: OperatingPointTable, larger: Mapping[str, str]
) -> str | None:
    """The point for a second attempt, or None.

    Args:
        request: All its sentences are translated.
        now_s: On the clock of the request's times.
        table: Says how much slower the larger point is.
        larger: `next_larger` of that table.
    """
    attempt = request.attempt()
    larger_id = larger.get(attempt.point.id)
    if request.earlier is not None or attempt.first_fault is None or larger_id is None:
        return None
    if request.retry_within_ms is None:
        return larger_id
    longer = table.reference_latency_ms(table[larger_id]) / table.reference_latency_ms(
        table[attempt.point.id]
    )
    expected_s = now_s - request.submitted_s + (now_s - request.attempt_began_s) * longer
    return larger_id if expected_s * 1e3 <= request.retry_within_ms else None
