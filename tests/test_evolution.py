"""HAT's evolutionary search and random search on made-up latencies and losses."""

from __future__ import annotations

import math

import pytest

from dynhat_runtime.design_space import DesignSpace
from dynhat_runtime.design_space_presets import preset
from dynhat_runtime.errors import SearchError
from dynhat_runtime.offline.candidates import (
    Candidate,
    check_constraint,
    draw_under,
    fastest,
    pareto_front,
    predicted_ms,
    thinned,
)
from dynhat_runtime.offline.evolution import EvolutionOptions, hat_search, random_search
from tests.search_fakes import (
    SMALL_SPACE,
    AdditivePredictor,
    MadeUpLosses,
    every_candidate,
    made_up_loss,
)
from tests.toy_training import TOY_SPACE

TOY = DesignSpace.model_validate(TOY_SPACE)
PREDICTOR = AdditivePredictor()
FEW = EvolutionOptions(population_size=20, parent_size=5, mutation_size=8, crossover_size=8, num_iterations=6)


def test_defaults_are_hats() -> None:
    """Population 125, parents 25, mutation 50 at 0.3, crossover 50, 30 iterations: 3,025 evaluations."""
    options = EvolutionOptions()
    assert (options.population_size, options.parent_size) == (125, 25)
    assert (options.mutation_size, options.crossover_size, options.mutation_probability) == (50, 50, 0.3)
    assert options.num_iterations == 30
    assert options.num_evaluations == 3025


def test_hats_search_evaluates_what_its_sizes_say() -> None:
    """With HAT's sizes 125 architectures are evaluated first and 100 in each further iteration, all within the cap."""
    losses = MadeUpLosses()
    space = preset("quarter-wmt14-ende")
    most_ms = predicted_ms(PREDICTOR, [space.largest()])[0]
    options = EvolutionOptions(num_iterations=3)
    evaluated = hat_search(space, losses, PREDICTOR, 0.7 * most_ms, options, seed=1)
    assert len(evaluated) == len(losses.asked) == 325
    assert all(one.predicted_ms <= 0.7 * most_ms for one in evaluated)
    assert {rung for _, rung in losses.asked} == {"subset"}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_hats_search_finds_the_best(seed: int) -> None:
    """The least loss within the constraint, known by enumeration, is found."""
    constraint_ms = 9.0
    evaluated = hat_search(SMALL_SPACE, MadeUpLosses(), PREDICTOR, constraint_ms, FEW, seed)
    within = [one for one in every_candidate(SMALL_SPACE) if one.predicted_ms <= constraint_ms]
    assert min(one.loss for one in evaluated) == min(one.loss for one in within)


def test_parents_pass_on_what_is_good() -> None:
    """Later populations are better than the first."""
    evaluated = hat_search(preset("quarter-wmt14-ende"), MadeUpLosses(), PREDICTOR, 400.0, FEW, seed=4)
    first, last = evaluated[:20], evaluated[-16:]
    assert sum(one.loss for one in last) / 16 < sum(one.loss for one in first) / 20 - 0.05


def test_seed_decides_everything() -> None:
    """The same seed gives the same candidates in the same order; another seed gives others."""

    def found(seed: int) -> list[Candidate]:
        return hat_search(TOY, MadeUpLosses(), PREDICTOR, 9.0, FEW, seed)

    assert found(1) == found(1)
    assert found(1) != found(2)
    drawn = [random_search(TOY, MadeUpLosses(), PREDICTOR, 30, seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_random_search_draws_distinct_architectures() -> None:
    """Nothing is evaluated twice, the cap is kept, and an exhausted space ends the search."""
    evaluated = random_search(SMALL_SPACE, MadeUpLosses(), PREDICTOR, 1000, seed=1)
    assert {one.config for one in evaluated} == {one.config for one in every_candidate(SMALL_SPACE)}
    assert len(evaluated) == SMALL_SPACE.num_configurations()
    capped = random_search(TOY, MadeUpLosses(), PREDICTOR, 40, seed=1, constraint_ms=8.0)
    assert len({one.config for one in capped}) == 40
    assert all(one.predicted_ms <= 8.0 for one in capped)


# --- constraints ---


def test_constraint_below_the_fastest_is_refused() -> None:
    """The message names constraint, space and fastest prediction, and the value it suggests is accepted."""
    with pytest.raises(SearchError) as caught:
        hat_search(TOY, MadeUpLosses(), PREDICTOR, 1.0, FEW, seed=1)
    message = str(caught.value)
    assert message.startswith(
        "latency constraint 1 ms cannot be met: the fastest SubTransformer of toy is predicted"
    )
    check_constraint(float(message.rsplit(" ", 1)[1]), TOY, PREDICTOR)
    _, least_ms = fastest(TOY, PREDICTOR)
    check_constraint(least_ms, TOY, PREDICTOR)


@pytest.mark.parametrize("constraint_ms", [0.0, -5.0, math.nan, math.inf])
def test_constraint_that_is_no_latency(constraint_ms: float) -> None:
    """Zero, negative and non-finite constraints are refused with the value."""
    with pytest.raises(SearchError, match=f"latency constraint {constraint_ms:g} ms: give a positive number"):
        random_search(TOY, MadeUpLosses(), PREDICTOR, 5, seed=1, constraint_ms=constraint_ms)


def test_the_fastest_need_not_be_the_smallest() -> None:
    """The descent follows the predictor where it likes a larger choice better."""

    class Odd(AdditivePredictor):
        def predict_ms(self, configs):  # type: ignore[no-untyped-def]
            odd = [2.0 * (one.encoder_embed_dim == 16) for one in configs]
            return super().predict_ms(configs) - odd

    config, least_ms = fastest(SMALL_SPACE, Odd())
    assert config.encoder_embed_dim == 16
    assert least_ms == min(predicted_ms(Odd(), [one.config for one in every_candidate(SMALL_SPACE)]))


def test_draws_end() -> None:
    """A constraint that exists but is out of a sampler's reach is refused after many draws, not waited for."""
    smallest = TOY.largest()
    with pytest.raises(SearchError, match=r"only 0 of 4000 drawn SubTransformers meet it, 2 are needed"):
        draw_under(lambda: smallest, 2, PREDICTOR, 3.0)


def test_crossover_needs_two_parents() -> None:
    """One parent is refused."""
    with pytest.raises(SearchError, match="1 parent"):
        hat_search(TOY, MadeUpLosses(), PREDICTOR, 9.0, EvolutionOptions(parent_size=1), seed=1)


# --- fronts ---


def test_front_is_what_nothing_dominates() -> None:
    """By definition, over all pairs."""
    every = every_candidate(SMALL_SPACE)
    front = pareto_front(every)

    def is_dominated(one: Candidate) -> bool:
        return any(
            other.predicted_ms <= one.predicted_ms
            and other.loss <= one.loss
            and (other.predicted_ms, other.loss) != (one.predicted_ms, one.loss)
            for other in every
        )

    kept = {(one.predicted_ms, one.loss) for one in every if not is_dominated(one)}
    assert {(one.predicted_ms, one.loss) for one in front} == kept
    assert made_up_loss(front[-1].config) == min(one.loss for one in every)


def test_thinned_front_keeps_its_ends() -> None:
    """Fewer points, first and last among them; one point is the best."""
    front = pareto_front(every_candidate(SMALL_SPACE))
    assert len(front) > 4
    three = thinned(front, 3)
    assert len(three) == 3
    assert (three[0], three[-1]) == (front[0], front[-1])
    assert thinned(front, 1) == [front[-1]]
    assert thinned(front, 100) == front
