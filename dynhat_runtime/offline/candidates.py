"""What a search handles: candidates, whom it asks about them, and the front of those that nothing dominates.

Knows no weights, no files and no search method.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.errors import SearchError
from dynhat_runtime.offline.point_selection import non_dominated, thin

Rung = Literal["subset", "all"]
"""How much of the dev set a loss is measured on: a fixed subset of its sentences, or all of them."""

MAX_DRAWS_PER_CANDIDATE = 2000
"""Draws before a latency constraint counts as out of a sampler's reach."""
MAX_SWEEPS = 4


class PredictsLatency(Protocol):
    """A latency predictor."""

    def predict_ms(self, configs: Sequence[SubTransformerConfig]) -> npt.NDArray[np.float64]:
        """Milliseconds that a sentence takes with each architecture, in order."""


class MeasuresLoss(Protocol):
    """Whoever measures the validation loss of inherited SubTransformers."""

    def losses(self, configs: Sequence[SubTransformerConfig], rung: Rung) -> list[float]:
        """Label-smoothed loss per target token (nats) of each architecture, in order."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One architecture with what a search knows of it; `loss` in nats per target token."""

    config: SubTransformerConfig
    predicted_ms: float
    loss: float


def predicted_ms(predictor: PredictsLatency, configs: Sequence[SubTransformerConfig]) -> list[float]:
    """Predictions as plain numbers; none for none."""
    return [float(latency_ms) for latency_ms in predictor.predict_ms(configs)] if configs else []


def measured(
    configs: Sequence[SubTransformerConfig], losses: MeasuresLoss, predictor: PredictsLatency, rung: Rung
) -> list[Candidate]:
    """The architectures as candidates, in order."""
    return [
        Candidate(config, latency_ms, loss)
        for config, latency_ms, loss in zip(
            configs, predicted_ms(predictor, configs), losses.losses(configs, rung), strict=True
        )
    ]


def pareto_front(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Those that no other beats in latency without losing in loss; ascending latency, descending loss."""
    return non_dominated(list(candidates), lambda one: (one.predicted_ms, one.loss))


def thinned(front: Sequence[Candidate], size: int) -> list[Candidate]:
    """At most `size` points of a front: whoever adds the least area goes first, the ends stay longest."""
    return thin(front, size, lambda one: (one.predicted_ms, one.loss))


# --- latency constraints ----------------------------------------------------------------------------------------


def fastest(space: DesignSpace, predictor: PredictsLatency) -> tuple[SubTransformerConfig, float]:
    """The fastest architecture that a descent from the smallest finds, and its predicted milliseconds.

    One gene position at a time takes the choice predicted fastest, until a sweep changes nothing: a predictor
    need not find the smallest fastest.
    """
    gene = list(space.gene(space.smallest()))
    best_ms = predicted_ms(predictor, [space.config_from_gene(gene)])[0]
    for _ in range(MAX_SWEEPS):
        before_ms = best_ms
        for position, slot in enumerate(space.gene_slots()):
            variants = [[*gene[:position], choice, *gene[position + 1 :]] for choice in slot.choices]
            times_ms = predicted_ms(predictor, [space.config_from_gene(variant) for variant in variants])
            best = min(range(len(variants)), key=times_ms.__getitem__)
            if times_ms[best] < best_ms:
                gene, best_ms = variants[best], times_ms[best]
        if best_ms == before_ms:
            break
    return space.config_from_gene(gene), best_ms


def check_constraint(constraint_ms: float, space: DesignSpace, predictor: PredictsLatency) -> None:
    """See that some SubTransformer meets the constraint.

    Raises:
        SearchError: It is no positive number, or below the fastest prediction; with the least that can be met.
    """
    if not math.isfinite(constraint_ms) or constraint_ms <= 0:
        raise SearchError(f"latency constraint {constraint_ms:g} ms: give a positive number of milliseconds")
    _, fastest_ms = fastest(space, predictor)
    if fastest_ms > constraint_ms:
        raise SearchError(
            f"latency constraint {constraint_ms:g} ms cannot be met: the fastest SubTransformer of "
            f"{space.name} is predicted at {fastest_ms:.4g} ms: give at least {_rounded_up(fastest_ms):g}"
        )


def draw_under(
    draw: Callable[[], SubTransformerConfig],
    count: int,
    predictor: PredictsLatency,
    constraint_ms: float | None,
) -> list[SubTransformerConfig]:
    """The first `count` draws whose predicted latency is within the constraint.

    Raises:
        SearchError: Too few of very many draws are.
    """
    kept: list[SubTransformerConfig] = []
    num_draws = 0
    while len(kept) < count:
        block = [draw() for _ in range(count)]
        num_draws += len(block)
        if constraint_ms is None:
            return block
        times_ms = predicted_ms(predictor, block)
        kept += [config for config, time_ms in zip(block, times_ms, strict=True) if time_ms <= constraint_ms]
        if num_draws >= MAX_DRAWS_PER_CANDIDATE * count and len(kept) < count:
            raise SearchError(
                f"latency constraint {constraint_ms:g} ms: only {len(kept)} of {num_draws} drawn SubTransformers "
                f"meet it, {count} are needed: give a larger constraint"
            )
    return kept[:count]


def _rounded_up(value_ms: float) -> float:
    """To four digits, never below."""
    unit = 10.0 ** (math.floor(math.log10(value_ms)) - 3)
    return math.ceil(value_ms / unit) * unit
