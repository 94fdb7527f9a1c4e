"""`python -m benchmarks.predictors FOLDER`: our latency predictor and HAT's on every dataset of a folder, over seeds.

Writes a dated report and a picture of predicted against measured. HAT's predictor is retrained on every split: count
a minute per dataset and seed.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import repeat
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.report import ROOT, git_commit
from dynhat_runtime.errors import DynhatError
from dynhat_runtime.monitor.identity import device_name
from dynhat_runtime.offline.latency_basis import Array, Bends, terms
from dynhat_runtime.offline.latency_fit import FitOptions, Split, TrainingSet, fit_predictor, mape
from dynhat_runtime.offline.latency_predictor import LatencyPredictor

AIMS = {"raspberrypi": 0.035, "xeon": 0.047, "titanxp": 0.053, "jetson_nano": 0.026}
"""MAPE this project set out to reach, by what the file's name contains: those of an additive least-squares fit."""
NUM_NEIGHBOURS = 15
HAT_KEPT_RUNS = 240
"""HAT measures 300 runs and drops a tenth at either end."""
REPORT = "latency-predictors"


@dataclass(frozen=True, slots=True)
class Trial:
    """One dataset under one seed; MAPEs of its test rows as fractions."""

    predictor: LatencyPredictor
    additive_mape: float
    state_known_mape: float
    """Of our predictions, times how far off they were for training rows measured just before and after."""
    runs_mape: float
    """Error that the spread of a row's own runs leaves in its mean."""
    measured_ms: Array
    predicted_ms: Array


def try_out(path: Path, seed: int) -> Trial:
    """Fit and test on one split."""
    predictor = fit_predictor(path, FitOptions(seed=seed))
    data = TrainingSet.read(path, FitOptions(seed=seed))
    split = Split.of(len(data.rows), seed)
    known, test = np.concatenate([split.train, split.validation]), split.test
    predicted_ms, measured_ms = predictor.model.predict_ms(data.stacks), data.latency_ms
    errors = measured_ms / predicted_ms - 1
    nearest = np.argsort(np.abs(known[None] - test[:, None]), axis=1)[:, :NUM_NEIGHBOURS]
    state = 1 + np.median(errors[known[nearest]], axis=1)
    spread_ms = np.array([math.hypot(row.encoder_std_ms, row.decoder_std_ms) for row in data.rows])
    kept_runs = np.array([row.num_runs or HAT_KEPT_RUNS for row in data.rows])
    return Trial(
        predictor=predictor,
        additive_mape=mape(additive_least_squares_ms(data, known)[test], measured_ms[test]),
        state_known_mape=mape(predicted_ms[test] * state, measured_ms[test]),
        runs_mape=float(np.mean(math.sqrt(2 / math.pi) * spread_ms / np.sqrt(kept_runs) / measured_ms)),
        measured_ms=measured_ms[test],
        predicted_ms=predicted_ms[test],
    )


def additive_least_squares_ms(data: TrainingSet, known: np.ndarray) -> Array:
    """A plain least-squares fit of our plain terms: what robustness and bends are worth."""
    found = terms(data.stacks, "plain", Bends.of(data.stacks))
    matrix = np.column_stack([np.ones(len(data.rows)), *found.values()])
    matrix /= np.abs(matrix).max(0)
    return np.asarray(matrix @ np.linalg.lstsq(matrix[known], data.latency_ms[known], rcond=None)[0])


def as_markdown(folder: Path, seeds: Sequence[int], trials: dict[str, list[Trial]]) -> str:
    """The report."""
    now = datetime.now(timezone.utc)
    parts = [
        f"# Latency predictors, {now:%Y-%m-%d}",
        f"Ours and HAT's (its published training, on the same rows) on published latency datasets in HAT's format: "
        f"ten averaged features, 80 / 10 / 10 split, seeds {', '.join(map(str, seeds))}; errors on test rows, "
        f"none dropped. Each cell: median over the seeds [least – most].",
        f"- Fitted on: {device_name()}, commit {git_commit() or 'not known'}\n"
        f"- Reproduce with: `python -m benchmarks.predictors {folder.name} --seeds {len(seeds)}`",
        "## Error",
        _table(
            (
                "dataset",
                "ours, MAPE",
                "HAT's, MAPE",
                "additive least squares, MAPE",
                "aim",
                "seeds below HAT's",
                "ours, RMSE",
                "HAT's, RMSE",
            ),
            [_error_row(name, found) for name, found in trials.items()],
        ),
        "RMSE is ruled by rows that no predictor foresees (glitches of the Raspberry Pi, a stretch of slow rows of the "
        "Titan Xp), so that there the split's luck decides between the two.",
        "## How near to the noise",
        _table(
            (
                "dataset",
                "ours",
                "machine's state known",
                "neighbours: no predictor is below",
                "above that",
                "spread of runs alone",
            ),
            [_noise_row(name, found) for name, found in trials.items()],
        ),
        "**Machine's state known**: our predictions times how far off they were (median) for the "
        f"{NUM_NEIGHBOURS} training rows measured nearest in time. No predictor of architectures knows that; what it "
        "gains is drift of the machine. **Neighbours**: "
        + trials[next(iter(trials))][0].predictor.record.noise_floor_method
        + "; for normal noise the least error is 1.41 times that. **Spread of runs alone**: error of the mean of "
        "a row's kept runs; that it is so small says that rows differ by the machine's state, not by too few runs. "
        "Averaged features also hide the layers' own sizes; a dataset with genes has them.",
        "## What was fitted (first seed)",
        _table(
            ("dataset", "basis", "terms", "ridge", "share of the median fit"),
            [_model_row(name, found[0].predictor) for name, found in trials.items()],
        ),
        f"![Predicted against measured]({REPORT}.png)",
    ]
    return "\n\n".join(parts) + "\n"


def _error_row(name: str, found: list[Trial]) -> list[str]:
    records = [trial.predictor.record for trial in found]
    hats = [record.hat_mape for record in records if record.hat_mape is not None]
    hat_rmses = [record.hat_rmse_ms for record in records if record.hat_rmse_ms is not None]
    num_below = sum(record.mape < hat for record, hat in zip(records, hats, strict=True))
    aim = next((aim for part, aim in AIMS.items() if part in name), None)
    return [
        name,
        f"**{_percent([record.mape for record in records])}**",
        _percent(hats),
        _percent([trial.additive_mape for trial in found]),
        "none" if aim is None else f"{aim:.1%}",
        f"{num_below} of {len(found)}",
        _spread([record.rmse_ms for record in records], "{:.1f}", " ms"),
        _spread(hat_rmses, "{:.1f}", " ms"),
    ]


def _noise_row(name: str, found: list[Trial]) -> list[str]:
    ours = [trial.predictor.record.mape for trial in found]
    floors = [trial.predictor.record.noise_floor_mape for trial in found]
    return [
        name,
        _percent(ours),
        _percent([trial.state_known_mape for trial in found]),
        _percent(floors),
        f"{100 * (median(ours) - median(floors)):.2f} points",
        f"{median(trial.runs_mape for trial in found):.2%}",
    ]


def _model_row(name: str, predictor: LatencyPredictor) -> list[str]:
    model = predictor.model
    return [name, model.basis, str(len(model.terms)), f"{model.ridge:g}", f"{model.median_share:g}"]


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heading, ["---", *["--:"] * (len(heading) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _percent(fractions: Sequence[float]) -> str:
    return _spread([100 * fraction for fraction in fractions], "{:.2f}", " %")


def _spread(values: Sequence[float], form: str, unit: str) -> str:
    if not values:
        return "–"
    return f"{form.format(median(values))}{unit} [{form.format(min(values))} – {form.format(max(values))}]"


def draw(trials: dict[str, list[Trial]], path: Path) -> None:
    """Predicted against measured for the test rows of the first seed, a panel per dataset."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    num_columns = 2
    num_rows = math.ceil(len(trials) / num_columns)
    figure, panels = plt.subplots(num_rows, num_columns, figsize=(8, 3.6 * num_rows), squeeze=False)
    for panel in panels.flat[len(trials) :]:
        panel.set_axis_off()
    for panel, (name, found) in zip(panels.flat, trials.items(), strict=False):
        trial = found[0]
        ends = [float(trial.measured_ms.min()), float(trial.measured_ms.max())]
        panel.plot(ends, ends, color="0.6", linewidth=1)
        panel.scatter(trial.measured_ms, trial.predicted_ms, s=7, alpha=0.6)
        panel.set_title(f"{name}: MAPE {trial.predictor.record.mape:.1%}", fontsize=9)
        panel.set_xlabel("measured (ms)", fontsize=8)
        panel.set_ylabel("predicted (ms)", fontsize=8)
        panel.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main(arguments: Sequence[str], tell: Callable[[str], None]) -> int:
    """Run; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.predictors", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder of latency datasets (*.csv)")
    parser.add_argument("--seeds", type=int, default=5, help="so many splits, seeds 0, 1, ... (5)")
    parser.add_argument("--jobs", type=int, default=1, help="datasets at a time, each one thread (1)")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs/results", help="folder of the report (docs/results)"
    )
    asked = parser.parse_args(arguments)
    paths = sorted(asked.folder.glob("*.csv"))
    if not paths or asked.seeds < 1:
        parser.error(f"nothing to do: {asked.folder} has {len(paths)} CSV files, --seeds is {asked.seeds}")
    trials: dict[str, list[Trial]] = {path.stem: [] for path in paths}
    try:
        with ProcessPoolExecutor(asked.jobs) as pool:
            for seed in range(asked.seeds):
                for path, trial in zip(paths, pool.map(try_out, paths, repeat(seed)), strict=True):
                    trials[path.stem].append(trial)
                    record = trial.predictor.record
                    tell(f"{path.stem}, seed {seed}: {record.mape:.2%}, HAT's {record.hat_mape:.2%}")
                # After every seed, so that a run that is cut short leaves what it found.
                report = asked.out / f"{REPORT}.md"
                report.write_text(as_markdown(asked.folder, range(seed + 1), trials), encoding="utf-8")
                draw(trials, asked.out / f"{REPORT}.png")
    except DynhatError as error:
        tell(f"benchmarks.predictors: error: {error}")
        return error.exit_code
    tell(f"wrote {report}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], lambda text: print(text, file=sys.stderr, flush=True)))
