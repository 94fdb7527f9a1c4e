"""Search methods at equal numbers of evaluations: random, HAT's under one and under several constraints, and ours.

    python -m benchmarks.search --dev DEV.tsv.gz --predictor PREDICTOR.json

All arms share one cache of losses, but each is charged for all it asks. Writes a dated report with a plot.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.entry import INTERRUPTED, command_of
from benchmarks.report import ROOT, Environment
from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.errors import DynhatError
from dynhat_runtime.model.checkpoint import Bundle, shipped_bundle_path
from dynhat_runtime.offline.candidates import (
    Candidate,
    PredictsLatency,
    Rung,
    fastest,
    measured,
    pareto_front,
    predicted_ms,
)
from dynhat_runtime.offline.evolution import EvolutionOptions, hat_search, random_search
from dynhat_runtime.offline.loss_cache import LossCache
from dynhat_runtime.offline.pareto_search import ParetoOptions, hypervolume, pareto_search, to_promote
from dynhat_runtime.offline.search import DEFAULT_SUBSET_SENTENCES
from dynhat_runtime.offline.search_losses import LossEvaluator, LossLedger, LossTask
from dynhat_runtime.operating_point import OperatingPointTable

HAT = EvolutionOptions()
FEWEST_ITERATIONS = 5
NUM_CONSTRAINTS = 5
CURVE_POINTS = 60
REPORT, PLOT = "search-comparison.md", "search-comparison.png"


class TablePredictor:
    """A stand-in where no predictor is given: what a point costs by its decoder layers and weights.

    Fitted to the few points of the bundle's own table, alone on the device: good enough to try this out with.
    """

    def __init__(self, table: OperatingPointTable, space: DesignSpace) -> None:
        from scipy.optimize import nnls

        self.space = space
        times_ms = [
            min(point.latencies, key=lambda row: (row.num_busy_neighbours, -row.num_cpus)).total_ms
            for point in table.points
        ]
        self.weights, _ = nnls(self._features([point.config for point in table.points]), np.array(times_ms))

    def predict_ms(self, configs: Sequence[SubTransformerConfig]) -> npt.NDArray[np.float64]:
        """Milliseconds of each architecture."""
        times_ms: npt.NDArray[np.float64] = self._features(configs) @ self.weights
        return times_ms

    def _features(self, configs: Sequence[SubTransformerConfig]) -> npt.NDArray[np.float64]:
        return np.array(
            [
                (1.0, one.num_decoder_layers, self.space.num_parameters(one) / 1e6, sum(one.cross_attention_spans) / 10)
                for one in configs
            ]
        )  # fmt: skip


class _TimedLosses:
    """A ledger that also says how long its caller waited for it."""

    def __init__(self, ledger: LossLedger) -> None:
        self.ledger = ledger
        self.waited_s = 0.0

    def losses(self, configs: Sequence[SubTransformerConfig], rung: Rung) -> list[float]:
        began = time.perf_counter()
        try:
            return self.ledger.losses(configs, rung)
        finally:
            self.waited_s += time.perf_counter() - began


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of one arm.

    Attributes:
        evaluated: In order, losses on the subset.
        promoted: Losses on the whole dev set.
        subset_s: Seconds that measuring the subset losses took, cached or not; all_s likewise.
        overhead_s: Seconds of the method itself.
    """

    evaluated: list[Candidate]
    promoted: list[Candidate]
    num_distinct: int
    subset_s: float
    all_s: float
    overhead_s: float


Arm = Callable[[_TimedLosses, int], tuple[list[Candidate], list[Candidate] | None]]
"""Losses and seed in; what was evaluated out, and what the arm measured on the whole dev set, if it does."""


def hat_sizes(num_evaluations: int) -> EvolutionOptions:
    """HAT's sizes with as many iterations as the evaluations allow, smaller populations where they allow few.

    The first population takes what the iterations leave, so that the number is met exactly.
    """
    children = HAT.mutation_size + HAT.crossover_size
    scale = min(1.0, num_evaluations / (HAT.population_size + (FEWEST_ITERATIONS - 1) * children))
    mutations = max(1, round(HAT.mutation_size * scale))
    crossovers = max(1, round(HAT.crossover_size * scale))
    population = max(2, round(HAT.population_size * scale))
    iterations = max(1, 1 + (num_evaluations - population) // (mutations + crossovers))
    return replace(
        HAT,
        population_size=num_evaluations - (iterations - 1) * (mutations + crossovers),
        parent_size=max(2, round(HAT.parent_size * scale)),
        mutation_size=mutations,
        crossover_size=crossovers,
        num_iterations=iterations,
    )


def arms(
    space: DesignSpace, predictor: PredictsLatency, num_evaluations: int, num_promoted: int
) -> dict[str, Arm]:
    """The methods by name."""
    _, least_ms = fastest(space, predictor)
    most_ms = predicted_ms(predictor, [space.largest()])[0]
    constraints_ms = np.linspace(least_ms, most_ms, NUM_CONSTRAINTS + 1)[1:].tolist()
    middle_ms = (least_ms + most_ms) / 2
    share, rest = divmod(num_evaluations, NUM_CONSTRAINTS)

    def by_chance(losses: _TimedLosses, seed: int) -> tuple[list[Candidate], None]:
        return random_search(space, losses, predictor, num_evaluations, seed), None

    def hat_once(losses: _TimedLosses, seed: int) -> tuple[list[Candidate], None]:
        return hat_search(space, losses, predictor, middle_ms, hat_sizes(num_evaluations), seed), None

    def hat_often(losses: _TimedLosses, seed: int) -> tuple[list[Candidate], None]:
        evaluated: list[Candidate] = []
        for i, constraint_ms in enumerate(constraints_ms):
            sizes = hat_sizes(share + (rest if i == 0 else 0))
            evaluated += hat_search(space, losses, predictor, constraint_ms, sizes, seed + 1000 * i)
        return evaluated, None

    def ours(has_seeds: bool) -> Arm:
        options = ParetoOptions(
            num_evaluations=num_evaluations, has_ladder_seeds=has_seeds, num_promoted=num_promoted
        )

        def run(losses: _TimedLosses, seed: int) -> tuple[list[Candidate], list[Candidate]]:
            found = pareto_search(space, losses, predictor, options, seed)
            return found.evaluated, found.promoted

        return run

    return {
        "random": by_chance,
        f"HAT, one constraint ({middle_ms:.3g} ms)": hat_once,
        f"HAT, {NUM_CONSTRAINTS} constraints ({', '.join(f'{ms:.3g}' for ms in constraints_ms)} ms)": hat_often,
        "ours, no ladder seeds": ours(False),
        "ours": ours(True),
    }


def trial(
    arm: Arm, evaluator: LossEvaluator, predictor: PredictsLatency, seed: int, num_promoted: int
) -> Trial:
    """Run one arm once."""
    ledger = LossLedger(evaluator)
    losses = _TimedLosses(ledger)
    began = time.perf_counter()
    evaluated, promoted = arm(losses, seed)
    if promoted is None:
        distinct = list({one.config: one for one in evaluated}.values())
        best = to_promote(distinct, num_promoted)
        promoted = measured([one.config for one in best], losses, predictor, "all")
    overhead_s = time.perf_counter() - began - losses.waited_s
    seconds = ledger.seconds
    return Trial(
        evaluated, promoted, ledger.num_measured["subset"], seconds["subset"], seconds["all"], overhead_s
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """All trials by arm, and the reference point that every hypervolume is taken from: the worst of all."""

    trials: dict[str, list[Trial]]
    reference_ms: float
    reference_loss: float
    reference_loss_all: float
    """Likewise for losses on the whole dev set."""

    @classmethod
    def of(cls, trials: dict[str, list[Trial]]) -> Comparison:
        """Find the worst latency and losses."""
        every = [one for several in trials.values() for one in several]
        return cls(
            trials,
            max(one.predicted_ms for found in every for one in found.evaluated),
            max(one.loss for found in every for one in found.evaluated),
            max(one.loss for found in every for one in found.promoted),
        )

    def curve(self, found: Trial) -> tuple[list[int], list[float]]:
        """Hypervolume after so many evaluations."""
        total = len(found.evaluated)
        counts = sorted({max(1, round(total * i / CURVE_POINTS)) for i in range(1, CURVE_POINTS + 1)})
        return counts, [self.subset_volume(found.evaluated[:count]) for count in counts]

    def subset_volume(self, candidates: Sequence[Candidate]) -> float:
        """By losses on the subset, ms x nats."""
        return hypervolume(candidates, self.reference_ms, self.reference_loss)

    def full_volume(self, found: Trial) -> float:
        """Of the final front by losses on the whole dev set, ms x nats."""
        return hypervolume(found.promoted, self.reference_ms, self.reference_loss_all)


def draw_plot(comparison: Comparison, path: Path) -> None:
    """Final fronts of the first seed on the left, hypervolume against evaluations on the right."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(13, 5))
    for color, (name, several) in enumerate(comparison.trials.items()):
        front = pareto_front(several[0].promoted)
        style: dict[str, Any] = {"color": f"C{color}", "label": name}
        left.plot(
            [one.predicted_ms for one in front], [one.loss for one in front], marker=".", lw=0.8, **style
        )
        for i, found in enumerate(several):
            counts, volumes = comparison.curve(found)
            right.plot(counts, volumes, lw=1.2, color=f"C{color}", label=name if i == 0 else None)
    left.set(xlabel="predicted latency (ms)", ylabel="dev loss, whole dev set (nats per token)")
    right.set(xlabel="evaluations", ylabel="hypervolume, subset losses (ms x nats)")
    left.legend(fontsize=8)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def as_markdown(
    comparison: Comparison, environment: Environment, asked: argparse.Namespace, command: str
) -> str:
    """The report."""
    predictor = (
        "a stand-in fitted to the bundle's own table" if asked.predictor is None else asked.predictor.name
    )
    facts = (
        f"Searched on {environment.device} ({environment.machine}), {environment.num_usable_cpus} CPUs usable, load "
        f"before {environment.load_average_1min:.2f}, {asked.num_processes} measuring processes; "
        f"torch {environment.torch_version}, commit {environment.git_commit or 'not known'}",
        f"Bundle: {environment.bundle}, weights sha256 {environment.weights_sha256[:12]}",
        f"Dev set: {asked.dev.name}, of it {asked.subset_sentences} sentences as the subset",
        f"Predictor: {predictor}",
        f"Seeds: {asked.seeds}; mean (least – most) over them",
    )
    explanation = (
        f"Hypervolume in ms x nats, below and left of the worst latency and loss that any method met "
        f"({comparison.reference_ms:.1f} ms, {comparison.reference_loss:.4f} nats; on the whole dev set "
        f"{comparison.reference_loss_all:.4f}). On the subset it counts everything a method evaluated, HAT's whole "
        f"populations too, though HAT returns one architecture per constraint. On the whole dev set it counts "
        f"{asked.promoted} promoted candidates: a method's front by subset loss and those nearest to it. Measuring "
        f"is in wall seconds, the sum over processes, charged in full where another method had it measured already. "
        f"A child of HAT's that was met before counts as an evaluation, as in HAT."
    )
    parts = [
        f"# Search methods compared, {environment.measured_at[:10]}",
        "\n".join(f"- {fact}" for fact in facts),
        f"Reproduce with:\n\n    {command}",
        "\n".join(_table(comparison)),
        explanation,
        f"![fronts and hypervolume]({PLOT})",
    ]
    return "\n\n".join(parts) + "\n"


def _table(comparison: Comparison) -> list[str]:
    """One row per method."""
    rows = [
        "| method | evaluations (distinct) | hypervolume, subset | of ours | hypervolume, whole dev set | front | "
        "measuring, subset | measuring, whole | the method itself |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    best = _mean(comparison.subset_volume(found.evaluated) for found in comparison.trials["ours"])
    for name, several in comparison.trials.items():
        volumes = [comparison.subset_volume(found.evaluated) for found in several]
        cells = (
            name,
            f"{len(several[0].evaluated)} ({_mean(found.num_distinct for found in several):.0f})",
            _spread(volumes),
            f"{_mean(volumes) / best:.1%}",
            _spread([comparison.full_volume(found) for found in several]),
            f"{_mean(len(pareto_front(found.promoted)) for found in several):.0f}",
            f"{_mean(found.subset_s for found in several):.0f} s",
            f"{_mean(found.all_s for found in several):.0f} s",
            f"{_mean(found.overhead_s for found in several):.1f} s",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def _spread(values: Sequence[float]) -> str:
    mean = f"{_mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} – {max(values):.3f})"


def run(asked: argparse.Namespace, command: str) -> None:
    """Run every arm with every seed and write the report."""
    bundle = Bundle.open(asked.bundle)
    environment = Environment.read(bundle.manifest.name, bundle.weights_sha256)
    space = bundle.design_space
    predictor: PredictsLatency
    if asked.predictor is None:
        predictor = TablePredictor(bundle.table(), space)
    else:
        from dynhat_runtime.offline.search_command import load_predictor

        predictor, _ = load_predictor(asked.predictor)
    task = LossTask.of_bundle(bundle, asked.dev, asked.subset_sentences)
    asked.cache.mkdir(parents=True, exist_ok=True)
    trials: dict[str, list[Trial]] = {}
    with LossEvaluator(task, LossCache(asked.cache / "losses.jsonl"), asked.num_processes) as evaluator:
        for seed in range(1, asked.seeds + 1):
            for name, arm in arms(space, predictor, asked.evaluations, asked.promoted).items():
                began = time.perf_counter()
                trials.setdefault(name, []).append(trial(arm, evaluator, predictor, seed, asked.promoted))
                print(
                    f"seed {seed}, {name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True
                )
    comparison = Comparison.of(trials)
    draw_plot(comparison, asked.out / PLOT)
    report = as_markdown(comparison, environment, asked, command)
    (asked.out / REPORT).write_text(report, encoding="utf-8")
    print(report)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--dev", type=Path, required=True, help="dev set (.tsv.gz)")
    parser.add_argument("--predictor", type=Path, help="latency predictor; without it a stand-in")
    parser.add_argument("--bundle", type=Path, default=shipped_bundle_path(), help="bundle folder")
    parser.add_argument("--evaluations", type=int, default=HAT.num_evaluations, help="of every method")
    parser.add_argument("--seeds", type=int, default=1, help="runs of every method")
    parser.add_argument("--num-processes", type=int, default=1, help="that measure losses")
    parser.add_argument("--subset-sentences", type=int, default=DEFAULT_SUBSET_SENTENCES)
    parser.add_argument("--promoted", type=int, default=64, help="candidates measured on the whole dev set")
    parser.add_argument("--cache", type=Path, default=Path("runs/search-comparison"), help="folder of losses")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/results", help="folder of the report")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Compare; the exit status."""
    asked = parse(arguments)
    try:
        run(asked, command_of("search", arguments))
    except DynhatError as error:
        print(f"search comparison: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("search comparison: stopped; losses are kept, the same command goes on", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
