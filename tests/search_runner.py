"""A search as a process of its own, with made-up latencies: to be interrupted, or started by `torchrun`."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.offline.candidates import Rung
from dynhat_runtime.offline.loss_cache import MeasuredLoss
from dynhat_runtime.offline.pareto_search import ParetoOptions
from dynhat_runtime.offline.search import SearchOptions, search
from dynhat_runtime.offline.search_losses import LossTask
from dynhat_runtime.offline.search_result import SearchResult
from tests.search_fakes import AdditivePredictor

FEW = ParetoOptions(
    num_evaluations=40,
    initial_size=16,
    batch_size=12,
    num_surrogate_generations=3,
    surrogate_population=16,
    num_promoted=8,
)
OPTIONS = SearchOptions(num_subset_sentences=8, pareto=FEW)


def run_search(
    bundle: Path, dev: Path, run_dir: Path, options: SearchOptions = OPTIONS, device: str = "made up"
) -> SearchResult | None:
    """Search a bundle of the toy space."""
    return search(
        Bundle.open(bundle),
        AdditivePredictor(),
        predictor_sha256="0" * 64,
        device=device,
        dev=dev,
        run_dir=run_dir,
        options=options,
    )


def main(settings: dict[str, str]) -> None:
    """Search with every measurement taking a moment longer."""
    measure = LossTask.measure

    def slowly(task: LossTask, config: SubTransformerConfig, rung: Rung) -> MeasuredLoss:
        time.sleep(float(settings["pause_s"]))
        return measure(task, config, rung)

    LossTask.measure = slowly  # type: ignore[method-assign]  # this process does nothing else
    run_search(Path(settings["bundle"]), Path(settings["dev"]), Path(settings["run_dir"]))


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]))
    except KeyboardInterrupt:
        sys.exit(130)
