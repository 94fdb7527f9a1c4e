"""SIGKILL at random moments while training, searching and measuring: resumed, and in the end as if nothing had been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from dynhat_runtime.offline.latency_dataset import read_latency_dataset
from dynhat_runtime.offline.profile_dataset import sampled_configs
from dynhat_runtime.offline.run_folder import RunFolder
from dynhat_runtime.offline.search_result import SearchResult
from tests.test_search import ROOT, _environment, _without_times, bundle, dev, whole  # noqa: F401  # fixtures
from tests.test_train import _assert_same_end, _new_run, _updates, data_dir  # noqa: F401  # fixtures
from tests.tiny_bundle import SPACE

SEED = int(os.environ.get("DYNHAT_TEST_SEED", "1"))
NUM_KILLS = int(os.environ.get("DYNHAT_TEST_KILLS", "2"))


def killed(kind: str, longest_s: float, num_kills: int = NUM_KILLS, **settings: object) -> None:
    """Let it be killed that often, then come to its end."""
    asked = {"seed": SEED, "num_kills": num_kills, "longest_s": longest_s, **settings}
    command = [sys.executable, "-m", "tests.killed_at_random", kind, json.dumps(asked, default=str)]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= min(1, num_kills), "it was never killed: it has become too fast for this test"


def half_written(folder: Path) -> list[Path]:
    """Files that were begun and not ended."""
    return list(folder.rglob("*.partial"))


def test_training(data_dir: Path, tmp_path: Path) -> None:  # noqa: F811
    """The weights are those of a run that nobody killed, bit for bit, and each update has one row of metrics."""
    run, unharmed = (RunFolder(_new_run(tmp_path / name)) for name in ("run", "unharmed"))
    killed("train", 0.6, data_dir=data_dir, run_dir=run.path)
    # In such a process, too: what libraries a process has loaded decides how sums are rounded.
    killed("train", 0.6, num_kills=0, data_dir=data_dir, run_dir=unharmed.path)
    _assert_same_end(run, unharmed)
    assert _updates(run) == [1, 2, 3, 4, 5, 6]
    assert half_written(run.path) == []


def test_searching(whole: SearchResult, bundle: Path, dev: Path, tmp_path: Path) -> None:  # noqa: F811
    """The result is that of a search that nobody killed, and no loss was kept twice."""
    killed("search", 0.8, bundle=bundle, dev=dev, run_dir=tmp_path)
    assert _without_times(SearchResult.load(tmp_path / "search.json")) == _without_times(whole)
    assert half_written(tmp_path) == []


def test_measuring(tmp_path: Path) -> None:
    """Every architecture has one row, and the file is read without complaint."""
    killed("profile", 0.06, run_dir=tmp_path)
    rows = read_latency_dataset(tmp_path / "dataset.csv")
    assert [row.gene for row in rows] == [SPACE.gene(config) for config in sampled_configs(SPACE, 6, seed=1)]
