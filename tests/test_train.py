"""Whole training runs on a made-up language: resuming, sharing among processes, and what is left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from dynhat_runtime import cli
from dynhat_runtime.decoding.tokenizer import SentencePieceTokenizer, train_tokenizer
from dynhat_runtime.errors import TrainingError
from dynhat_runtime.offline.data import Batch
from dynhat_runtime.offline.prepare import prepare
from dynhat_runtime.offline.prepared_data import PreparedData
from dynhat_runtime.offline.recipe import Recipe
from dynhat_runtime.offline.run_folder import RunFolder, average_weights
from dynhat_runtime.offline.train import pick_device, train
from dynhat_runtime.offline.trainer import Trainer, UpdateReport
from dynhat_runtime.offline.training_data import load_corpora, training_batches
from tests.toy_text import VOCAB_SIZE, toy_pairs, toy_tokenizer_model, write_pairs
from tests.toy_training import as_toml, toy_fields, toy_recipe, write_toy_data

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up corpora."""
    return write_toy_data(tmp_path_factory.mktemp("toy_data"))


def _new_run(folder: Path) -> Path:
    """A run folder that already has its tokenizer."""
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(toy_tokenizer_model())
    return folder


def _train(recipe: Recipe, data_dir: Path, run_dir: Path) -> RunFolder:
    return train(recipe, data_dir, run_dir, device_name="cpu")


@pytest.fixture(scope="session")
def whole_run(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run that nobody interrupted; not to be written to."""
    return _train(toy_recipe(), data_dir, _new_run(tmp_path_factory.mktemp("runs") / "whole"))


def _rows(run: RunFolder, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["kind"] == kind]


def _updates(run: RunFolder, kind: str = "train") -> list[int]:
    return [row["update"] for row in _rows(run, kind)]


def _final(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(run.weights()[-1])


def _assert_same_end(first: RunFolder, second: RunFolder) -> None:
    """The final weights agree bit for bit."""
    assert first.weights()[-1].name == second.weights()[-1].name
    one, other = _final(first), _final(second)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def _interrupt_after(monkeypatch: pytest.MonkeyPatch, num_updates: int, number: signal.Signals) -> None:
    """Send this process a signal in the middle of an update."""
    real = Trainer.update

    def update(self: Trainer, update: int, batches: list[Batch]) -> UpdateReport:
        if update == num_updates - 1:
            signal.raise_signal(number)
        return real(self, update, batches)

    monkeypatch.setattr(Trainer, "update", update)


# --- a run and what it leaves ---


def test_run_leaves_its_files(whole_run: RunFolder) -> None:
    """A run leaves state, checkpoints, metrics and a picture of the losses, and nothing half-written."""
    assert whole_run.last.exists()
    assert [file.stem for file in whole_run.weights()] == ["update_00000003", "update_00000006"]
    assert (whole_run.path / "loss.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [path for path in whole_run.path.rglob("*") if "partial" in path.name] == []


def test_metrics_rows(whole_run: RunFolder) -> None:
    """Each logged update and each validation has a row with its figures in it."""
    assert _updates(whole_run) == [1, 2, 3, 4, 5, 6]
    assert _updates(whole_run, "dev") == [4, 6]
    for row in _rows(whole_run, "train"):
        assert row["nll"] > 0
        assert row["loss"] > 0
        assert row["tokens_per_s"] > 0
        assert row["gradient_norm"] > 0
    assert _rows(whole_run, "train")[0]["learning_rate"] == pytest.approx(1e-7)
    seen = sum(row["num_target_tokens"] for row in _rows(whole_run, "train"))
    assert _rows(whole_run, "dev")[-1]["num_tokens_seen"] == seen
    assert {key for key in _rows(whole_run, "dev")[0] if key.startswith("dev_")} == {
        "dev_loss_largest",
        "dev_nll_largest",
        "dev_loss_smallest",
        "dev_nll_smallest",
    }


def test_training_learns(data_dir: Path, tmp_path: Path) -> None:
    """From a tokenizer of its own on, a hundred updates bring down the dev loss of largest and smallest."""
    recipe = toy_recipe(
        optimizer={"max_updates": 100, "residual_dropout": 0.0},
        loop={"validate_every_updates": 10, "checkpoint_every_updates": 100, "num_batches_per_update": 1},
    )
    run = _train(recipe, data_dir, tmp_path / "run")
    assert SentencePieceTokenizer.load(run.tokenizer).src_vocab_size == VOCAB_SIZE
    dev = _rows(run, "dev")
    for name in ("dev_nll_largest", "dev_nll_smallest"):
        assert dev[-1][name] < 0.75 * dev[0][name]


def test_only_the_last_checkpoints_are_kept(data_dir: Path, tmp_path: Path) -> None:
    """Checkpoints beyond num_checkpoints_kept are removed, the oldest first."""
    recipe = toy_recipe(loop={"checkpoint_every_updates": 1, "num_checkpoints_kept": 2})
    run = _train(recipe, data_dir, _new_run(tmp_path / "run"))
    assert [file.stem for file in run.weights()] == ["update_00000005", "update_00000006"]


def test_finished_run_stays_as_it_is(data_dir: Path, tmp_path: Path) -> None:
    """Training a finished run again trains nothing and adds no row."""
    recipe = toy_recipe(optimizer={"max_updates": 2})
    run = _train(recipe, data_dir, _new_run(tmp_path / "run"))
    before = run.metrics.read_text(), run.last.read_bytes()
    _train(recipe, data_dir, run.path)
    assert (run.metrics.read_text(), run.last.read_bytes()) == before


# --- interruption ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_interrupted_and_resumed_is_the_whole_run(
    whole_run: RunFolder,
    data_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
) -> None:
    """A signal ends a run after its update, validated and saved; resumed, it ends bit for bit like a whole run."""
    run_dir = _new_run(tmp_path / "run")
    with monkeypatch.context() as patched:
        _interrupt_after(patched, 2, number)
        run = _train(toy_recipe(), data_dir, run_dir)
    assert [file.stem for file in run.weights()] == ["update_00000002"]
    assert _updates(run) == [1, 2]
    assert _updates(run, "dev") == [2]
    _train(toy_recipe(), data_dir, run_dir)
    _assert_same_end(run, whole_run)
    assert _updates(run) == [1, 2, 3, 4, 5, 6]
    assert _rows(run, "train")[-1]["nll"] == _rows(whole_run, "train")[-1]["nll"]
    assert _rows(run, "dev")[-1]["num_tokens_seen"] == _rows(whole_run, "dev")[-1]["num_tokens_seen"]


def test_signal_handlers_are_put_back(data_dir: Path, tmp_path: Path) -> None:
    """After a run Ctrl-C does what it did before."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    _train(toy_recipe(optimizer={"max_updates": 1}), data_dir, _new_run(tmp_path / "run"))
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_killed_run_resumes_from_its_last_checkpoint(
    whole_run: RunFolder, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies between checkpoints does the lost updates again; metrics name each update once."""
    run_dir = _new_run(tmp_path / "run")
    real = Trainer.update

    def dies(self: Trainer, update: int, batches: list[Batch]) -> UpdateReport:
        if update == 5:
            raise KeyboardInterrupt
        return real(self, update, batches)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "update", dies)
        with pytest.raises(KeyboardInterrupt):
            _train(toy_recipe(), data_dir, run_dir)
    run = _train(toy_recipe(), data_dir, run_dir)
    _assert_same_end(run, whole_run)
    assert _updates(run) == [1, 2, 3, 4, 5, 6]
    assert _updates(run, "dev") == [4, 6]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"",
        lambda whole: b"no checkpoint at all",
        lambda whole: whole[:2000] + b"\xff" * 4000 + whole[6000:],
    ],
    ids=["truncated", "empty", "other", "altered"],
)
def test_spoilt_state_is_named(whole_run: RunFolder, data_dir: Path, tmp_path: Path, spoil) -> None:
    """A last.pt that cannot be read is refused by name in one line, with what to do; it is not overwritten."""
    run_dir = _new_run(tmp_path / "run")
    spoilt = spoil(whole_run.last.read_bytes())
    (run_dir / "last.pt").write_bytes(spoilt)
    with pytest.raises(TrainingError, match=r"last\.pt.*use another --run-dir, or remove last\.pt") as raised:
        _train(toy_recipe(), data_dir, run_dir)
    assert "\n" not in str(raised.value)
    assert (run_dir / "last.pt").read_bytes() == spoilt


def test_state_without_its_parts_is_named(data_dir: Path, tmp_path: Path) -> None:
    """A torch file that is no checkpoint of ours is refused, naming what it lacks."""
    run_dir = _new_run(tmp_path / "run")
    torch.save({"update": 3}, run_dir / "last.pt")
    with pytest.raises(TrainingError, match=r"last\.pt: holds no 'num_tokens_seen'"):
        _train(toy_recipe(), data_dir, run_dir)


def test_state_of_another_model_is_refused(whole_run: RunFolder, data_dir: Path, tmp_path: Path) -> None:
    """Resuming with a recipe of another shape is refused instead of mixing weights."""
    run_dir = _new_run(tmp_path / "run")
    (run_dir / "last.pt").write_bytes(whole_run.last.read_bytes())
    with pytest.raises(TrainingError, match=r"last\.pt belongs to another model"):
        _train(toy_recipe(model={"norm_first": False}), data_dir, run_dir)


# --- data and devices that do not do ---


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"corpora": [{"file": "train.tsv.gz", "max_words": 1}]}, "no training pair is left"),
        ({"dev": [{"file": "dev.tsv.gz", "max_words": 1}]}, "no dev pair is left"),
        ({"corpora": [{"file": "absent.tsv.gz"}]}, r"absent\.tsv\.gz.*--data-dir"),
    ],
)
def test_data_that_cannot_be_trained_on(
    data_dir: Path, tmp_path: Path, fields: dict[str, Any], message: str
) -> None:
    """Filters that leave nothing, and files that are not there, end the run before it begins."""
    with pytest.raises(TrainingError, match=message):
        _train(toy_recipe(data=fields), data_dir, _new_run(tmp_path / "run"))


def test_truncated_corpus_is_named(tmp_path: Path) -> None:
    """A corpus file cut short is refused by name."""
    write_toy_data(tmp_path)
    whole = (tmp_path / "train.tsv.gz").read_bytes()
    (tmp_path / "train.tsv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TrainingError, match=r"train\.tsv\.gz: cannot be read as gzipped UTF-8 TSV"):
        _train(toy_recipe(), tmp_path, tmp_path / "run")


def test_too_little_text_for_the_vocabulary(tmp_path: Path) -> None:
    """A vocabulary that the text cannot fill is refused with the value and the tokenizer's reason."""
    write_pairs(tmp_path / "train.tsv.gz", toy_pairs(3, seed=1))
    write_pairs(tmp_path / "dev.tsv.gz", toy_pairs(3, seed=2))
    with pytest.raises(TrainingError, match=r"vocab_size=2000 .*too high") as raised:
        _train(toy_recipe(data={"vocab_size": 2000}), tmp_path, tmp_path / "run")
    assert "\n" not in str(raised.value)


def test_fewer_batches_than_an_update_needs(data_dir: Path, tmp_path: Path) -> None:
    """An epoch that cannot fill one update is refused with both numbers."""
    recipe = toy_recipe(loop={"max_tokens_per_batch": 100_000})
    with pytest.raises(TrainingError, match="1 batches, fewer than num_batches_per_update=2"):
        _train(recipe, data_dir, _new_run(tmp_path / "run"))


@pytest.mark.parametrize("name", ["abacus", "cuda:99"])
def test_device_that_is_not_there(name: str) -> None:
    """An unknown or absent device is refused by name."""
    with pytest.raises(TrainingError, match=f"device '{name}'"):
        pick_device(name)


# --- prepared data ---


def test_prepared_elsewhere_is_as_good(whole_run: RunFolder, data_dir: Path, tmp_path: Path) -> None:
    """A run on data that was prepared before, without the text, ends bit for bit like one that prepares its own."""
    data = prepare(
        toy_recipe().data,
        data_dir,
        tmp_path / "prepared",
        tokenizer=whole_run.tokenizer,
        console=Console(quiet=True),
    )
    run = train(toy_recipe(), None, tmp_path / "run", prepared=data.path, device_name="cpu")
    _assert_same_end(run, whole_run)
    assert run.data_manifest.read_bytes() == whole_run.data_manifest.read_bytes()
    assert not run.prepared.exists()


def test_resuming_needs_no_text(whole_run: RunFolder, data_dir: Path, tmp_path: Path) -> None:
    """A run that prepared its own data goes on without the text; one without any data says what to give."""
    run_dir = tmp_path / "run"
    shutil.copytree(whole_run.path, run_dir)
    before = (run_dir / "last.pt").read_bytes()
    train(toy_recipe(), None, run_dir, device_name="cpu")
    assert (run_dir / "last.pt").read_bytes() == before
    with pytest.raises(TrainingError, match=r"no data: give --data-dir with the text, or --prepared"):
        train(toy_recipe(), None, tmp_path / "new", device_name="cpu")


def test_data_of_another_recipe_is_refused(whole_run: RunFolder, tmp_path: Path) -> None:
    """Prepared data is trained on with the recipe it was prepared with, but for weights; the difference is named."""
    corpora = [{"file": "train.tsv.gz", "weight": 2.0}]
    weighted = toy_recipe(data={"corpora": corpora}, optimizer={"max_updates": 1})
    train(weighted, None, tmp_path / "weighted", prepared=whole_run.prepared, device_name="cpu")
    longer = toy_recipe(data={"max_tokens_per_sentence": 30})
    with pytest.raises(TrainingError, match=r"data\.max_tokens_per_sentence=60 \(not 30\)"):
        train(longer, None, tmp_path / "longer", prepared=whole_run.prepared, device_name="cpu")


def test_run_keeps_its_tokenizer(whole_run: RunFolder, tmp_path: Path) -> None:
    """A run that began with one vocabulary is not continued on data made with another."""
    run_dir = _new_run(tmp_path / "run")
    other = train_tokenizer([side for pair in toy_pairs(200, seed=9) for side in pair], VOCAB_SIZE)
    (run_dir / "tokenizer.model").write_bytes(other)
    with pytest.raises(TrainingError, match="another tokenizer"):
        train(toy_recipe(), None, run_dir, prepared=whole_run.prepared, device_name="cpu")


def _begun_without_cleaning(run: RunFolder) -> None:
    """Make a run folder look like one of a version that did not clean."""
    content = json.loads(run.recipe.read_text())
    del content["data"]["cleaning"], content["data"]["held_out"]
    run.recipe.write_text(json.dumps(content))
    shutil.rmtree(run.prepared)
    run.data_manifest.unlink()


def test_run_from_before_cleaning_goes_on(data_dir: Path, tmp_path: Path) -> None:
    """A run of a version that did not clean is refused with the remedy, and with it goes on to the same end."""
    raw = toy_recipe(data={"cleaning": {"filters": [], "normalise": False}})
    whole = _train(raw, data_dir, _new_run(tmp_path / "whole"))
    run_dir = _new_run(tmp_path / "run")
    half = _train(raw.with_budget(3), data_dir, run_dir)
    (half.recipe).write_text(raw.model_dump_json())
    _begun_without_cleaning(half)
    with pytest.raises(TrainingError, match=r"\[data\.cleaning\] filters = \[\], normalise = false"):
        _train(toy_recipe(), data_dir, run_dir)
    _train(raw, data_dir, run_dir)
    assert [file.stem for file in half.weights()] == ["update_00000003", "update_00000006"]
    assert whole.data_manifest.read_bytes() == half.data_manifest.read_bytes()


# --- batches of a run ---


def _token_batches(run: RunFolder, count: int, **where: int) -> list[list[list[list[int]]]]:
    recipe = toy_recipe()
    corpus, weights, _ = load_corpora(recipe, PreparedData.open(run.prepared))
    stream = training_batches(recipe, corpus, weights, **where)
    return [[batch.src_BS.tolist() for batch in next(stream)] for _ in range(count)]


def test_skipping_is_as_good_as_doing(whole_run: RunFolder) -> None:
    """The stream from update 30 on, in a later epoch, is the tail of the stream from the start."""
    whole = _token_batches(whole_run, 40, skip=0, rank=0, world_size=1)
    assert whole[30:] == _token_batches(whole_run, 10, skip=30, rank=0, world_size=1)


def test_processes_share_each_update(whole_run: RunFolder) -> None:
    """Two processes together see the batches that one sees, none twice."""
    whole = _token_batches(whole_run, 10, skip=0, rank=0, world_size=1)
    first, second = (_token_batches(whole_run, 10, skip=0, rank=r, world_size=2) for r in (0, 1))
    assert [[a[0], b[0]] for a, b in zip(first, second, strict=True)] == whole


# --- several processes, and the command ---


def _command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        timeout=120,
        check=False,
    )


def _train_arguments(recipe: Path, data_dir: Path, run_dir: Path) -> list[str]:
    where = ["--data-dir", str(data_dir), "--run-dir", str(run_dir)]
    return ["train", str(recipe), *where, "--num-threads", "1"]


def test_two_processes_compute_what_one_does(data_dir: Path, tmp_path: Path) -> None:
    """`torchrun` with two processes gives the losses, norms and weights of one process with the same batches."""
    fields = toy_fields(
        optimizer={"max_updates": 4, "residual_dropout": 0.0}, sampling={"strategy": "sandwich"}
    )
    (tmp_path / "toy.toml").write_text(as_toml(fields))
    alone = _train(Recipe.model_validate(fields), data_dir, _new_run(tmp_path / "alone"))
    together = RunFolder(_new_run(tmp_path / "together"))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = _command(
        *torchrun, "-m", "dynhat_runtime", *_train_arguments(tmp_path / "toy.toml", data_dir, together.path)
    )
    assert done.returncode == 0, done.stderr
    assert _updates(together) == [1, 2, 3, 4]
    for one, two in zip(_rows(alone, "train"), _rows(together, "train"), strict=True):
        assert two["num_target_tokens"] == one["num_target_tokens"]
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert two["gradient_norm"] == pytest.approx(one["gradient_norm"], rel=1e-4)
    assert _rows(together, "dev")[-1]["dev_loss_largest"] == pytest.approx(
        _rows(alone, "dev")[-1]["dev_loss_largest"], rel=1e-5
    )


def test_processes_must_divide_the_batches(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A number of processes that cannot share an update evenly is refused with both numbers."""
    monkeypatch.setattr("dynhat_runtime.offline.train.process_group", _three_processes)
    with pytest.raises(TrainingError, match="num_batches_per_update=2 does not divide among 3 processes"):
        _train(toy_recipe(), data_dir, tmp_path / "run")


class _three_processes:  # noqa: N801  # stands in for a function
    """A process group of three, of which this is the first."""

    def __init__(self, device: torch.device) -> None: ...

    def __enter__(self) -> tuple[int, int]:
        return 0, 3

    def __exit__(self, *_: object) -> None: ...


def test_command_says_one_line(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A recipe with a wrong field ends the command with one line that names file, field and value."""
    (tmp_path / "wrong.toml").write_text(as_toml(toy_fields(optimizer={"peak_lr": "fast"})))
    arguments = _train_arguments(tmp_path / "wrong.toml", data_dir, tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["dynhat", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"wrong\.toml: optimizer\.peak_lr: .*\(got 'fast'\)", line)


# --- averaging ---


def test_average_is_the_mean(tmp_path: Path) -> None:
    """Averaging takes the mean of each weight over the files."""
    files = []
    for i, value in enumerate((1.0, 2.0, 6.0)):
        files.append(tmp_path / f"update_{i}.safetensors")
        save_file({"a": torch.full((2,), value), "b": torch.tensor([[value, -value]])}, files[-1])
    average = average_weights(files)
    assert average["a"].tolist() == [3.0, 3.0]
    assert average["b"].tolist() == [[3.0, -3.0]]
    assert average["a"].dtype == torch.float32


def test_average_of_nothing_is_refused() -> None:
    """Averaging without checkpoints says to train first."""
    with pytest.raises(TrainingError, match="no checkpoint to average: train first"):
        average_weights([])


def test_average_with_a_spoilt_file_is_refused(tmp_path: Path) -> None:
    """A checkpoint that cannot be read is named."""
    (tmp_path / "update_1.safetensors").write_bytes(b"nothing")
    with pytest.raises(TrainingError, match=r"update_1\.safetensors: cannot be read as weights"):
        average_weights([tmp_path / "update_1.safetensors"])


# --- half precision ---


def test_bf16_run(data_dir: Path, tmp_path: Path) -> None:
    """A bf16 run on the CPU trains and saves single-precision weights."""
    recipe = toy_recipe(optimizer={"max_updates": 1}, loop={"precision": "bf16"})
    run = _train(recipe, data_dir, _new_run(tmp_path / "run"))
    assert _rows(run, "train")[0]["loss"] > 0
    assert {weight.dtype for weight in _final(run).values()} == {torch.float32}
