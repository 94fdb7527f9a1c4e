"""HAT's evolutionary search under one latency constraint, and random search beside it.

Pure: whoever measures losses and predicts latency is handed in. One search gives one architecture per constraint;
`pareto_search` gives the whole front.

Source: HAT (Wang et al., ACL 2020), section 3.3 and its published search settings.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.errors import SearchError
from dynhat_runtime.offline.candidates import (
    Candidate,
    MeasuresLoss,
    PredictsLatency,
    Rung,
    check_constraint,
    draw_under,
    measured,
)

RANDOM_BATCH_SIZE = 100
MAX_REPEATS = 1000
"""Draws in a row that bring nothing new before a space counts as exhausted."""


@dataclass(frozen=True, slots=True)
class EvolutionOptions:
    """Sizes of HAT's search; the defaults are HAT's."""

    population_size: int = 125
    parent_size: int = 25
    mutation_size: int = 50
    crossover_size: int = 50
    mutation_probability: float = 0.3
    num_iterations: int = 30

    @property
    def num_evaluations(self) -> int:
        """Architectures one search evaluates; parents keep the loss they have."""
        return self.population_size + (self.num_iterations - 1) * (self.mutation_size + self.crossover_size)


def hat_search(
    space: DesignSpace,
    losses: MeasuresLoss,
    predictor: PredictsLatency,
    constraint_ms: float,
    options: EvolutionOptions,
    seed: int,
    rung: Rung = "subset",
) -> list[Candidate]:
    """Search the architecture of lowest validation loss within a latency constraint.

    Rules: (1) the first population is sampled uniformly; (2) the best become parents; (3) the next population is
    the parents, mutations of random parents and crossovers of two random parents; (4) whatever is predicted
    over the constraint is drawn again; (5) the last population is evaluated and bears no more children.

    Returns:
        All evaluated candidates in the order of evaluation; the least loss among them is what HAT returns.

    Raises:
        SearchError: The constraint cannot be met, or fewer than two parents are asked to cross.
    """
    num_parents = min(options.parent_size, options.population_size)
    if options.crossover_size and num_parents < 2:
        raise SearchError(
            f"{num_parents} parent: a crossover needs at least 2, raise parent and population size"
        )
    check_constraint(constraint_ms, space, predictor)
    rng = random.Random(seed)
    fresh = draw_under(lambda: space.sample(rng), options.population_size, predictor, constraint_ms)
    evaluated: list[Candidate] = []
    parents: list[Candidate] = []
    for iteration in range(options.num_iterations):
        if iteration:
            fresh = _children(space, parents, predictor, constraint_ms, options, rng)
        candidates = measured(fresh, losses, predictor, rung)
        evaluated += candidates
        parents = sorted([*parents, *candidates], key=lambda one: one.loss)[: options.parent_size]
    return evaluated


def _children(
    space: DesignSpace,
    parents: Sequence[Candidate],
    predictor: PredictsLatency,
    constraint_ms: float,
    options: EvolutionOptions,
    rng: random.Random,
) -> list[SubTransformerConfig]:
    """Mutations, then crossovers."""

    def mutation() -> SubTransformerConfig:
        return space.mutate(rng.choice(parents).config, options.mutation_probability, rng)

    def crossover() -> SubTransformerConfig:
        first, second = rng.sample(parents, 2)
        return space.crossover(first.config, second.config, rng)

    mutations = draw_under(mutation, options.mutation_size, predictor, constraint_ms)
    return mutations + draw_under(crossover, options.crossover_size, predictor, constraint_ms)


def random_search(
    space: DesignSpace,
    losses: MeasuresLoss,
    predictor: PredictsLatency,
    num_evaluations: int,
    seed: int,
    constraint_ms: float | None = None,
    rung: Rung = "subset",
) -> list[Candidate]:
    """Evaluate distinct architectures drawn uniformly per dimension, in the order drawn.

    A space with fewer is evaluated as far as draws reach it.

    Raises:
        SearchError: The constraint cannot be met.
    """
    if constraint_ms is not None:
        check_constraint(constraint_ms, space, predictor)
    rng = random.Random(seed)
    seen: set[SubTransformerConfig] = set()
    evaluated: list[Candidate] = []
    while len(evaluated) < num_evaluations:
        wanted = min(RANDOM_BATCH_SIZE, num_evaluations - len(evaluated))
        fresh = distinct_draws(space, predictor, constraint_ms, wanted, seen, rng)
        if not fresh:
            break
        evaluated += measured(fresh, losses, predictor, rung)
    return evaluated


def distinct_draws(
    space: DesignSpace,
    predictor: PredictsLatency,
    constraint_ms: float | None,
    count: int,
    seen: set[SubTransformerConfig],
    rng: random.Random,
) -> list[SubTransformerConfig]:
    """Up to `count` uniform draws that are not in `seen`, and add them to it."""
    fresh: list[SubTransformerConfig] = []
    num_repeats = 0
    while len(fresh) < count and num_repeats < MAX_REPEATS:
        for config in draw_under(lambda: space.sample(rng), count - len(fresh), predictor, constraint_ms):
            if config in seen:
                num_repeats += 1
            else:
                seen.add(config)
                fresh.append(config)
                num_repeats = 0
    return fresh
