"""What `dynhat fit-predictor` does around a fit: parse filters, show progress, write the file, say the figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from dynhat_runtime.errors import LatencyDataError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.offline.latency_fit import NUM_HAT_STEPS, FitOptions, fit_predictor
from dynhat_runtime.offline.latency_predictor import LatencyPredictor


def fit_and_save(
    dataset: Path,
    out: Path | None,
    *,
    device: str | None,
    where: Sequence[str],
    bundle: Path | None,
    seed: int,
    compares_with_hat: bool,
) -> LatencyPredictor:
    """Fit a predictor, with a progress bar on a terminal, and write it to `out` if that is given.

    Raises:
        DynhatError: What is wrong with the dataset, a filter, the bundle or the place to write.
    """
    options = FitOptions(
        device=device,
        where=tuple(_condition(text) for text in where),
        space=None if bundle is None else Bundle.open(bundle).design_space,
        seed=seed,
        compares_with_hat=compares_with_hat,
    )
    console = Console(stderr=True)
    is_silent = not (console.is_terminal and compares_with_hat)
    with Progress(console=console, disable=is_silent, transient=True) as progress:
        task = progress.add_task("retraining HAT's predictor", total=NUM_HAT_STEPS)
        predictor = fit_predictor(dataset, options, lambda done: progress.update(task, completed=done))
    if out is not None:
        predictor.save(out)
    return predictor


def summary(predictor: LatencyPredictor) -> dict[str, Any]:
    """The figures of a fit as one JSON object; errors are of test rows, MAPE as fractions."""
    model, record = predictor.model, predictor.record
    return {
        **record.model_dump(),
        "device": predictor.device,
        "design_space": predictor.design_space,
        "model": {
            "kind": predictor.kind,
            "basis": model.basis,
            "is_per_layer": model.is_per_layer,
            "num_terms": len(model.terms),
            "ridge": model.ridge,
            "median_share": model.median_share,
            "cross_validated_mape": model.cross_validated_mape,
        },
    }


def table(predictor: LatencyPredictor) -> str:
    """The figures of a fit for people."""
    model, record = predictor.model, predictor.record
    rows = [f"{'':28}{'MAPE':>8}{'RMSE':>12}", _row("ours", record.mape, record.rmse_ms)]
    if record.hat_mape is not None and record.hat_rmse_ms is not None:
        rows.append(_row("HAT's, same split", record.hat_mape, record.hat_rmse_ms))
    rows.append(_row("noise floor", record.noise_floor_mape))
    per_layer = "every layer apart" if model.is_per_layer else "averaged features"
    return "\n".join(
        [
            *rows,
            "",
            f"{record.num_test} test rows; {record.num_train} to train, {record.num_validation} to validate; "
            f"seed {record.seed}",
            f"ours: {model.basis} additive model of {len(model.terms)} terms, {per_layer}",
            f"noise floor: {record.noise_floor_method}",
            f"device: {predictor.device or 'not named: give --device to search with this predictor'}",
        ]
    )


def _row(name: str, mape: float, rmse_ms: float | None = None) -> str:
    return f"{name:28}{mape:8.2%}" + ("" if rmse_ms is None else f"{rmse_ms:9.1f} ms")


def _condition(text: str) -> tuple[str, str]:
    column, equals, value = text.partition("=")
    if not equals or not column or not value:
        raise LatencyDataError(f"--where {text!r} is no condition: give COLUMN=VALUE, such as num_cpus=2")
    return column, value
