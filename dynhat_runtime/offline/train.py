"""`dynhat train`: run a recipe from data to checkpoints, resuming after any interruption.

A run lives in one folder, see `run_folder.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from dynhat_runtime.decoding.tokenizer import SentencePieceTokenizer
from dynhat_runtime.errors import TrainingError
from dynhat_runtime.model.spec import SuperTransformerSpec
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.offline.data import Batch
from dynhat_runtime.offline.growth import begin_from
from dynhat_runtime.offline.prepared_data import PreparedData
from dynhat_runtime.offline.recipe import Recipe, SamplingRecipe
from dynhat_runtime.offline.run_folder import (
    RunFolder,
    check_recipe,
    disk_errors_named,
    forget_rows_after,
    keep_recipe,
    read_weights,
    restore_state,
    save_state,
)
from dynhat_runtime.offline.trainer import Trainer, UpdateReport, configs_to_validate, evaluate_loss, spec_of
from dynhat_runtime.offline.training_data import load_corpora, training_batches, training_data


class _StopFlag:
    """Set by SIGINT or SIGTERM, so that an update in progress ends and is saved."""

    def __init__(self) -> None:
        self.raised = False

    def agreed(self, device: torch.device) -> bool:
        """Whether any process was told to stop: all must leave the loop after the same update."""
        if not (dist.is_available() and dist.is_initialized()):
            return self.raised
        flag = torch.tensor(float(self.raised), device=device)
        dist.all_reduce(flag)
        return bool(flag.item() > 0)

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        self.raised = True

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to both signals while the context lasts."""
        previous = {number: signal.signal(number, self) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


class _Reporter:
    """Progress on the terminal, metrics to JSONL. Silent in processes other than the first."""

    def __init__(self, run: RunFolder, recipe: Recipe, *, active: bool, hours_before: float) -> None:
        self.run, self.recipe, self.active = run, recipe, active
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("update {task.completed}/{task.total}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=self.console,
            disable=not active or not self.console.is_terminal,
        )
        self.task = self.progress.add_task("", total=recipe.optimizer.max_updates)
        self.started = time.monotonic() - hours_before * 3600
        self._begin_window()

    def _begin_window(self) -> None:
        self.window_began = time.monotonic()
        self.window_tokens, self.window_loss, self.window_updates = 0, 0.0, 0

    @property
    def hours(self) -> float:
        """Time spent on this run, over all its sessions."""
        return (time.monotonic() - self.started) / 3600

    def updated(self, update: int, report: UpdateReport) -> None:
        """Count one update; every so often write a line."""
        self.window_tokens += report.num_target_tokens
        self.window_loss += report.nll * report.num_target_tokens
        self.window_updates += 1
        if (update % self.recipe.loop.log_every_updates) or not self.active:
            return
        seconds = time.monotonic() - self.window_began
        speed = self.window_tokens / max(seconds, 1e-9)
        nll = self.window_loss / self.window_tokens
        left_s = seconds / self.window_updates * (self.recipe.optimizer.max_updates - update)
        text = f"nll {nll:.3f}  {speed:.0f} tokens/s  lr {report.learning_rate:.2e}"
        if self.console.is_terminal:
            self.progress.update(self.task, completed=update, description=text)
        else:
            self.console.print(
                f"update {update}/{self.recipe.optimizer.max_updates}  {text}  ETA {left_s / 60:.0f} min"
            )
        self.write({**asdict(report), "kind": "train", "update": update, "nll": nll, "tokens_per_s": speed})
        self._begin_window()

    def write(self, row: dict[str, Any]) -> None:
        """Append one metrics row."""
        if self.active:
            with self.run.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def validate(trainer: Trainer, dev: list[Batch]) -> dict[str, float]:
    """Dev loss and nll of the largest and the smallest SubTransformer; where both are the same one, measured once."""
    smoothing = trainer.recipe.optimizer.label_smoothing
    configs = configs_to_validate(trainer.space, trainer.recipe.sampling)
    losses = {
        config: evaluate_loss(trainer.super_transformer, config, dev, smoothing)
        for config in dict.fromkeys(configs.values())
    }
    row: dict[str, float] = {}
    for name, config in configs.items():
        loss = losses[config]
        row[f"dev_loss_{name}"], row[f"dev_nll_{name}"] = loss.smoothed.item(), loss.nll.item()
    return row


def plot_losses(run: RunFolder, sampling: SamplingRecipe) -> None:
    """Draw `loss.png` from the metrics file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    figure, axes = plt.subplots(figsize=(7, 4))
    train = [row for row in rows if row["kind"] == "train"]
    axes.plot(
        [row["update"] for row in train], [row["nll"] for row in train], label="train nll (drawn)", alpha=0.4
    )
    dev = [row for row in rows if row["kind"] == "dev"]
    labels = {"largest": "largest", "smallest": "smallest"}
    if sampling.fixed is not None:
        labels = {"largest": sampling.fixed.id}
    for name, label in labels.items():
        axes.plot(
            [row["update"] for row in dev], [row[f"dev_nll_{name}"] for row in dev], label=f"dev nll, {label}"
        )
    axes.set(xlabel="update", ylabel="nll per target token (nats)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(run.path / "loss.png", dpi=120)
    plt.close(figure)


def pick_device(name: str | None) -> torch.device:
    """The device called `name`; without one, CUDA where there is any.

    Raises:
        TrainingError: There is no such device.
    """
    if name:
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise TrainingError(f"device {name!r} is not to be had here: try 'cpu'") from error
        return device
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def _set_up_cuda(precision: str) -> None:
    """Settings of the process for batches of ever other shapes."""
    torch.backends.cuda.enable_cudnn_sdp(False)  # builds a plan for every new shape: a second per update
    if precision != "fp32":
        torch.set_float32_matmul_precision("high")  # what stays in single precision may be rounded to TF32


@contextlib.contextmanager
def process_group(device: torch.device) -> Iterator[tuple[int, int]]:
    """Join `torchrun`'s process group if there is one; yields rank and number of processes."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield 0, 1
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield dist.get_rank(), world_size
    finally:
        dist.destroy_process_group()


def initial_super_transformer(run: RunFolder, spec: SuperTransformerSpec, seed: int) -> SuperTransformer:
    """The weights before the first update: those that `begin_from` left in the folder, else fresh ones."""
    if run.started_from.exists():
        return SuperTransformer(spec, read_weights(run.start_weights))
    return SuperTransformer.random(spec, seed)


def train(
    recipe: Recipe,
    data_dir: Path | None,
    run_dir: Path,
    *,
    prepared: Path | None = None,
    device_name: str | None = None,
    start_from: Path | None = None,
) -> RunFolder:
    """Run `recipe` until its last update, or until SIGINT / SIGTERM; either way the state is saved.

    Args:
        recipe: What to compute.
        data_dir: Folder that the recipe's corpus files lie below; not needed where the data is prepared.
        run_dir: Folder of this run; an interrupted run continues there.
        prepared: Prepared data of this recipe; without it the run prepares its own.
        device_name: Such as "cpu" or "cuda:0"; by default CUDA where there is any.
        start_from: Bundle whose weights and vocabulary the run begins with, see `growth`.

    Raises:
        BundleError: The bundle to start from cannot be read.
        TrainingError: Data or recipe that cannot be trained on, a folder of another recipe's run, or one that cannot
            be written to.
    """
    run = RunFolder(run_dir)
    run.create()
    check_recipe(run, recipe)
    device = pick_device(device_name)
    if device.type == "cuda":
        _set_up_cuda(recipe.loop.precision)
    with disk_errors_named(run), process_group(device) as (rank, world_size):
        if recipe.loop.num_batches_per_update % world_size:
            raise TrainingError(
                f"num_batches_per_update={recipe.loop.num_batches_per_update} "
                f"does not divide among {world_size} processes"
            )
        if rank == 0:
            if start_from is not None:
                begin_from(run, recipe, start_from)
            keep_recipe(run, recipe)
            training_data(recipe, data_dir, run, prepared, Console(stderr=True))
        if world_size > 1:
            dist.barrier()
        _train_loop(recipe, PreparedData.open(prepared or run.prepared), run, device, rank, world_size)
    return run


def _train_loop(
    recipe: Recipe, data: PreparedData, run: RunFolder, device: torch.device, rank: int, world_size: int
) -> None:
    corpus, weights, dev = load_corpora(recipe, data)
    spec = spec_of(recipe, SentencePieceTokenizer.load(run.tokenizer).src_vocab_size)
    start = initial_super_transformer(run, spec, recipe.loop.seed)
    trainer = Trainer(
        SuperTransformer(spec, {name: w.to(device) for name, w in start.weights.items()}), recipe
    )
    done, num_tokens_seen, hours_before = restore_state(run, trainer)
    if rank == 0:
        forget_rows_after(run, done)
    reporter = _Reporter(run, recipe, active=rank == 0, hours_before=hours_before)
    stream = training_batches(recipe, corpus, weights, skip=done, rank=rank, world_size=world_size)
    stop, stopping = _StopFlag(), False
    with stop.listening(), reporter.progress:
        while done < recipe.optimizer.max_updates and not stopping:
            report = trainer.update(done, next(stream))
            done += 1
            num_tokens_seen += report.num_target_tokens
            reporter.updated(done, report)
            stopping = stop.agreed(device)
            last = done == recipe.optimizer.max_updates or stopping
            if rank == 0 and (last or done % recipe.loop.validate_every_updates == 0):
                row = validate(trainer, dev)
                spent = {"num_tokens_seen": num_tokens_seen, "hours": reporter.hours}
                reporter.write({"kind": "dev", "update": done, **spent, **row})
                reporter.console.print("dev " + "  ".join(f"{key} {value:.4f}" for key, value in row.items()))
            if rank == 0 and (last or done % recipe.loop.checkpoint_every_updates == 0):
                save_state(run, trainer, done, num_tokens_seen, reporter.hours)
    if rank == 0 and run.metrics.exists():
        plot_losses(run, recipe.sampling)
