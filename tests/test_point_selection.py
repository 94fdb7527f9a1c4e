"""Choosing operating points among candidates: spread, front, thinning, names."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.errors import UnknownOperatingPointError
from dynhat_runtime.offline.point_selection import (
    Contender,
    architecture_name,
    non_dominated,
    point_called,
    spread,
    thin,
    with_ids,
)
from tests.hand_made import table, three_points
from tests.tiny_bundle import SPACE

CONFIG = SPACE.smallest()


def predicted(*latencies_ms: float) -> list[Contender]:
    """Candidates that a search predicted at these latencies."""
    return [Contender(CONFIG, predicted_ms=ms) for ms in latencies_ms]


# --- spread ---


def test_few_candidates_all_stay() -> None:
    """There is nothing to choose."""
    candidates = predicted(1, 2, 3)
    assert spread(candidates, 3) == candidates


def test_spread_keeps_both_ends_and_drops_the_crowded() -> None:
    """What lies close to its neighbours goes first, by ratio and not by milliseconds."""
    chosen = spread(predicted(10, 10.1, 10.2, 20, 40, 41, 80), 4)
    assert [candidate.predicted_ms for candidate in chosen] == [10, 20, 40, 80]


def test_what_was_chosen_by_hand_is_always_a_candidate() -> None:
    """It has no prediction to be spread by."""
    by_hand = Contender(CONFIG, id="mine")
    chosen = spread([*predicted(1, 2, 3, 4), by_hand], 3)
    assert by_hand in chosen
    assert [candidate.predicted_ms for candidate in chosen] == [None, 1, 4]


@pytest.mark.parametrize(("limit", "expected"), [(0, []), (1, [5]), (2, [5, 9])])
def test_hardly_any_room(limit: int, expected: list[float]) -> None:
    """One place is the fastest's."""
    assert [c.predicted_ms for c in spread(predicted(9, 7, 5), limit)] == expected


# --- front ---


def test_front_is_what_brute_force_finds() -> None:
    """No kept item is beaten by another, every dropped one is."""
    rng = random.Random(1)
    items = [(float(rng.randrange(12)), float(rng.randrange(12))) for _ in range(60)]
    front = non_dominated(items, lambda item: item)

    def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
        return a != b and a[0] <= b[0] and a[1] <= b[1]

    assert front == sorted({item for item in items if not any(beats(other, item) for other in items)})


def test_of_equals_one_stays() -> None:
    """The first."""
    items = [("first", 1.0, 1.0), ("second", 1.0, 1.0)]
    assert non_dominated(items, lambda item: (item[1], item[2])) == [items[0]]


def test_thinning_drops_what_adds_least() -> None:
    """Of two close together the one that says little more goes, also where the other lies less evenly."""
    front = [(10.0, 4.0), (20.0, 3.9), (22.0, 3.0), (40.0, 2.5), (80.0, 2.4)]
    assert thin(front, 4, lambda item: item) == [front[0], *front[2:]]
    assert thin(front, 3, lambda item: item) == [front[0], *front[3:]]
    assert thin(front, 5, lambda item: item) == front


def test_thinning_to_hardly_anything() -> None:
    """Both ends stay, then the best alone."""
    front = [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]
    assert thin(front, 2, lambda item: item) == [front[0], front[2]]
    assert thin(front, 1, lambda item: item) == [front[2]]


# --- names ---


def named(*names: str | None, depth: int = 3) -> list[Contender]:
    """Distinct architectures of one depth, each with the name it was given."""
    rng = random.Random(depth)
    configs: dict[SubTransformerConfig, None] = {}
    while len(configs) < len(names):
        config = SPACE.sample(rng)
        if config.num_decoder_layers == depth:
            configs[config] = None
    return [Contender(config, id=name) for config, name in zip(configs, names, strict=True)]


def test_names_say_the_depth() -> None:
    """A letter only where several have it, fastest first; given names stay and are not taken twice."""
    one = named(None, depth=1)
    assert with_ids([*one, *named(None, None)]) == ["l1", "l3-a", "l3-b"]
    assert with_ids([*named("mine", depth=1), *named(None)]) == ["mine", "l3"]
    assert with_ids([*named("l3", depth=1), *named(None)]) == ["l3", "l3-a"]
    assert with_ids([*named("l3-a", depth=1), *named(None, None)]) == ["l3-a", "l3-b", "l3-c"]
    many = with_ids(named(*[None] * 30))
    assert len(set(many)) == 30
    assert many[25:28] == ["l3-z", "l3-aa", "l3-ab"]


def test_names_say_the_precision() -> None:
    """One architecture has one name at every precision, and what is not fp32 follows it."""
    narrow, wide = named(None, None)
    hand = named("mine", depth=1)
    int8 = [replace(contender, precision="int8") for contender in (*hand, narrow, wide)]
    ids = with_ids([*int8, *hand, narrow])
    assert ids == ["mine-int8", "l3-a-int8", "l3-b-int8", "mine", "l3-a"]
    assert [architecture_name(point_id) for point_id in ids] == ["mine", "l3-a", "l3-b", "mine", "l3-a"]
    two_threads = [replace(wide, num_threads=2), replace(int8[2], num_threads=2)]
    assert with_ids([narrow, *two_threads]) == ["l3-a", "l3-b-t2", "l3-b-int8-t2"]
    assert [architecture_name(name) for name in ("l3-b-t2", "l3-b-int8-t2", "-int8")] == [
        "l3-b",
        "l3-b",
        "-int8",
    ]


def test_names_say_the_shortlist() -> None:
    """It stands between precision and threads, and the architecture's name is the one without it."""
    fast = Contender(CONFIG, id="mine", precision="int8", num_threads=2, has_shortlist=True)
    ids = with_ids([fast, replace(fast, precision="fp32", num_threads=1), replace(fast, has_shortlist=False)])
    assert ids == ["mine-int8-short-t2", "mine-short", "mine-int8-t2"]
    assert {architecture_name(point_id) for point_id in ids} == {"mine"}


def test_a_point_by_the_name_of_its_architecture() -> None:
    """An id goes first; without one of that name, the fastest point of that architecture is meant."""
    made = table(three_points())
    ids = ("l1-int8", "l1-int8-t2", "l2")
    named_so = tuple(p.model_copy(update={"id": i}) for p, i in zip(made.points, ids, strict=True))
    subject = made.model_copy(update={"points": named_so})
    assert [point_called(subject, name).id for name in ("l1", "l1-int8-t2", "l2")] == [
        "l1-int8",
        "l1-int8-t2",
        "l2",
    ]
    with pytest.raises(UnknownOperatingPointError, match="'l3' is unknown: choose one of l1-int8"):
        point_called(subject, "l3")
