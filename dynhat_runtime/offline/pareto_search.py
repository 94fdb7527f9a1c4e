"""One multi-objective search for the whole front of validation loss against predicted latency.

A ladder of three rungs, cheap to expensive: a surrogate fitted to the losses so far (free), the loss on a fixed subset
of the dev set, the loss on all of it. pymoo's NSGA-II searches on the surrogate by ask and tell; what it finds
most promising climbs. Seeded throughout. The only importer of pymoo.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.crossover import Crossover
from pymoo.core.evaluator import Evaluator
from pymoo.core.mutation import Mutation
from pymoo.core.problem import Problem
from pymoo.indicators.hv import HV
from pymoo.problems.static import StaticProblem
from pymoo.termination.max_gen import MaximumGenerationTermination

from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.offline.candidates import (
    Candidate,
    MeasuresLoss,
    PredictsLatency,
    check_constraint,
    measured,
    pareto_front,
    predicted_ms,
    thinned,
)
from dynhat_runtime.offline.evolution import distinct_draws
from dynhat_runtime.offline.loss_surrogate import LossSurrogate
from dynhat_runtime.offline.point_selection import non_dominated
from dynhat_runtime.offline.recipe import AnchorRecipe

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ParetoOptions:
    """How the search spends its evaluations."""

    num_evaluations: int = 3025
    """Architectures measured on the subset: HAT's own number."""
    initial_size: int = 125
    """Of them before the surrogate is fitted first, the ladder seeds included."""
    batch_size: int = 50
    """Architectures measured between two fits."""
    num_surrogate_generations: int = 15
    surrogate_population: int = 100
    mutation_probability: float = 0.08
    """Per gene entry: three of the paper's forty."""
    unguided_fraction: float = 0.2
    """Share of a batch that is bred from the front without asking the surrogate, which may be wrong."""
    has_ladder_seeds: bool = True
    """Begin with the smallest and the largest of every decoder depth, span 1: known from the space alone."""
    num_promoted: int = 64
    """Candidates of the subset's front and nearest to it that are measured on the whole dev set."""


@dataclass(frozen=True, slots=True)
class ParetoFindings:
    """What a search found.

    Attributes:
        evaluated: Measured on the subset, in that order.
        promoted: Those measured on the whole dev set.
    """

    evaluated: list[Candidate]
    promoted: list[Candidate]


def hypervolume(candidates: Iterable[Candidate], reference_ms: float, reference_loss: float) -> float:
    """Area (ms x nats) that the candidates dominate below and left of the reference point."""
    points = [
        (one.predicted_ms, one.loss)
        for one in pareto_front(candidates)
        if one.predicted_ms < reference_ms and one.loss < reference_loss
    ]
    return float(HV(ref_point=np.array([reference_ms, reference_loss]))(np.array(points))) if points else 0.0


def ladder_seeds(space: DesignSpace) -> list[SubTransformerConfig]:
    """The smallest and the largest of every decoder depth, with the least span."""
    span = min(space.cross_attention_span)
    return [
        AnchorRecipe(size=size, share=1, num_decoder_layers=depth, cross_attention_span=span).config(space)
        for depth in sorted(space.decoder_num_layers)
        for size in ("smallest", "largest")
    ]


@dataclass(slots=True)
class _Search:
    """What the steps of one search share: what was measured, and what was seen."""

    space: DesignSpace
    losses: MeasuresLoss
    predictor: PredictsLatency
    options: ParetoOptions
    constraint_ms: float | None
    rng: random.Random
    evaluated: list[Candidate] = field(default_factory=list)
    seen: set[SubTransformerConfig] = field(default_factory=set)

    def measure(self, configs: Sequence[SubTransformerConfig]) -> None:
        """Add subset losses of architectures not seen before, within the evaluations allowed."""
        configs = configs[: self.options.num_evaluations - len(self.evaluated)]
        self.seen.update(configs)
        self.evaluated += measured(configs, self.losses, self.predictor, "subset")

    def new_within_constraint(
        self, configs: Iterable[SubTransformerConfig]
    ) -> list[tuple[SubTransformerConfig, float]]:
        """Distinct unseen architectures that meet the constraint, with their predicted milliseconds."""
        fresh = [config for config in dict.fromkeys(configs) if config not in self.seen]
        pairs = zip(fresh, predicted_ms(self.predictor, fresh), strict=True)
        return [
            (config, ms) for config, ms in pairs if self.constraint_ms is None or ms <= self.constraint_ms
        ]


def pareto_search(
    space: DesignSpace,
    losses: MeasuresLoss,
    predictor: PredictsLatency,
    options: ParetoOptions,
    seed: int,
    constraint_ms: float | None = None,
) -> ParetoFindings:
    """Search the front of loss against predicted latency.

    Rules: (1) ladder seeds and uniform draws are measured on the subset first. (2) Then, batch by batch: the
    surrogate is fitted to all that was measured, NSGA-II searches on it from the present front, and of what it
    met the architectures that add most hypervolume are measured, one after the other counted in. (3) A share of
    each batch is bred from the front unguided. (4) Where both find nothing new, uniform draws fill up; where
    these find nothing either, the space is exhausted. (5) The front and those nearest to it are measured on
    the whole dev set.

    Args:
        space: What may be found.
        losses: Measures; asked for no architecture twice on the same rung.
        predictor: Of the device to be served.
        options: How evaluations are spent.
        seed: Of every draw.
        constraint_ms: Only architectures predicted within it, if given.

    Raises:
        SearchError: The constraint cannot be met.
    """
    if constraint_ms is not None:
        check_constraint(constraint_ms, space, predictor)
    search = _Search(space, losses, predictor, options, constraint_ms, random.Random(seed))
    if options.has_ladder_seeds:
        search.measure([config for config, _ in search.new_within_constraint(ladder_seeds(space))])
    search.measure(_draws(search, min(options.initial_size, options.num_evaluations) - len(search.evaluated)))
    while 0 < len(search.evaluated) < options.num_evaluations:
        wanted = min(options.batch_size, options.num_evaluations - len(search.evaluated))
        batch = _promising(search, round(wanted * (1 - options.unguided_fraction)))
        batch += _bred(search, wanted - len(batch), batch)
        batch += [one for one in _draws(search, wanted - len(batch)) if one not in batch]
        if not batch:
            break
        search.measure(batch)
    promoted = [one.config for one in to_promote(search.evaluated, options.num_promoted)]
    return ParetoFindings(search.evaluated, measured(promoted, losses, predictor, "all"))


def to_promote(evaluated: Sequence[Candidate], count: int) -> list[Candidate]:
    """The front, thinned to `count`; beside a shorter one those whose loss exceeds it least."""
    front = pareto_front(evaluated)
    if len(front) >= count:
        return thinned(front, count)
    times_F = np.array([one.predicted_ms for one in front])
    losses_F = np.array([one.loss for one in front])
    on_front = {one.config for one in front}
    others = {one.config: one for one in evaluated if one.config not in on_front}

    def excess(one: Candidate) -> float:
        return one.loss - float(losses_F[np.searchsorted(times_F, one.predicted_ms, side="right") - 1])

    return front + sorted(others.values(), key=excess)[: count - len(front)]


def _draws(search: _Search, count: int) -> list[SubTransformerConfig]:
    seen = set(search.seen)  # what is drawn here counts as seen when it is measured
    return distinct_draws(search.space, search.predictor, search.constraint_ms, count, seen, search.rng)


def _bred(search: _Search, count: int, batch: Sequence[SubTransformerConfig]) -> list[SubTransformerConfig]:
    """Mutated crossovers of the present front, none of them in `batch`."""
    front = pareto_front(search.evaluated)
    space, rng = search.space, search.rng
    children = [
        space.mutate(
            space.crossover(rng.choice(front).config, rng.choice(front).config, rng),
            search.options.mutation_probability,
            rng,
        )
        for _ in range(8 * count)
    ]
    fresh = [config for config, _ in search.new_within_constraint(children) if config not in batch]
    return fresh[:count]


def _promising(search: _Search, count: int) -> list[SubTransformerConfig]:
    """Up to `count` unseen architectures that the surrogate expects to add most hypervolume."""
    evaluated = search.evaluated
    surrogate = LossSurrogate(
        search.space, [one.config for one in evaluated], np.array([one.loss for one in evaluated])
    )
    found = search.new_within_constraint(_met_on_surrogate(search, surrogate))
    if not found:
        return []
    configs, times_ms = zip(*found, strict=True)
    chosen = _greedy_by_gain(evaluated, np.array(times_ms), surrogate.losses(configs), count)
    return [configs[index] for index in chosen]


def _greedy_by_gain(
    evaluated: Sequence[Candidate], times_N: Floats, losses_N: Floats, count: int
) -> list[int]:
    """Indices of those that add most hypervolume, each counted in before the next; then the least behind the front."""
    reference_ms = max(one.predicted_ms for one in evaluated)
    reference_loss = max(one.loss for one in evaluated)
    front = [(one.predicted_ms, one.loss) for one in pareto_front(evaluated)]
    chosen: list[int] = []
    while len(chosen) < min(count, len(times_N)):
        edges_E = np.array([0.0, *(time_ms for time_ms, _ in front), max(reference_ms, front[-1][0])])
        levels_E = np.array([reference_loss, *(loss for _, loss in front)])
        widths_NE = np.clip(edges_E[1:] - np.maximum(edges_E[:-1], times_N[:, None]), 0, None)
        gains_N = (widths_NE * np.clip(levels_E - losses_N[:, None], 0, None)).sum(axis=1)
        level_N = levels_E[np.searchsorted(edges_E[1:-1], times_N, side="right")]
        scores_N = np.where(gains_N > 0, gains_N, np.minimum(level_N - losses_N, 0.0))
        scores_N[chosen] = -np.inf
        best = int(scores_N.argmax())
        chosen.append(best)
        front = non_dominated([*front, (float(times_N[best]), float(losses_N[best]))], lambda point: point)
    return chosen


# --- pymoo on the surrogate ---------------------------------------------------------------------------------------


def _met_on_surrogate(search: _Search, surrogate: LossSurrogate) -> list[SubTransformerConfig]:
    """Every architecture that NSGA-II came across on the surrogate, beginning with the best measured so far."""
    space, options = search.space, search.options
    size = options.surrogate_population
    start = to_promote(search.evaluated, size)
    slots = space.gene_slots()
    problem = Problem(
        n_var=len(slots),
        n_obj=2,
        n_ieq_constr=1,
        xl=np.array([min(slot.choices) for slot in slots]),
        xu=np.array([max(slot.choices) for slot in slots]),
        vtype=int,
    )
    algorithm = NSGA2(
        pop_size=size,
        sampling=np.array([space.gene(one.config) for one in start]),
        crossover=_SpaceCrossover(space, search.rng),
        mutation=_SpaceMutation(space, search.rng, options.mutation_probability),
        eliminate_duplicates=True,
    )
    algorithm.setup(
        problem,
        termination=MaximumGenerationTermination(options.num_surrogate_generations),
        seed=search.rng.randrange(2**31),
    )
    met: list[SubTransformerConfig] = []
    while algorithm.has_next():
        asked = algorithm.ask()
        if asked is None or len(asked) == 0:
            break
        configs = [space.config_from_gene(gene) for gene in asked.get("X").astype(int).tolist()]
        times_N = np.array(predicted_ms(search.predictor, configs))
        objectives = np.stack([surrogate.losses(configs), times_N], axis=1)
        limit_ms = np.inf if search.constraint_ms is None else search.constraint_ms
        excess_N1 = np.where(times_N <= limit_ms, -1.0, times_N)[:, None]
        Evaluator().eval(StaticProblem(problem, F=objectives, G=excess_N1), asked)
        algorithm.tell(infills=asked)
        met += configs
    return met


class _SpaceCrossover(Crossover):  # type: ignore[misc]  # pymoo has no types
    """The design space's crossover: one child of two parents."""

    def __init__(self, space: DesignSpace, rng: random.Random) -> None:
        super().__init__(n_parents=2, n_offsprings=1)
        self.space, self.rng = space, rng

    def _do(self, problem: Any, X: Any, *_: Any, **__: Any) -> Any:
        space = self.space
        pairs = zip(*(parents.astype(int).tolist() for parents in X), strict=True)
        children = [
            space.gene(space.crossover(space.config_from_gene(one), space.config_from_gene(other), self.rng))
            for one, other in pairs
        ]
        return np.array(children)[None]


class _SpaceMutation(Mutation):  # type: ignore[misc]  # pymoo has no types
    """The design space's mutation. It gives every architecture one gene, so that pymoo sees duplicates."""

    def __init__(self, space: DesignSpace, rng: random.Random, probability: float) -> None:
        super().__init__()
        self.space, self.rng, self.probability = space, rng, probability

    def _do(self, problem: Any, X: Any, *_: Any, **__: Any) -> Any:
        space = self.space
        return np.array(
            [
                space.gene(space.mutate(space.config_from_gene(gene), self.probability, self.rng))
                for gene in X.astype(int).tolist()
            ]
        )
