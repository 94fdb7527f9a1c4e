"""The folder of one training run: what it holds, and how its state is saved, restored and averaged.

`recipe.json` (what is computed here), `tokenizer.model`, `data.json` (the manifest of the prepared data), `prepared/`
(the data itself, where the run prepared it), `started_from.json` and `start.safetensors` (of a run that started from
a bundle), `last.pt` (weights, optimiser, position), `weights/` (the last checkpoints, for averaging),
`metrics.jsonl` and `loss.png`. Everything is written to a temporary name first, so that an interruption leaves the
previous state whole.
"""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dynhat_runtime.errors import DesignSpaceError, TrainingError, first_complaint
from dynhat_runtime.offline.recipe import Recipe, differing_fields
from dynhat_runtime.offline.trainer import Trainer


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The files of one training run."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The recipe this run was begun with."""
        return self.path / "recipe.json"

    @property
    def tokenizer(self) -> Path:
        """Trained sentencepiece model."""
        return self.path / "tokenizer.model"

    @property
    def prepared(self) -> Path:
        """Prepared data, where the run made its own."""
        return self.path / "prepared"

    @property
    def data_manifest(self) -> Path:
        """The manifest of the data that the run is trained on."""
        return self.path / "data.json"

    @property
    def last(self) -> Path:
        """Weights, optimiser state and position."""
        return self.path / "last.pt"

    @property
    def metrics(self) -> Path:
        """One JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def started_from(self) -> Path:
        """Which bundle the run started from, and how that came to be; a run from fresh weights has none."""
        return self.path / "started_from.json"

    @property
    def start_weights(self) -> Path:
        """The weights that such a run started with."""
        return self.path / "start.safetensors"

    def has_trained(self) -> bool:
        """Whether anything has been saved."""
        return self.last.exists() or bool(self.weights())

    def create(self) -> None:
        """Make the folder unless it is there.

        Raises:
            TrainingError: It cannot be written.
        """
        try:
            (self.path / "weights").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = f"{self.path}: cannot be written ({error.strerror})"
            raise TrainingError(f"{reason}: give another --run-dir") from error

    def weights(self) -> list[Path]:
        """Kept weight files, oldest first."""
        return sorted((self.path / "weights").glob("update_*.safetensors"))


FREE_FIELDS = frozenset(
    {
        "licence",
        "log_every_updates",
        "validate_every_updates",
        "checkpoint_every_updates",
        "num_checkpoints_kept",
    }
)
"""Fields of a recipe that may change within a run, since no weight depends on them."""


def keep_recipe(run: RunFolder, recipe: Recipe) -> None:
    """Write down what the run computes."""
    with whole_file(run, run.recipe) as partial:
        partial.write_text(recipe.model_dump_json(indent=1) + "\n", encoding="utf-8")


def check_recipe(run: RunFolder, recipe: Recipe) -> None:
    """Refuse a run that was begun with another recipe: its weights would be of neither.

    Rules: (1) a folder without a recipe, of a version that wrote none, is taken at its word. (2) A recipe without
    cleaning, of a version that did not clean, means none. (3) Where weights are, every field counts that they depend
    on. (4) Where only a tokenizer is, the data that it was trained on counts.

    Raises:
        TrainingError: Naming the fields and both values.
    """
    try:
        begun_with = Recipe.model_validate_json(run.recipe.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, ValidationError, DesignSpaceError) as error:
        reason = first_complaint(error) if isinstance(error, ValidationError) else str(error)
        raise TrainingError(f"{run.recipe}: cannot be read ({reason}): use another --run-dir") from error
    hint = ""
    if "cleaning" not in begun_with.data.model_fields_set:
        begun_with = begun_with.without_cleaning()
        hint = " (it was begun without cleaning: [data.cleaning] filters = [], normalise = false)"
    is_trained = run.has_trained()
    differences = [
        difference
        for field, difference in differing_fields(begun_with, recipe, FREE_FIELDS).items()
        if is_trained or (field.startswith("data.") and run.tokenizer.exists())
    ]
    if differences:
        raise TrainingError(
            f"{run.path} was begun with {', '.join(differences)}: "
            f"give the recipe and options it was begun with{hint}, or another --run-dir"
        )


@contextlib.contextmanager
def disk_errors_named(run: RunFolder) -> Iterator[None]:
    """Say in our words what the run's disk refuses, as a full or read-only one does.

    Raises:
        TrainingError: In the place of the system's error; with what is kept, and what to do.
    """
    try:
        yield
    except OSError as error:
        raise _cannot_be_written(run, error.strerror or str(error)) from error


def _cannot_be_written(run: RunFolder, reason: str) -> TrainingError:
    return TrainingError(
        f"{run.path}: cannot be written ({reason}): make room there; what was saved before is whole, and the same "
        "command goes on from it"
    )


def save_state(run: RunFolder, trainer: Trainer, update: int, num_tokens_seen: int, hours: float) -> None:
    """Write the resumable state and one weight file; drop weight files beyond those kept.

    Raises:
        TrainingError: They cannot be written. What was saved before is whole.
    """
    weights = trainer.super_transformer.weights
    state = {
        "update": update,
        "num_tokens_seen": num_tokens_seen,
        "hours": hours,
        "weights": {name: w.detach() for name, w in weights.items()},
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
    }
    with whole_file(run, run.last) as partial, partial.open("wb") as file:
        torch.save(state, file)
    with whole_file(run, run.path / "weights" / f"update_{update:08d}.safetensors") as partial:
        save_file({name: w.detach().cpu().contiguous() for name, w in weights.items()}, partial)
    for old in run.weights()[: -trainer.recipe.loop.num_checkpoints_kept]:
        old.unlink()


@contextlib.contextmanager
def whole_file(run: RunFolder, path: Path) -> Iterator[Path]:
    """A name to write under; once written it becomes `path`, and if that fails it takes up no room."""
    partial = path.with_suffix(".partial")
    try:
        with disk_errors_named(run):
            yield partial
            partial.replace(path)
    except (RuntimeError, SafetensorError) as error:  # how torch and safetensors tell of a failed write
        raise _cannot_be_written(run, str(error).strip().split("\n", 1)[0]) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def restore_state(run: RunFolder, trainer: Trainer) -> tuple[int, int, float]:
    """Continue where `save_state` left off; returns updates done, target tokens seen and hours spent.

    Raises:
        TrainingError: The checkpoint cannot be read, or does not fit the recipe's model.
    """
    if not run.last.exists():
        return 0, 0, 0.0
    state = _read_state(run.last, trainer.device)
    weights = trainer.super_transformer.weights
    shapes = {name: tuple(w.shape) for name, w in state["weights"].items()}
    if shapes != {name: tuple(w.shape) for name, w in weights.items()}:
        raise TrainingError(f"{run.last} belongs to another model than the recipe: use another --run-dir")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(state["weights"][name])
    trainer.optimizer.load_state_dict(state["optimizer"])
    trainer.scaler.load_state_dict(state["scaler"])
    return int(state["update"]), int(state["num_tokens_seen"]), float(state["hours"])


def _read_state(path: Path, device: torch.device) -> dict[str, Any]:
    """The content of a checkpoint.

    Raises:
        TrainingError: It is truncated, altered or no checkpoint of ours.
    """
    remedy = f"use another --run-dir, or remove {path.name} to begin anew"
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).strip().split("\n", 1)[0].split(". ", 1)[0]
        raise TrainingError(f"{path}: cannot be read as a checkpoint ({reason}): {remedy}") from error
    needed = ("update", "num_tokens_seen", "hours", "weights", "optimizer", "scaler")
    missing = [key for key in needed if not isinstance(state, dict) or key not in state]
    if missing:
        raise TrainingError(f"{path}: holds no {missing[0]!r}: {remedy}")
    return dict(state)


def forget_rows_after(run: RunFolder, update: int) -> None:
    """Drop metrics of updates that a killed run did and did not save: they will be done again."""
    if not run.metrics.exists():
        return
    lines = run.metrics.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if line.endswith("}") and json.loads(line)["update"] <= update]
    if len(kept) < len(lines):
        with whole_file(run, run.metrics) as partial:
            partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The content of a weight file.

    Raises:
        TrainingError: It cannot be read.
    """
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{file}: cannot be read as weights ({error}): remove it") from error


def average_weights(files: list[Path]) -> dict[str, torch.Tensor]:
    """Mean of several weight files, computed in float64.

    Raises:
        TrainingError: No file is given, or one cannot be read.
    """
    if not files:
        raise TrainingError("no checkpoint to average: train first")
    total: dict[str, torch.Tensor] = {}
    for file in files:
        for name, weight in read_weights(file).items():
            total[name] = total[name] + weight.double() if name in total else weight.double()
    return {name: (weight / len(files)).float() for name, weight in total.items()}
