"""`dynhat search` from bundle to result: methods, resuming, several processes, what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from dynhat_runtime.cli import app
from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.errors import LatencyDataError, SearchError
from dynhat_runtime.offline.candidates import Rung
from dynhat_runtime.offline.evolution import EvolutionOptions
from dynhat_runtime.offline.import_hat import HatSearchSettings
from dynhat_runtime.offline.loss_cache import MeasuredLoss
from dynhat_runtime.offline.search import LOSSES, RESULT, SearchOptions
from dynhat_runtime.offline.search_losses import LossTask
from dynhat_runtime.offline.search_result import SearchResult
from dynhat_runtime.offline.searched_points import read_searched_points
from tests.search_fakes import AdditivePredictor
from tests.search_runner import OPTIONS, run_search
from tests.toy_bundle import write_toy_bundle
from tests.toy_text import toy_pairs, write_pairs

ROOT = Path(__file__).resolve().parent.parent
HAT_FEW = EvolutionOptions(
    population_size=10, parent_size=4, mutation_size=4, crossover_size=4, num_iterations=4
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights."""
    return write_toy_bundle(tmp_path_factory.mktemp("bundle")).path


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pairs."""
    return write_pairs(tmp_path_factory.mktemp("dev") / "dev.tsv.gz", toy_pairs(20, seed=2))


@pytest.fixture(scope="module")
def whole(bundle: Path, dev: Path, tmp_path_factory: pytest.TempPathFactory) -> SearchResult:
    """A search that nobody interrupted, by one process."""
    result = run_search(bundle, dev, tmp_path_factory.mktemp("whole"))
    assert result is not None
    return result


def _without_times(result: SearchResult) -> SearchResult:
    return result.model_copy(update={"evaluation_s": 0.0, "elapsed_s": 0.0})


def _rows(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / LOSSES).read_text().splitlines()]


# --- what comes out ---


def test_result_says_what_decided_it(whole: SearchResult, bundle: Path) -> None:
    """Method, space, weights, device, dev set, counts; the front ascends in latency and descends in loss."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert whole.weights_sha256 == manifest["files"]["super_transformer.safetensors"]["sha256"]
    assert (whole.method, whole.design_space, whole.device) == ("pareto", "toy", "made up")
    assert (whole.dev_set, whole.num_subset_sentences, whole.seed) == ("dev.tsv.gz", 8, 1)
    assert (whole.num_evaluations, whole.num_full_evaluations) == (40, 8)
    assert len({row.gene for row in whole.evaluated}) == 40
    times_ms = [point.predicted_ms for point in whole.front]
    losses = [point.dev_loss for point in whole.front]
    assert times_ms == sorted(times_ms)
    assert losses == sorted(losses, reverse=True)
    assert all(point.num_decoder_layers == point.config.num_decoder_layers for point in whole.front)
    assert whole.evaluation_s > 0


def test_result_is_kept(bundle: Path, dev: Path, tmp_path: Path) -> None:
    """`search.json` is the result, and a file of searched points for what comes after the search."""
    result = run_search(bundle, dev, tmp_path)
    assert result is not None
    assert SearchResult.load(tmp_path / RESULT) == result
    searched = read_searched_points(tmp_path / RESULT)
    assert searched.design_space == "toy"
    assert [(one.config, one.predicted_ms) for one in searched.points] == [
        (point.config, point.predicted_ms) for point in result.front
    ]


def test_broken_result_is_refused(tmp_path: Path, whole: SearchResult) -> None:
    """A missing file, and one with a field that is wrong, are named."""
    with pytest.raises(SearchError, match=r"search\.json: cannot be read .* make one with 'dynhat search'"):
        SearchResult.load(tmp_path / RESULT)
    fields = whole.model_dump()
    (tmp_path / RESULT).write_text(json.dumps({**fields, "device": 3}))
    with pytest.raises(SearchError, match=r"search\.json: device: .* make it again"):
        SearchResult.load(tmp_path / RESULT)


def test_front_size_thins_the_front(bundle: Path, dev: Path, tmp_path: Path, whole: SearchResult) -> None:
    """At most so many points, the ends among them."""
    result = run_search(bundle, dev, tmp_path, replace(OPTIONS, front_size=2))
    assert result is not None
    assert len(whole.front) > 2
    assert result.front == (whole.front[0], whole.front[-1])


def test_hats_method_gives_one_architecture(bundle: Path, dev: Path, tmp_path: Path) -> None:
    """The least loss on the whole dev set within the constraint."""
    options = replace(OPTIONS, method="hat", latency_constraint_ms=8.0, evolution=HAT_FEW)
    result = run_search(bundle, dev, tmp_path, options)
    assert result is not None
    assert len(result.evaluated) == HAT_FEW.num_evaluations == 34
    assert len(result.front) == 1
    assert result.front[0].predicted_ms <= 8.0
    everything = [row["loss"] for row in _rows(tmp_path) if row["rung"] == "all"]
    assert result.front[0].dev_loss == min(everything)


def test_random_method(bundle: Path, dev: Path, tmp_path: Path) -> None:
    """As many distinct architectures as asked for, and their front."""
    result = run_search(bundle, dev, tmp_path, replace(OPTIONS, method="random").with_evaluations(20))
    assert result is not None
    assert (result.num_evaluations, result.num_full_evaluations) == (20, 8)


# --- interruptions and processes ---


def test_interrupted_search_goes_on(
    bundle: Path, dev: Path, tmp_path: Path, whole: SearchResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C amid measuring loses nothing measured: the same command ends as an uninterrupted one, none done twice."""
    measure, calls = LossTask.measure, 0

    def interrupted(task: LossTask, config: SubTransformerConfig, rung: Rung) -> MeasuredLoss:
        nonlocal calls
        calls += 1
        if calls == 23:
            raise KeyboardInterrupt
        return measure(task, config, rung)

    monkeypatch.setattr(LossTask, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_search(bundle, dev, tmp_path)
    assert len(_rows(tmp_path)) == 22
    result = run_search(bundle, dev, tmp_path)
    assert result is not None
    assert _without_times(result) == _without_times(whole)
    assert calls == 40 + 8 + 1
    keys = [(row["rung"], tuple(row["gene"])) for row in _rows(tmp_path)]
    assert len(keys) == len(set(keys)) == 48


def test_terminated_process_leaves_what_it_measured(
    bundle: Path, dev: Path, tmp_path: Path, whole: SearchResult
) -> None:
    """SIGTERM ends a searching process as Ctrl-C does, with a hint; going on gives the uninterrupted result."""
    run_dir = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.search_runner", _settings(bundle, dev, run_dir, pause_s=0.1)],
        stderr=subprocess.PIPE, text=True, cwd=ROOT, env=_environment(),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (run_dir / LOSSES).exists() or len((run_dir / LOSSES).read_text().splitlines()) < 5:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "losses kept: the same command goes on from there" in said
    assert 5 <= len(_rows(run_dir)) < 48
    result = run_search(bundle, dev, run_dir)
    assert result is not None
    assert _without_times(result) == _without_times(whole)


def test_two_processes_find_what_one_does(
    bundle: Path, dev: Path, tmp_path: Path, whole: SearchResult
) -> None:
    """The result does not depend on the number of processes."""
    result = run_search(bundle, dev, tmp_path, replace(OPTIONS, num_processes=2))
    assert result is not None
    assert _without_times(result) == _without_times(whole)


def test_torchrun_finds_what_one_process_does(
    bundle: Path, dev: Path, tmp_path: Path, whole: SearchResult
) -> None:
    """Two processes of `torchrun` share the measuring; the first alone writes, and the result is the same."""
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
            "-m", "tests.search_runner", _settings(bundle, dev, tmp_path / "run", pause_s=0),
        ],
        capture_output=True, text=True, cwd=ROOT, env=_environment(), timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert _without_times(SearchResult.load(tmp_path / "run" / RESULT)) == _without_times(whole)
    assert len(_rows(tmp_path / "run")) == 48


def _settings(bundle: Path, dev: Path, run_dir: Path, pause_s: float) -> str:
    return json.dumps(
        {"bundle": str(bundle), "dev": str(dev), "run_dir": str(run_dir), "pause_s": str(pause_s)}
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


# --- what is refused ---


def test_predictor_of_another_device(bundle: Path, dev: Path, tmp_path: Path) -> None:
    """A predictor for another device is refused before anything is measured."""
    with pytest.raises(LatencyDataError, match="for device 'made up', not 'toaster'"):
        run_search(bundle, dev, tmp_path / "run", device="toaster")
    assert not (tmp_path / "run").exists()


def test_run_folder_of_something_else(bundle: Path, dev: Path, tmp_path: Path) -> None:
    """A folder with losses on other dev text is refused, naming what differs."""
    options = replace(OPTIONS, method="random").with_evaluations(2)
    run_search(bundle, dev, tmp_path / "run", options)
    other = write_pairs(tmp_path / "other.tsv.gz", toy_pairs(20, seed=9))
    with pytest.raises(
        SearchError, match="belongs to a search with another dev text: give another --run-dir"
    ):
        run_search(bundle, other, tmp_path / "run", options)


def test_unreachable_constraint(bundle: Path, dev: Path, tmp_path: Path) -> None:
    """A cap below the fastest prediction is refused by every method with the least that can be met."""
    for method in ("pareto", "hat", "random"):
        options = replace(OPTIONS, method=method, latency_constraint_ms=0.5)
        with pytest.raises(SearchError, match=r"0\.5 ms cannot be met: .* give at least"):
            run_search(bundle, dev, tmp_path, options)


def test_hat_needs_a_constraint(bundle: Path, dev: Path, tmp_path: Path) -> None:
    """HAT's method without one is refused."""
    with pytest.raises(SearchError, match="needs a latency constraint: give --latency-constraint-ms"):
        run_search(bundle, dev, tmp_path, replace(OPTIONS, method="hat"))


def test_hats_search_file_fills_the_options() -> None:
    """Its sizes and constraint are taken; a constraint of the command line wins; other methods refuse it."""
    settings = HatSearchSettings(latency_constraint=200, evo_iter=3, population_size=50, mutation_prob=0.2)
    options = SearchOptions(method="hat").with_hat_settings(settings)
    assert options.latency_constraint_ms == 200
    assert (options.evolution.num_iterations, options.evolution.mutation_probability) == (3, 0.2)
    assert options.num_evaluations == 50 + 2 * 100
    given = SearchOptions(method="hat", latency_constraint_ms=150.0).with_hat_settings(settings)
    assert given.latency_constraint_ms == 150
    with pytest.raises(SearchError, match="do not fit method 'pareto'"):
        SearchOptions().with_hat_settings(settings)
    with pytest.raises(SearchError, match="evaluates 250 by its sizes"):
        options.with_evaluations(10)


# --- the command ---


@pytest.fixture
def predictor_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that loads as made-up latencies."""

    class Loaded(AdditivePredictor):
        @classmethod
        def load(cls, path: Path) -> Loaded:
            return cls()

    module = types.ModuleType("dynhat_runtime.offline.latency_predictor")
    module.LatencyPredictor = Loaded  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    (tmp_path / "predictor.json").write_text("{}")
    return tmp_path / "predictor.json"


def _command(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["search", *map(str, arguments)])


def test_command_prints_the_front(bundle: Path, dev: Path, tmp_path: Path, predictor_file: Path) -> None:
    """As a table, or as JSON, of the same search."""
    asked = (
        "--predictor", predictor_file, "--dev", dev, "--run-dir", tmp_path / "run", "--bundle", bundle,
        "--method", "random", "--evaluations", "12", "--subset-sentences", "6", "--device", "made up",
    )  # fmt: skip
    done = _command(*asked)
    assert done.exit_code == 0, done.output
    assert "predicted" in done.stdout
    assert "points on made up; 12 architectures on 6 sentences" in done.stdout
    done = _command(*asked, "--json")
    assert (
        json.loads(done.stdout)["front"]
        == SearchResult.load(tmp_path / "run" / RESULT).model_dump(mode="json")["front"]
    )


def test_command_refuses_in_one_line(bundle: Path, dev: Path, tmp_path: Path, predictor_file: Path) -> None:
    """An unknown method, a missing predictor and another device end with one line and status 2."""
    asked = ("--dev", dev, "--run-dir", tmp_path / "run", "--bundle", bundle)
    for more, message in (
        (
            ("--predictor", predictor_file, "--method", "magic"),
            "method 'magic' is unknown: choose one of pareto",
        ),
        (("--predictor", tmp_path / "absent.json"), "absent.json: cannot be read"),
        (("--predictor", predictor_file, "--device", "toaster"), "not 'toaster'"),
    ):
        done = _command(*asked, *more)
        assert done.exit_code == 2, done.output
        assert message in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
