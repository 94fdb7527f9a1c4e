"""The multi-objective search on made-up latencies and losses."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dynhat_runtime.design_space import DesignSpace
from dynhat_runtime.design_space_presets import preset
from dynhat_runtime.errors import SearchError
from dynhat_runtime.offline.candidates import Candidate, pareto_front
from dynhat_runtime.offline.evolution import random_search
from dynhat_runtime.offline.loss_surrogate import LossSurrogate
from dynhat_runtime.offline.pareto_search import (
    ParetoOptions,
    hypervolume,
    ladder_seeds,
    pareto_search,
    to_promote,
)
from tests.search_fakes import SMALL_SPACE, AdditivePredictor, MadeUpLosses, every_candidate, made_up_loss
from tests.toy_training import TOY_SPACE

TOY = DesignSpace.model_validate(TOY_SPACE)
LARGE = preset("quarter-wmt14-ende")
PREDICTOR = AdditivePredictor()
FEW = ParetoOptions(
    num_evaluations=60,
    initial_size=30,
    batch_size=15,
    num_surrogate_generations=4,
    surrogate_population=20,
    num_promoted=12,
)


def _objectives(candidates: list[Candidate]) -> list[tuple[float, float]]:
    return [(one.predicted_ms, one.loss) for one in candidates]


def test_front_is_that_of_the_whole_space() -> None:
    """On a space small enough to enumerate, the promoted candidates hold the brute-force front."""
    options = ParetoOptions(
        num_evaluations=75, initial_size=15, batch_size=10, num_surrogate_generations=5,
        surrogate_population=20, num_promoted=40,
    )  # fmt: skip
    found = pareto_search(SMALL_SPACE, MadeUpLosses(), PREDICTOR, options, seed=1)
    assert len(found.evaluated) == 75 < SMALL_SPACE.num_configurations()
    brute = pareto_front(every_candidate(SMALL_SPACE))
    assert _objectives(pareto_front(found.promoted)) == _objectives(brute)


def test_exhausted_space_ends_the_search() -> None:
    """More evaluations than architectures: each is evaluated once, and the search ends."""
    options = ParetoOptions(
        num_evaluations=500, initial_size=15, num_surrogate_generations=3, surrogate_population=20
    )
    losses = MadeUpLosses()
    found = pareto_search(SMALL_SPACE, losses, PREDICTOR, options, seed=1)
    assert len(found.evaluated) == SMALL_SPACE.num_configurations()
    assert len(set(losses.asked)) == len(losses.asked)


def test_climbs_the_ladder() -> None:
    """The subset measures as many as allowed, none twice; the whole dev set only the promoted, the front among them."""
    losses = MadeUpLosses()
    found = pareto_search(LARGE, losses, PREDICTOR, FEW, seed=1)
    subset = [config for config, rung in losses.asked if rung == "subset"]
    assert len(subset) == len(set(subset)) == 60
    assert [one.config for one in found.evaluated] == subset
    assert [config for config, rung in losses.asked if rung == "all"] == [
        one.config for one in found.promoted
    ]
    assert len(found.promoted) == 12
    assert losses.asked[-12:] == [(one.config, "all") for one in found.promoted]


def test_beats_random_search() -> None:
    """At the same number of evaluations and without ladder seeds the front dominates more."""
    options = ParetoOptions(
        num_evaluations=150, initial_size=50, num_surrogate_generations=6, surrogate_population=40,
        has_ladder_seeds=False,
    )  # fmt: skip
    ours = pareto_search(LARGE, MadeUpLosses(), PREDICTOR, options, seed=2).evaluated
    by_chance = random_search(LARGE, MadeUpLosses(), PREDICTOR, 150, seed=2)
    reference = max(one.predicted_ms for one in by_chance + ours), max(one.loss for one in by_chance + ours)
    assert hypervolume(ours, *reference) > 1.02 * hypervolume(by_chance, *reference)


def test_seed_decides_everything() -> None:
    """The same seed gives the same candidates in the same order; another seed others."""
    found = [pareto_search(LARGE, MadeUpLosses(), PREDICTOR, FEW, seed) for seed in (1, 1, 2)]
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_constraint_caps_everything() -> None:
    """With a cap nothing slower is evaluated; one that nothing meets is refused."""
    found = pareto_search(LARGE, MadeUpLosses(), PREDICTOR, FEW, seed=1, constraint_ms=200.0)
    assert len(found.evaluated) == 60
    assert all(one.predicted_ms <= 200.0 for one in found.evaluated)
    with pytest.raises(SearchError, match="cannot be met"):
        pareto_search(LARGE, MadeUpLosses(), PREDICTOR, FEW, seed=1, constraint_ms=1.0)


def test_ladder_seeds_come_first() -> None:
    """Smallest and largest of every depth with the least span, unless turned off."""
    seeds = ladder_seeds(LARGE)
    assert [one.num_decoder_layers for one in seeds] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]
    assert {span for one in seeds for span in one.cross_attention_spans} == {1}
    assert LARGE.smallest() == seeds[0]
    found = pareto_search(LARGE, MadeUpLosses(), PREDICTOR, FEW, seed=1)
    assert [one.config for one in found.evaluated[:12]] == seeds
    without = ParetoOptions(num_evaluations=15, initial_size=15, has_ladder_seeds=False)
    unseeded = pareto_search(LARGE, MadeUpLosses(), PREDICTOR, without, seed=1).evaluated
    assert not {one.config for one in unseeded} & set(seeds)


def test_surrogate_learns_additive_losses() -> None:
    """Fitted to 300 architectures it ranks unseen ones almost as their losses do."""
    rng = random.Random(1)
    configs = [LARGE.sample(rng) for _ in range(400)]
    losses = np.array([made_up_loss(config) for config in configs])
    guesses = LossSurrogate(LARGE, configs[:300], losses[:300]).losses(configs[300:])
    assert np.corrcoef(guesses, losses[300:])[0, 1] > 0.99


def test_surrogate_of_one_architecture() -> None:
    """One measured loss is guessed for everything."""
    surrogate = LossSurrogate(LARGE, [LARGE.largest()], np.array([2.5]))
    assert surrogate.losses([LARGE.smallest()]).tolist() == pytest.approx([2.5])


def test_promotion_fills_up_with_the_nearest() -> None:
    """A front shorter than the count is followed by those whose loss exceeds it least; a longer one is thinned."""
    every = every_candidate(SMALL_SPACE)
    front = pareto_front(every)
    promoted = to_promote(every, len(front) + 5)
    assert promoted[: len(front)] == front
    assert len({one.config for one in promoted}) == len(front) + 5
    assert len(to_promote(every, 4)) == 4


def test_hypervolume_is_the_dominated_area() -> None:
    """Two steps below the reference point; what lies beyond it counts nothing."""
    config = LARGE.largest()
    steps = [Candidate(config, 1.0, 3.0), Candidate(config, 3.0, 1.0), Candidate(config, 9.0, 0.5)]
    assert hypervolume(steps, 5.0, 4.0) == pytest.approx(4.0 * 1.0 + 2.0 * 2.0)
    assert hypervolume([], 5.0, 4.0) == 0.0
