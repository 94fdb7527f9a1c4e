"""Measuring validation losses: what they are, the cache, several processes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.errors import SearchError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.offline.candidates import Rung
from dynhat_runtime.offline.evaluate import dev_batches, dev_loss, load_pairs
from dynhat_runtime.offline.loss_cache import LossCache, LossKey, MeasuredLoss
from dynhat_runtime.offline.search_losses import LossEvaluator, LossLedger, LossTask
from tests.toy_bundle import toy_super_transformer, write_toy_bundle
from tests.toy_text import toy_pairs, toy_tokenizer, write_pairs

KEY = LossKey("abc", "subset", (1, 2, 3))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Random weights."""
    return write_toy_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty pairs."""
    return write_pairs(tmp_path_factory.mktemp("dev") / "dev.tsv.gz", toy_pairs(20, seed=2))


@pytest.fixture(scope="module")
def task(bundle: Bundle, dev: Path) -> LossTask:
    """A subset of eight sentences."""
    return LossTask.of_bundle(bundle, dev, 8)


def _configs(count: int) -> list[SubTransformerConfig]:
    space = toy_super_transformer().spec.design_space
    rng = random.Random(5)
    return list(dict.fromkeys(space.sample(rng) for _ in range(3 * count)))[:count]


def _measured(task: LossTask, path: Path, num_processes: int = 1, rung: Rung = "subset") -> list[float]:
    with LossEvaluator(task, LossCache(path), num_processes) as evaluator:
        return [one.loss for one in evaluator.measure(_configs(6), rung)]


def test_loss_on_all_is_the_dev_loss(task: LossTask, bundle: Bundle, dev: Path, tmp_path: Path) -> None:
    """On the whole dev set it is what `dynhat profile --dev` measures."""
    super_transformer = bundle.super_transformer()
    batches = dev_batches(super_transformer, toy_tokenizer(), load_pairs(dev))
    losses = _measured(task, tmp_path / "losses.jsonl", rung="all")
    for config, loss in zip(_configs(6), losses, strict=True):
        expected = dev_loss(super_transformer, config, batches)
        assert loss == pytest.approx(expected, abs=1e-4)


def test_subset_is_fixed(task: LossTask, bundle: Bundle, dev: Path, tmp_path: Path) -> None:
    """The same sentences whoever draws them; fewer than the whole; all of them if the dev set has no more."""
    again = LossTask.of_bundle(bundle, dev, 8)
    assert again.fingerprints == task.fingerprints
    assert _measured(again, tmp_path / "a.jsonl") == _measured(task, tmp_path / "b.jsonl")
    assert sum(batch.src_BS.shape[0] for batch in task.batches["subset"]) == 8
    large = LossTask.of_bundle(bundle, dev, 1000)
    assert sum(batch.src_BS.shape[0] for batch in large.batches["subset"]) == 20


def test_fingerprints_tell_what_a_loss_depends_on(task: LossTask, bundle: Bundle, tmp_path: Path) -> None:
    """Another subset size or other dev text gives other fingerprints; the whole set's ignores the subset."""
    text = write_pairs(tmp_path / "dev.tsv.gz", toy_pairs(20, seed=3))
    other = LossTask.of_bundle(bundle, text, 8)
    assert not set(other.fingerprints.values()) & set(task.fingerprints.values())


def test_empty_dev_set_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    """A dev set without pairs is named."""
    with pytest.raises(SearchError, match=r"empty\.tsv\.gz: has no pair that fits the model"):
        LossTask.of_bundle(bundle, write_pairs(tmp_path / "empty.tsv.gz", []), 8)


def test_processes_change_nothing(task: LossTask, tmp_path: Path) -> None:
    """Two processes give the very numbers of one, in the same order, and the same cache."""
    one = _measured(task, tmp_path / "one.jsonl")
    two = _measured(task, tmp_path / "two.jsonl", num_processes=2)
    assert one == two
    rows = [[json.loads(line) for line in (tmp_path / f"{name}.jsonl").open()] for name in ("one", "two")]
    assert [(row["gene"], row["loss"]) for row in rows[0]] == [(row["gene"], row["loss"]) for row in rows[1]]


def test_cached_losses_are_not_measured_again(
    task: LossTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second evaluator on the same file measures nothing and gives the same numbers."""
    first = _measured(task, tmp_path / "losses.jsonl")
    monkeypatch.setattr(LossTask, "measure", lambda *_: pytest.fail("measured again"))
    assert _measured(task, tmp_path / "losses.jsonl") == first


def test_threads_are_put_back(task: LossTask, tmp_path: Path) -> None:
    """Inside there is one torch thread; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with LossEvaluator(task, LossCache(tmp_path / "losses.jsonl")):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_dead_process_is_reported(task: LossTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A measuring process that is killed, as for want of memory, ends the search with a remedy."""
    import os
    import signal

    monkeypatch.setattr(LossTask, "measure", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with (
        pytest.raises(SearchError, match="give fewer than 2 processes with --num-processes"),
        LossEvaluator(task, LossCache(tmp_path / "losses.jsonl"), 2) as evaluator,
    ):
        evaluator.measure(_configs(2), "subset")


def test_ledger_charges_what_was_cached(task: LossTask, tmp_path: Path) -> None:
    """Each distinct architecture counts once with its seconds, whoever measured it first."""
    with LossEvaluator(task, LossCache(tmp_path / "losses.jsonl")) as evaluator:
        first, second = LossLedger(evaluator), LossLedger(evaluator)
        configs = _configs(3)
        losses = first.losses([*configs, configs[0]], "subset")
        assert losses[3] == losses[0]
        assert second.losses(configs, "subset") == losses[:3]
        assert first.num_measured == second.num_measured == {"subset": 3, "all": 0}
        assert first.seconds == second.seconds
        assert first.seconds["subset"] > 0


# --- the file ---


def test_cache_is_kept(tmp_path: Path) -> None:
    """What was added is found by the next who opens the file; other keys are not."""
    cache = LossCache(tmp_path / "losses.jsonl")
    cache.add(KEY, MeasuredLoss(2.9130051136, 0.25))
    again = LossCache(tmp_path / "losses.jsonl")
    assert again.get(KEY) == cache.get(KEY) == MeasuredLoss(2.9130051136, 0.25)
    assert again.get(KEY._replace(rung="all")) is None
    assert again.get(KEY._replace(fingerprint="other")) is None


def test_torn_last_line_is_forgotten(tmp_path: Path) -> None:
    """A line that a killed process left unfinished is cut off, and appending goes on behind the whole ones."""
    file = tmp_path / "losses.jsonl"
    LossCache(file).add(KEY, MeasuredLoss(3.0, 0.1))
    whole = file.read_text()
    file.write_text(whole + whole[:20])
    cache = LossCache(file)
    assert len(cache) == 1
    cache.add(KEY._replace(gene=(4,)), MeasuredLoss(3.5, 0.1))
    assert len(LossCache(file)) == 2


@pytest.mark.parametrize(
    "line",
    [
        "not JSON",
        "[]",
        '{"fingerprint": "abc", "rung": "subset", "gene": [1]}',
        '{"fingerprint": "abc", "rung": "subset", "gene": [1], "loss": NaN, "seconds": 1}',
    ],
)
def test_broken_line_is_named(tmp_path: Path, line: str) -> None:
    """A whole line that holds no measured loss is refused with its number."""
    file = tmp_path / "losses.jsonl"
    LossCache(file).add(KEY, MeasuredLoss(3.0, 0.1))
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(SearchError, match=r"losses\.jsonl, line 2: no measured loss: remove the line"):
        LossCache(file)


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """A folder that does not exist is named."""
    with pytest.raises(SearchError, match=r"losses\.jsonl: cannot be used \(No such file or directory\)"):
        LossCache(tmp_path / "absent" / "losses.jsonl")
