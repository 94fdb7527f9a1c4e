"""`dynhat fit-predictor`: from a latency dataset to a predictor whose errors on unseen rows are known.

Checks that the rows belong together, splits them, fits ours and HAT's on the same split, and looks at the test rows
once.

Shapes: N rows.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from dynhat_runtime.design_space import (
    DesignSpace,
    SubTransformerConfig,
    latency_features,
)
from dynhat_runtime.design_space_presets import PRESETS
from dynhat_runtime.errors import DesignSpaceError, LatencyDataError
from dynhat_runtime.offline.additive_latency_model import fit_additive_model
from dynhat_runtime.offline.figure_cache import file_sha256
from dynhat_runtime.offline.hat_latency_predictor import NUM_STEPS, Rows, hat_predictions_ms
from dynhat_runtime.offline.latency_basis import Array, Stacks
from dynhat_runtime.offline.latency_dataset import (
    CONDITION_COLUMNS,
    Conditions,
    LatencyRow,
    read_latency_dataset,
    steady_totals_ms,
)
from dynhat_runtime.offline.latency_predictor import LatencyPredictor, LatencyRange, TrainingRecord

TRAIN_FRACTION, VALIDATION_FRACTION = 0.8, 0.1
MIN_ROWS = 30
FEATURE_TOLERANCE = 1e-6
NOISE_FLOOR_METHOD = (
    "half the mean difference between the errors of nearest neighbours among the rows: "
    "no predictor that gives near-equal architectures near-equal latencies is below, whatever the noise"
)
NUM_HAT_STEPS = NUM_STEPS


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """How to fit.

    Attributes:
        device: Names the device of a file that names none.
        where: Only rows with these conditions, as (column, value).
        space: Design space of the genes, if it is no preset.
        seed: Of the split, the folds and HAT's weights.
        compares_with_hat: Also retrain HAT's predictor (half a minute or more).
    """

    device: str | None = None
    where: tuple[tuple[str, str], ...] = ()
    space: DesignSpace | None = None
    seed: int = 0
    compares_with_hat: bool = True


class Split(NamedTuple):
    """Row numbers, disjoint."""

    train: Rows
    validation: Rows
    test: Rows

    @classmethod
    def of(cls, num_rows: int, seed: int) -> Split:
        """80 / 10 / 10 percent of shuffled rows."""
        order = np.random.default_rng(seed).permutation(num_rows)
        num_train, num_validation = int(TRAIN_FRACTION * num_rows), int(VALIDATION_FRACTION * num_rows)
        return cls(
            order[:num_train],
            order[num_train : num_train + num_validation],
            order[num_train + num_validation :],
        )


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Rows that belong together, as arrays."""

    rows: tuple[LatencyRow, ...]
    conditions: Conditions | None
    stacks: Stacks
    is_per_layer: bool
    features: Array
    """[N, 10], HAT's."""
    latency_ms: Array

    @classmethod
    def read(cls, path: Path, options: FitOptions) -> TrainingSet:
        """Read and check a dataset.

        Raises:
            LatencyDataError: The file is broken, its rows were measured under different conditions, are too few, or
                have genes outside their design space.
        """
        numbered = _filtered(path, list(enumerate(read_latency_dataset(path), start=2)), options.where)
        if len(numbered) < MIN_ROWS:
            raise LatencyDataError(
                f"{path}: {len(numbered)} rows are too few for a predictor: measure at least {MIN_ROWS}"
            )
        rows = [row for _, row in numbered]
        conditions = _common_conditions(path, rows)
        features = np.array([row.features for row in rows], dtype=float)
        is_per_layer = conditions is not None and all(row.gene is not None for row in rows)
        if is_per_layer and conditions is not None:
            space = _space_of(path, conditions, options.space)
            stacks = Stacks.of_configs([_config(path, line, row, space) for line, row in numbered])
        else:
            stacks = Stacks.of_features(features)
        return cls(
            rows=tuple(rows),
            conditions=conditions,
            stacks=stacks,
            is_per_layer=is_per_layer,
            features=features,
            latency_ms=np.array(steady_totals_ms(rows)),
        )


def fit_predictor(
    path: Path, options: FitOptions, progress: Callable[[int], None] = lambda _: None
) -> LatencyPredictor:
    """Fit a predictor to a latency dataset.

    Terms, ridge and robustness are chosen by cross-validation on training and validation rows together, and the model
    is fitted on those; the test rows are predicted once.

    Args:
        path: CSV, ours or HAT's.
        options: See there.
        progress: Hears how many of HAT's `NUM_HAT_STEPS` are done.

    Raises:
        LatencyDataError: What is wrong with the file, and the remedy.
    """
    data = TrainingSet.read(path, options)
    device = _device(path, data.conditions, options.device)
    split = Split.of(len(data.rows), options.seed)
    known = np.concatenate([split.train, split.validation])
    model = fit_additive_model(
        data.stacks.take(known), data.latency_ms[known], is_per_layer=data.is_per_layer, seed=options.seed
    )
    predicted_ms = model.predict_ms(data.stacks)
    hat_mape = hat_rmse_ms = None
    if options.compares_with_hat:
        hat_ms = hat_predictions_ms(
            data.features,
            data.latency_ms,
            split.train,
            split.validation,
            seed=options.seed,
            progress=progress,
        )
        hat_mape = mape(hat_ms[split.test], data.latency_ms[split.test])
        hat_rmse_ms = rmse_ms(hat_ms[split.test], data.latency_ms[split.test])
    return LatencyPredictor(
        device=device,
        design_space=None if data.conditions is None else data.conditions.design_space,
        conditions=data.conditions,
        trained_range=_range(data.features[known]),
        model=model,
        record=TrainingRecord(
            file=path.name,
            file_sha256=file_sha256(path),
            where=tuple(f"{column}={value}" for column, value in options.where),
            fitted_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            seed=options.seed,
            num_train=len(split.train),
            num_validation=len(split.validation),
            num_test=len(split.test),
            mape=mape(predicted_ms[split.test], data.latency_ms[split.test]),
            rmse_ms=rmse_ms(predicted_ms[split.test], data.latency_ms[split.test]),
            hat_mape=hat_mape,
            hat_rmse_ms=hat_rmse_ms,
            noise_floor_mape=noise_floor_mape(data.features, predicted_ms, data.latency_ms),
            noise_floor_method=NOISE_FLOOR_METHOD,
        ),
    )


def mape(predicted_ms: Array, measured_ms: Array) -> float:
    """Mean absolute error relative to the measured latency, a fraction."""
    return float(np.mean(np.abs(predicted_ms / measured_ms - 1)))


def rmse_ms(predicted_ms: Array, measured_ms: Array) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(np.mean((predicted_ms - measured_ms) ** 2)))


def noise_floor_mape(features: Array, predicted_ms: Array, measured_ms: Array) -> float:
    """A lower bound of any predictor's error, from the scatter of near-equal architectures.

    Where two rows ought to have the same relative error e, the absolute errors of both together are at least the
    difference of what was found, |e1 - e2|; so their mean is at least half of it.
    """
    errors = predicted_ms / measured_ms - 1
    spread = features.std(0)
    standard = features / np.where(spread > 0, spread, 1.0)
    _, neighbours = cKDTree(standard).query(standard, k=2)
    # A row's own number stands first, except among duplicates, where either serves.
    own = np.arange(len(errors))
    other = np.where(neighbours[:, 1] == own, neighbours[:, 0], neighbours[:, 1])
    return float(np.mean(np.abs(errors - errors[other]))) / 2


# --- rows that belong together ---


def _filtered(
    path: Path, numbered: list[tuple[int, LatencyRow]], where: Sequence[tuple[str, str]]
) -> list[tuple[int, LatencyRow]]:
    """The rows, with their lines, that were measured under the conditions asked for."""
    for column, value in where:
        if column not in CONDITION_COLUMNS:
            raise LatencyDataError(
                f"--where {column}={value}: no such condition: choose one of {', '.join(CONDITION_COLUMNS)}"
            )
        found = {_condition(row, column) for _, row in numbered}
        numbered = [(line, row) for line, row in numbered if _is_same(_condition(row, column), value)]
        if not numbered:
            raise LatencyDataError(f"{path}: no row has {column}={value}: choose {_listed(found)}")
    return numbered


def _condition(row: LatencyRow, column: str) -> Any:
    return None if row.conditions is None else getattr(row.conditions, column)


def _is_same(value: Any, asked: str) -> bool:
    if isinstance(value, (int, float)):
        try:
            return float(asked) == value
        except ValueError:
            return False
    return str(value) == asked


def _listed(values: set[Any]) -> str:
    return " or ".join(sorted(str(value) for value in values))


def _common_conditions(path: Path, rows: Sequence[LatencyRow]) -> Conditions | None:
    """What all rows were measured under; None in HAT's files.

    Raises:
        LatencyDataError: They differ; naming a condition, its values, and how to choose.
    """
    if len({row.conditions is None for row in rows}) > 1:
        raise LatencyDataError(
            f"{path}: some rows say what they were measured under and others do not: keep them in two files"
        )
    for field in fields(Conditions):
        found = {_condition(row, field.name) for row in rows}
        if len(found) > 1:
            example = shlex.quote(f"{field.name}={min(str(value) for value in found)}")
            raise LatencyDataError(
                f"{path}: its rows differ in {field.name} ({_listed(found)}): choose with --where {example}"
            )
    return rows[0].conditions


def _space_of(path: Path, conditions: Conditions, given: DesignSpace | None) -> DesignSpace:
    name = conditions.design_space
    if given is not None and given.name == name:
        return given
    if name in PRESETS:
        return PRESETS[name]
    raise LatencyDataError(
        f"{path}: its genes are of design space {name!r}, "
        + ("which is no preset" if given is None else f"not {given.name!r}")
        + ": give --bundle with a bundle of that space"
    )


def _config(path: Path, line: int, row: LatencyRow, space: DesignSpace) -> SubTransformerConfig:
    """The row's architecture.

    Raises:
        LatencyDataError: The gene is not in the space, or is not what the features describe.
    """
    assert row.gene is not None
    try:
        config = space.config_from_gene(row.gene)
    except DesignSpaceError as error:
        raise LatencyDataError(f"{path}, line {line}: {error}: mend or remove the line") from error
    for name, of_gene, written in zip(
        row.features._fields, latency_features(config), row.features, strict=True
    ):
        if abs(of_gene - written) > FEATURE_TOLERANCE * abs(of_gene):
            raise LatencyDataError(
                f"{path}, line {line}: {name} is {written:g}, but {of_gene:g} in the gene: mend or remove the line"
            )
    return config


def _device(path: Path, conditions: Conditions | None, given: str | None) -> str | None:
    if conditions is None:
        return given
    if given is not None and given != conditions.device:
        raise LatencyDataError(
            f"{path}: was measured on {conditions.device!r}, not on --device {given!r}: leave --device out"
        )
    return conditions.device


def _range(features: Array) -> LatencyRange:
    low, high = features.min(0).astype(int).tolist(), np.ceil(features.max(0)).astype(int).tolist()
    return LatencyRange(
        encoder_embed_dim=(low[0], high[0]),
        encoder_num_layers=(low[1], high[1]),
        decoder_embed_dim=(low[4], high[4]),
        decoder_num_layers=(low[5], high[5]),
    )
