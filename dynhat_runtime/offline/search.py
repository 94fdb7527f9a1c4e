"""`dynhat search`: bundle, predictor and dev set in, the front of loss against predicted latency out.

A run folder keeps every measured loss. The methods are deterministic, so the same command after an interruption
repeats its steps from what is kept, in seconds, and goes on from there: no state of a method is saved.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.errors import SearchError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.offline.candidates import (
    Candidate,
    MeasuresLoss,
    PredictsLatency,
    Rung,
    measured,
    pareto_front,
    thinned,
)
from dynhat_runtime.offline.evolution import EvolutionOptions, hat_search, random_search
from dynhat_runtime.offline.figure_cache import file_sha256
from dynhat_runtime.offline.import_hat import HatSearchSettings
from dynhat_runtime.offline.loss_cache import LossCache, MeasuredLoss
from dynhat_runtime.offline.pareto_search import ParetoFindings, ParetoOptions, pareto_search, to_promote
from dynhat_runtime.offline.search_losses import LossEvaluator, LossLedger, LossTask
from dynhat_runtime.offline.search_result import EvaluatedRow, FrontPoint, Method, SearchResult
from dynhat_runtime.offline.train import process_group

LOSSES, RESULT, IDENTITY = "losses.jsonl", "search.json", "belongs_to.json"
DEFAULT_SUBSET_SENTENCES = 256
"""Ranks architectures like 2,000 sentences do (`docs/decisions/0007-one-search-for-the-whole-front.md`)."""
NUM_LINES = 20
"""Progress lines where there is no terminal."""


class Predictor(PredictsLatency, Protocol):
    """A latency predictor that knows what it is for."""

    def check_for(self, design_space: DesignSpace, device: str) -> None:
        """Raise LatencyDataError unless it is for this space and device."""


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """What to search and how thoroughly.

    Attributes:
        latency_constraint_ms: Needed by HAT's method, a cap for the others.
        num_subset_sentences: Of the dev set, for the cheap losses.
        front_size: Most points of the front.
    """

    method: Method = "pareto"
    latency_constraint_ms: float | None = None
    seed: int = 1
    num_processes: int = 1
    num_subset_sentences: int = DEFAULT_SUBSET_SENTENCES
    front_size: int | None = None
    pareto: ParetoOptions = field(default_factory=ParetoOptions)
    evolution: EvolutionOptions = field(default_factory=EvolutionOptions)

    @property
    def num_evaluations(self) -> int:
        """Subset losses the method asks for."""
        return self.evolution.num_evaluations if self.method == "hat" else self.pareto.num_evaluations

    def with_evaluations(self, number: int) -> SearchOptions:
        """The same with another number of evaluations.

        Raises:
            SearchError: HAT's method, whose sizes say how many.
        """
        if self.method == "hat":
            raise SearchError(
                f"HAT's search evaluates {self.num_evaluations} by its sizes: change them with --settings"
            )
        return replace(self, pareto=replace(self.pareto, num_evaluations=number))

    def with_hat_settings(self, settings: HatSearchSettings) -> SearchOptions:
        """The same with the sizes, and the constraint unless one is given, of one of HAT's search files.

        Raises:
            SearchError: Another method, which has no use for them.
        """
        if self.method != "hat":
            raise SearchError(f"HAT's search settings do not fit method {self.method!r}: give --method hat")
        evolution = EvolutionOptions(
            population_size=settings.population_size,
            parent_size=settings.parent_size,
            mutation_size=settings.mutation_size,
            crossover_size=settings.crossover_size,
            mutation_probability=settings.mutation_prob,
            num_iterations=settings.evo_iter,
        )
        constraint_ms = self.latency_constraint_ms or settings.latency_constraint
        return replace(self, evolution=evolution, latency_constraint_ms=constraint_ms)


def search(
    bundle: Bundle,
    predictor: Predictor,
    *,
    predictor_sha256: str,
    device: str,
    dev: Path,
    run_dir: Path,
    options: SearchOptions,
) -> SearchResult | None:
    """Run a search to its end, or until SIGINT / SIGTERM; either way what was measured is kept.

    Args:
        device: The device that the front is for; `predictor_sha256`: of the predictor's file; `dev`: gzipped TSV.
        run_dir: Folder of this run; an interrupted run continues there.

    Returns:
        The result, also written to `search.json`; None in processes of `torchrun` other than the first.

    Raises:
        LatencyDataError: The predictor is for another device or design space.
        SearchError: The run folder belongs to something else, or the constraint cannot be met.
    """
    predictor.check_for(bundle.design_space, device)
    if options.method == "hat" and options.latency_constraint_ms is None:
        raise SearchError("HAT's search needs a latency constraint: give --latency-constraint-ms")
    began = time.perf_counter()
    task = LossTask.of_bundle(bundle, dev, options.num_subset_sentences)
    identity = _identity(bundle, dev, predictor_sha256)
    reporter = _Reporter(options.num_evaluations)
    evaluator = LossEvaluator(task, None, options.num_processes, reporter.heard)
    with _sigterm_as_ctrl_c(), evaluator, process_group(torch.device("cpu")) as (rank, _):
        if rank > 0:
            evaluator.serve()
            return None
        with evaluator.releasing():
            evaluator.cache = open_run_folder(run_dir, identity)
            ledger = LossLedger(evaluator)
            with reporter.showing(evaluator.cache):
                findings = find(bundle.design_space, ledger, predictor, options)
    space = bundle.design_space
    result = SearchResult(
        method=options.method,
        design_space=space.name,
        weights_sha256=bundle.weights_sha256,
        device=device,
        predictor_sha256=predictor_sha256,
        dev_set=dev.name,
        num_subset_sentences=options.num_subset_sentences,
        seed=options.seed,
        latency_constraint_ms=options.latency_constraint_ms,
        num_evaluations=ledger.num_measured["subset"],
        num_full_evaluations=ledger.num_measured["all"],
        evaluation_s=round(sum(ledger.seconds.values()), 3),
        elapsed_s=round(time.perf_counter() - began, 3),
        front=tuple(map(FrontPoint.of, final_front(findings, options))),
        evaluated=tuple(EvaluatedRow.of(one, space) for one in findings.evaluated),
    )
    result.save(run_dir / RESULT)
    return result


def final_front(findings: ParetoFindings, options: SearchOptions) -> list[Candidate]:
    """What the method returns: by HAT's the one of least loss, by the others the front, thinned if asked for."""
    if options.method == "hat":
        return [min(findings.promoted, key=lambda one: one.loss)]
    front = pareto_front(findings.promoted)
    return front if options.front_size is None else thinned(front, options.front_size)


def find(
    space: DesignSpace, losses: MeasuresLoss, predictor: PredictsLatency, options: SearchOptions
) -> ParetoFindings:
    """Run the method, and measure the best it found on the whole dev set.

    HAT's best are those of least loss, as many as it has parents; the others' are the front and nearest to it.
    """
    constraint_ms, seed = options.latency_constraint_ms, options.seed
    if options.method == "pareto":
        return pareto_search(space, losses, predictor, options.pareto, seed, constraint_ms)
    best: list[Candidate]
    if options.method == "hat":
        assert constraint_ms is not None, "checked before anything was loaded"
        evaluated = hat_search(space, losses, predictor, constraint_ms, options.evolution, seed)
        distinct = {one.config: one for one in evaluated}.values()
        best = sorted(distinct, key=lambda one: one.loss)[: options.evolution.parent_size]
    else:
        evaluated = random_search(
            space, losses, predictor, options.pareto.num_evaluations, seed, constraint_ms
        )
        best = to_promote(evaluated, options.pareto.num_promoted)
    return ParetoFindings(evaluated, measured([one.config for one in best], losses, predictor, "all"))


def _identity(bundle: Bundle, dev: Path, predictor_sha256: str) -> dict[str, str]:
    """What every loss and latency of a run folder belongs to."""
    return {
        "weights_sha256": bundle.weights_sha256,
        "dev_sha256": file_sha256(dev),
        "predictor_sha256": predictor_sha256,
    }


def open_run_folder(run_dir: Path, identity: dict[str, str]) -> LossCache:
    """The losses kept in a run folder, which is made unless it is there.

    Raises:
        SearchError: It cannot be written, or belongs to other weights, another dev set or predictor.
    """
    file = run_dir / IDENTITY
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text(json.dumps(identity, indent=1) + "\n", encoding="utf-8")
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SearchError(f"{run_dir}: cannot be used ({error.strerror}): give another --run-dir") from error
    except ValueError as error:
        raise SearchError(f"{file}: cannot be read: give another --run-dir") from error
    for key, value in identity.items():
        if not isinstance(found, dict) or found.get(key) != value:
            what = {"weights_sha256": "weights", "dev_sha256": "dev text"}.get(key, "latency predictor")
            raise SearchError(f"{run_dir} belongs to a search with another {what}: give another --run-dir")
    return LossCache(run_dir / LOSSES)


class _Reporter:
    """Progress with the best so far: a bar on a terminal, some lines elsewhere."""

    def __init__(self, num_evaluations: int) -> None:
        self.console = Console(stderr=True)
        self.total = num_evaluations
        self.best = float("inf")
        self.counted: dict[Rung, set[SubTransformerConfig]] = {"subset": set(), "all": set()}
        self.progress: Progress | None = None
        self.bar = TaskID(0)
        self.began = time.monotonic()

    @contextlib.contextmanager
    def showing(self, cache: LossCache) -> Iterator[None]:
        """Show progress while the context lasts; say how to go on when it is interrupted."""
        if len(cache):
            self.console.print(f"{len(cache)} losses are kept from before")
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.bar = progress.add_task("searching", total=self.total)
        self.progress, self.began = progress, time.monotonic()
        try:
            with progress:
                yield
        except KeyboardInterrupt:
            self.console.print(f"stopped with {len(cache)} losses kept: the same command goes on from there")
            raise

    def heard(self, config: SubTransformerConfig, rung: Rung, measured: MeasuredLoss) -> None:
        """Count one loss."""
        if config in self.counted[rung]:
            return
        self.counted[rung].add(config)
        num_done = len(self.counted[rung])
        self.best = min(self.best, measured.loss) if rung == "subset" else self.best
        text = f"least loss {self.best:.4f}" if rung == "subset" else "whole dev set"
        if self.progress is not None and self.console.is_terminal:
            self.progress.update(
                self.bar, completed=num_done, total=self.total if rung == "subset" else None, description=text
            )
        elif rung == "subset" and num_done % max(1, self.total // NUM_LINES) == 0:
            left_s = (time.monotonic() - self.began) / num_done * (self.total - num_done)
            self.console.print(f"evaluated {num_done}/{self.total}  {text}  ETA {left_s / 60:.0f} min")


@contextlib.contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """End on SIGTERM as on Ctrl-C."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
