"""An additive latency model: a weighed sum of an architecture's terms, fitted so that glitches do not steer it.

Knows neither files nor devices. Chooses how many terms and how much ridge by cross-validation on the rows it is given.

Source of the idea: HAT (Wang et al., ACL 2020) predicts the same labels with a neural network; see
docs/decisions/0010-latency-predictor.md for why this one does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from dynhat_runtime.offline.latency_basis import BASIS_NAMES, Array, BasisName, Bends, Stacks, terms

NUM_FOLDS = 5
RIDGES = (1e-4, 1e-3, 1e-2)
"""Penalties of the squared weight of a standardised term, where the median latency is 1."""
MEDIAN_SHARES = tuple(tenths / 10 for tenths in range(11))
RMSE_SLACK = 1.02
NUM_REWEIGHTINGS = 25


class AdditiveLatencyModel(BaseModel):
    """A fitted sum; everything that predicting needs, and nothing else."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    basis: BasisName
    is_per_layer: bool
    """Fitted on every layer apart; else on mean layers, and then it predicts with mean layers too."""
    ridge: float
    median_share: float
    """Weight of the fit to the median (least relative error), the rest is of the fit to the mean."""
    depth_steps: tuple[int, ...]
    ffn_knots: tuple[float, ...]
    terms: tuple[str, ...]
    means: tuple[float, ...]
    """What is subtracted from each term,"""
    scales: tuple[float, ...]
    """what it is then divided by,"""
    weights_ms: tuple[float, ...]
    """and what it then costs."""
    constant_ms: float
    least_ms: float
    """No prediction is below: half the fastest training row."""
    cross_validated_mape: float

    def predict_ms(self, stacks: Stacks) -> Array:
        """Latency [N] in milliseconds."""
        known = stacks if self.is_per_layer else stacks.averaged()
        found = terms(known, self.basis, Bends(self.depth_steps, self.ffn_knots))
        sums = np.full(len(stacks.decoder_dim), self.constant_ms)
        for name, mean, scale, weight_ms in zip(
            self.terms, self.means, self.scales, self.weights_ms, strict=True
        ):
            sums += (found[name] - mean) * (weight_ms / scale)
        return np.asarray(np.maximum(self.least_ms, sums))


@dataclass(frozen=True, slots=True)
class _Terms:
    """Standardised terms [N, T] of training rows, and how they were standardised; constant terms are left out."""

    names: tuple[str, ...]
    means: Array
    scales: Array

    @classmethod
    def of(cls, found: dict[str, Array]) -> _Terms:
        """Of training rows."""
        varying = {
            name: values for name, values in found.items() if np.ptp(values) > 1e-9 * np.abs(values).max()
        }
        return cls(
            names=tuple(varying),
            means=np.array([values.mean() for values in varying.values()]),
            scales=np.array([values.std() for values in varying.values()]),
        )

    def matrix(self, found: dict[str, Array]) -> Array:
        """[N, 1 + T], the constant first."""
        columns = [(found[name] - mean) / scale for name, mean, scale in zip(
            self.names, self.means, self.scales, strict=True)]  # fmt: skip
        num_rows = len(next(iter(found.values())))
        return np.column_stack([np.ones(num_rows), *columns])


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A basis and ridge with cross-validated predictions [N] of both fits, and the median fit's relative errors."""

    basis: BasisName
    ridge: float
    by_median: Array
    by_mean: Array
    errors: Array

    def is_surely_better_than(self, other: _Candidate) -> bool:
        """The mean error is smaller by more than the standard error of the difference, row by row."""
        gains = other.errors - self.errors
        return bool(gains.mean() > gains.std() / np.sqrt(len(gains)))


def fit_additive_model(
    stacks: Stacks, latency_ms: Array, *, is_per_layer: bool, seed: int
) -> AdditiveLatencyModel:
    """Fit the basis and ridge of least cross-validated relative error, and mix median and mean.

    1. Basis and ridge: from the simplest and most penalised on; the next is taken where its mean absolute relative
       error over five folds is smaller by more than the standard error of the difference.
    2. Share of the median fit: the largest whose cross-validated RMSE is within two percent of the smallest. Glitches
       cannot be foreseen: the median fit ignores them (small relative error), the mean fit spreads them (small RMSE).

    Args:
        stacks: Training architectures.
        latency_ms: Their latencies [N], positive.
        is_per_layer: The layers of `stacks` are those of the architectures, not mean ones.
        seed: Of the folds.
    """
    bends = Bends.of(stacks)
    folds = np.random.default_rng(seed).permutation(len(latency_ms)) % NUM_FOLDS
    chosen: _Candidate | None = None
    for basis, ridge in product(BASIS_NAMES, RIDGES[::-1]):
        by_median, by_mean = _cross_validate(terms(stacks, basis, bends), latency_ms, folds, ridge)
        candidate = _Candidate(basis, ridge, by_median, by_mean, np.abs(by_median / latency_ms - 1))
        if chosen is None or candidate.is_surely_better_than(chosen):
            chosen = candidate
    assert chosen is not None
    basis, ridge, predictions = chosen.basis, chosen.ridge, (chosen.by_median, chosen.by_mean)
    share = _median_share(predictions, latency_ms)
    mixed = share * predictions[0] + (1 - share) * predictions[1]
    found = terms(stacks, basis, bends)
    standard = _Terms.of(found)
    weights = _mixed_weights(standard.matrix(found), latency_ms, ridge, share)
    return AdditiveLatencyModel(
        basis=basis,
        is_per_layer=is_per_layer,
        ridge=ridge,
        median_share=share,
        depth_steps=bends.depth_steps,
        ffn_knots=bends.ffn_knots,
        terms=standard.names,
        means=tuple(standard.means.tolist()),
        scales=tuple(standard.scales.tolist()),
        weights_ms=tuple(weights[1:].tolist()),
        constant_ms=float(weights[0]),
        least_ms=float(latency_ms.min()) / 2,
        cross_validated_mape=float(np.mean(np.abs(mixed / latency_ms - 1))),
    )


def _cross_validate(
    found: dict[str, Array],
    latency_ms: Array,
    folds: np.ndarray[Any, Any],
    ridge: float,
) -> tuple[Array, Array]:
    """Each row's latency as fits to the other folds predict it: by the median fit, by the mean fit."""
    by_median, by_mean = np.empty_like(latency_ms), np.empty_like(latency_ms)
    for fold in range(NUM_FOLDS):
        is_left_out = folds == fold
        kept = {name: values[~is_left_out] for name, values in found.items()}
        standard = _Terms.of(kept)
        matrix, rest = (
            standard.matrix(kept),
            standard.matrix({name: values[is_left_out] for name, values in found.items()}),
        )
        least = latency_ms[~is_left_out].min() / 2
        by_median[is_left_out] = np.maximum(
            least, rest @ _median_weights(matrix, latency_ms[~is_left_out], ridge)
        )
        by_mean[is_left_out] = np.maximum(
            least, rest @ _mean_weights(matrix, latency_ms[~is_left_out], ridge)
        )
    return by_median, by_mean


def _median_share(predictions: tuple[Array, Array], latency_ms: Array) -> float:
    """Rule 2 of `fit_additive_model`."""
    by_median, by_mean = predictions

    def rmse(share: float) -> float:
        return float(np.sqrt(np.mean((share * by_median + (1 - share) * by_mean - latency_ms) ** 2)))

    allowed = RMSE_SLACK * min(rmse(share) for share in MEDIAN_SHARES)
    return max(share for share in MEDIAN_SHARES if rmse(share) <= allowed)


def _mixed_weights(matrix: Array, latency_ms: Array, ridge: float, share: float) -> Array:
    return share * _median_weights(matrix, latency_ms, ridge) + (1 - share) * _mean_weights(
        matrix, latency_ms, ridge
    )


def _mean_weights(matrix: Array, latency_ms: Array, ridge: float) -> Array:
    """Ridge regression where the variance of a row grows with its latency."""
    typical = float(np.median(latency_ms))
    row_weights = np.sqrt(typical / latency_ms)
    return typical * _solve(matrix * row_weights[:, None], latency_ms / typical * row_weights, None, ridge)


def _median_weights(matrix: Array, latency_ms: Array, ridge: float) -> Array:
    """Least mean absolute relative error, by least squares reweighted with one over the last error."""
    typical = float(np.median(latency_ms))
    scaled = matrix * (typical / latency_ms)[:, None]
    ones = np.ones(len(latency_ms))
    row_weights: Array | None = None
    for _ in range(NUM_REWEIGHTINGS):
        weights = _solve(scaled, ones, row_weights, ridge)
        errors = np.abs(scaled @ weights - 1)
        scale = float(np.median(errors)) + 1e-9
        row_weights = scale / np.maximum(errors, 0.1 * scale)
    return typical * weights


def _solve(matrix: Array, target: Array, row_weights: Array | None, ridge: float) -> Array:
    """Weighted ridge regression; the first column, the constant, is not penalised."""
    weighted = matrix if row_weights is None else matrix * row_weights[:, None]
    penalty = np.full(matrix.shape[1], ridge)
    penalty[0] = 0.0
    gram = weighted.T @ matrix / len(target) + np.diag(penalty)
    return np.asarray(np.linalg.lstsq(gram, weighted.T @ target / len(target), rcond=1e-13)[0])
