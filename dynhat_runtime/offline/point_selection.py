"""Which of many measured candidates become operating points: the Pareto front, thinned, and named. Pure.

A candidate is worth keeping if nothing faster says it as well. Of a front with more points than a table should have,
those go that add least to it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.operating_point import PRECISIONS, OperatingPoint, OperatingPointTable, Precision

T = TypeVar("T")

SHORTLIST_SUFFIX = "-short"
"""What the id of a point ends in that has a vocabulary shortlist, before its threads."""


@dataclass(frozen=True, slots=True)
class Contender:
    """An architecture, and how it computes, that may become an operating point.

    Attributes:
        id: The name its architecture was given; None lets `with_ids` find one.
        predicted_ms: What a search's predictor said; None for one chosen by hand.
        dev_loss: Label-smoothed cross-entropy per target token, natural logarithm.
        latency_ms: At the reference length, measured on this device.
    """

    config: SubTransformerConfig
    id: str | None = None
    precision: Precision = "fp32"
    num_threads: int = 1
    has_shortlist: bool = False
    predicted_ms: float | None = None
    dev_loss: float | None = None
    latency_ms: float | None = None


def spread(candidates: Sequence[Contender], limit: int) -> list[Contender]:
    """At most `limit` candidates: all chosen by hand, then the predicted ones, evenly spread over log latency.

    The fastest and the slowest predicted one are always among them, as far as the limit has room.
    """
    by_hand = [candidate for candidate in candidates if candidate.predicted_ms is None]
    predicted = [candidate for candidate in candidates if candidate.predicted_ms is not None]
    room = limit - len(by_hand)
    if len(predicted) <= room:
        return [*by_hand, *predicted]
    return [*by_hand, *_evenly(predicted, room, lambda candidate: math.log(candidate.predicted_ms or 1.0))]


def non_dominated(items: Sequence[T], cost: Callable[[T], tuple[float, float]]) -> list[T]:
    """Items that no other beats: ascending in the first cost, strictly descending in the second.

    Of items that cost the same, the first stays.
    """
    front: list[T] = []
    for item in sorted(items, key=cost):
        if not front or cost(item)[1] < cost(front[-1])[1]:
            front.append(item)
    return front


def thin(front: Sequence[T], limit: int, cost: Callable[[T], tuple[float, float]]) -> list[T]:
    """At most `limit` items of a front: again and again the one whose loss leaves the least area behind goes.

    The ends stay; of a front that may keep one item only, that is the last, the best in the second cost.

    Args:
        front: As `non_dominated` gives it.
        limit: At least 1.
        cost: Both costs; taking the logarithm of one weighs it by ratio.
    """
    kept = list(front)
    while len(kept) > max(limit, 2):
        costs = [cost(item) for item in kept]
        areas = [
            (costs[i - 1][1] - costs[i][1]) * (costs[i + 1][0] - costs[i][0]) for i in range(1, len(kept) - 1)
        ]
        del kept[1 + areas.index(min(areas))]
    return kept if limit >= 2 else kept[-1:]


def _evenly(items: Sequence[T], limit: int, place: Callable[[T], float]) -> list[T]:
    """`limit` items, by dropping again and again the inner one whose neighbours lie closest together."""
    kept = sorted(items, key=place)
    if limit <= 0:
        return []
    if limit == 1:
        return kept[:1]
    while len(kept) > limit:
        gaps = [place(kept[i + 1]) - place(kept[i - 1]) for i in range(1, len(kept) - 1)]
        del kept[1 + gaps.index(min(gaps))]
    return kept


def with_ids(contenders: Sequence[Contender]) -> list[str]:
    """An id for every contender, given fastest first.

    Rules: (1) an id that was given stays. (2) Another is `l` and the number of decoder layers, such as `l3`;
    (3) where several have that many, a letter follows, fastest first: `l3-a`, `l3-b`. (4) One architecture has one
    name; a precision other than fp32, a vocabulary shortlist and threads beyond one follow it: `l3-a-int8-short-t2`.
    """
    named = {contender.config: contender.id for contender in contenders}
    names = dict(zip(named, _names([(name, config) for config, name in named.items()]), strict=True))
    return [names[contender.config] + _suffix(contender) for contender in contenders]


def architecture_name(point_id: str) -> str:
    """The id of an operating point without how it computes."""
    return re.sub(rf"(?<=.)(-({'|'.join(PRECISIONS)}))?({SHORTLIST_SUFFIX})?(-t\d+)?$", "", point_id)


def point_called(table: OperatingPointTable, name: str) -> OperatingPoint:
    """The point of that id, or else the first whose architecture has that name.

    Raises:
        UnknownOperatingPointError: Neither; the message lists the ids there are.
    """
    if all(point.id != name for point in table):
        for point in table:
            if architecture_name(point.id) == name:
                return point
    return table[name]


def _suffix(contender: Contender) -> str:
    precision = "" if contender.precision == "fp32" else f"-{contender.precision}"
    shortlist = SHORTLIST_SUFFIX if contender.has_shortlist else ""
    threads = "" if contender.num_threads == 1 else f"-t{contender.num_threads}"
    return precision + shortlist + threads


def _names(configs: Sequence[tuple[str | None, SubTransformerConfig]]) -> list[str]:
    """A name for every architecture, given fastest first."""
    given = {name for name, _ in configs if name is not None}
    depths = [config.num_decoder_layers for name, config in configs if name is None]
    ids: list[str] = []
    letters: dict[int, int] = {}
    for name, config in configs:
        depth = config.num_decoder_layers
        if name is None and depths.count(depth) == 1 and f"l{depth}" not in given:
            name = f"l{depth}"
        while name is None:
            letter = letters.get(depth, 0)
            letters[depth] = letter + 1
            proposed = f"l{depth}-{_letters(letter)}"
            name = None if proposed in given else proposed
        ids.append(name)
    return ids


def _letters(number: int) -> str:
    """0 -> a, 25 -> z, 26 -> aa."""
    first, last = divmod(number, 26)
    return (_letters(first - 1) if first else "") + chr(ord("a") + last)
