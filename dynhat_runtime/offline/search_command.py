"""What `dynhat search` does with its options: open the files, search, lay out the front. Searches nothing itself."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from dynhat_runtime.errors import SearchError, SettingsError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.monitor.identity import device_name
from dynhat_runtime.offline.import_hat import search_from_hat_yaml
from dynhat_runtime.offline.pareto_search import ParetoOptions
from dynhat_runtime.offline.search import Predictor, SearchOptions, search
from dynhat_runtime.offline.search_result import Method, SearchResult


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """The command's options; None is what was not given."""

    bundle: Path
    predictor: Path
    dev: Path
    run_dir: Path
    method: str
    latency_constraint_ms: float | None
    num_evaluations: int | None
    seed: int
    num_processes: int
    num_subset_sentences: int
    settings: Path | None
    front_size: int | None
    has_ladder_seeds: bool
    device: str | None

    def options(self) -> SearchOptions:
        """What to search.

        Raises:
            SettingsError: There is no such method, or HAT's search file is broken.
            SearchError: Options that contradict each other.
        """
        options = SearchOptions(
            method=_method(self.method),
            latency_constraint_ms=self.latency_constraint_ms,
            seed=self.seed,
            num_processes=self.num_processes,
            num_subset_sentences=self.num_subset_sentences,
            front_size=self.front_size,
            pareto=ParetoOptions(has_ladder_seeds=self.has_ladder_seeds),
        )
        if self.settings is not None:
            options = options.with_hat_settings(search_from_hat_yaml(self.settings))
        return options if self.num_evaluations is None else options.with_evaluations(self.num_evaluations)


def search_bundle(request: SearchRequest) -> SearchResult | None:
    """Run the search; None in processes of `torchrun` other than the first.

    Raises:
        DynhatError: What is wrong with the options, the bundle, the predictor, the dev set or the run folder.
    """
    options = request.options()
    predictor, sha256 = load_predictor(request.predictor)
    return search(
        Bundle.open(request.bundle),
        predictor,
        predictor_sha256=sha256,
        device=request.device or device_name(),
        dev=request.dev,
        run_dir=request.run_dir,
        options=options,
    )


def load_predictor(path: Path) -> tuple[Predictor, str]:
    """A latency predictor and its file's sha256.

    Raises:
        LatencyDataError: It is broken.
        SearchError: It cannot be read.
    """
    try:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise SearchError(
            f"{path}: cannot be read ({error.strerror}): give --predictor a latency predictor's file"
        ) from error
    from dynhat_runtime.offline.latency_predictor import (
        LatencyPredictor,
    )

    predictor: Predictor = LatencyPredictor.load(path)
    return predictor, sha256


def table_lines(result: SearchResult) -> list[str]:
    """The front for people, and what it took."""
    rows = [f"{'predicted':>12}  {'dev loss':>8}  {'decoder layers':>14}  encoder x decoder width"]
    rows += [
        f"{point.predicted_ms:9.2f} ms  {point.dev_loss:8.4f}  {point.num_decoder_layers:14d}  "
        f"{point.config.encoder_embed_dim} x {point.config.decoder_embed_dim}"
        for point in result.front
    ]
    return [
        *rows,
        f"{len(result.front)} points on {result.device}; {result.num_evaluations} architectures on "
        f"{result.num_subset_sentences} sentences, {result.num_full_evaluations} on all of {result.dev_set}; "
        f"measuring took {result.evaluation_s:.0f} s",
    ]


def _method(name: str) -> Method:
    for method in get_args(Method):
        if method == name:
            return method  # type: ignore[no-any-return]  # get_args forgets the types
    raise SettingsError(f"method {name!r} is unknown: choose one of {', '.join(get_args(Method))}")
