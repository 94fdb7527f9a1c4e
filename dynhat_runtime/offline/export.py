"""`dynhat export`: the last checkpoints of a training run, averaged, as a bundle that the daemon serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dynhat_runtime import __version__
from dynhat_runtime.decoding.tokenizer import SentencePieceTokenizer
from dynhat_runtime.errors import BundleError, TrainingError
from dynhat_runtime.model.checkpoint import SENTENCEPIECE_MODEL, Bundle, write_bundle
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.offline.prepared_data import PreparedManifest
from dynhat_runtime.offline.recipe import Recipe
from dynhat_runtime.offline.run_folder import RunFolder, average_weights, check_recipe
from dynhat_runtime.offline.trainer import spec_of

LENGTH_PENALTY = 1.2
"""Of our models, chosen on dev sets: see `docs/decisions/0026-length-penalty.md`."""
NO_REPEAT_SIZE = 4
"""Runs of so many tokens do not come twice in what our models say: see `docs/decisions/0025-nothing-comes-twice.md`."""


def export_bundle(recipe: Recipe, run_dir: Path, out: Path, num_averaged: int) -> Bundle:
    """Average the last `num_averaged` checkpoints of a run and write a bundle without operating points.

    Raises:
        TrainingError: The run has no checkpoint yet, or was another recipe's.
        BundleError: `out` cannot be written.
    """
    run = RunFolder(run_dir)
    check_recipe(run, recipe)
    files = run.weights()[-num_averaged:]
    weights = average_weights(files)
    spec = spec_of(recipe, SentencePieceTokenizer.load(run.tokenizer).src_vocab_size)
    try:
        SuperTransformer(spec, weights)
    except BundleError as error:
        raise TrainingError(f"{run_dir} was not trained with this recipe: {error}") from error
    name = f"{recipe.data.src_lang}-{recipe.data.tgt_lang}"
    return write_bundle(
        out,
        name=name if recipe.sampling.fixed is None else f"{name}-{recipe.sampling.fixed.id}",
        languages=(recipe.data.src_lang, recipe.data.tgt_lang),
        spec=spec,
        weights=weights,
        text_files={SENTENCEPIECE_MODEL: run.tokenizer.read_bytes()},
        training_record=training_record(recipe, run, files),
        max_src_tokens=recipe.data.max_tokens_per_sentence,
        length_penalty=LENGTH_PENALTY,
        no_repeat_size=NO_REPEAT_SIZE,
    )


def training_record(recipe: Recipe, run: RunFolder, files: list[Path]) -> dict[str, Any]:
    """How the weights came to be: recipe, data with licences, updates, tokens, and the last dev losses.

    Raises:
        TrainingError: The run has not been validated yet.
    """
    text = run.metrics.read_text(encoding="utf-8") if run.metrics.exists() else ""
    rows = [json.loads(line) for line in text.splitlines()]
    last_update = int(files[-1].stem.removeprefix("update_"))
    dev = [row for row in rows if row["kind"] == "dev" and row["update"] <= last_update]
    if not dev:
        raise TrainingError(f"{run.metrics}: no dev loss yet: train until the first validation")
    started = json.loads(run.started_from.read_text(encoding="utf-8")) if run.started_from.exists() else None
    return {
        "dynhat_runtime": __version__,
        **({} if started is None else {"started_from": started}),
        "updates": last_update,
        "target_tokens_seen": dev[-1]["num_tokens_seen"],
        "hours": dev[-1].get("hours"),
        "checkpoints_averaged": [file.stem for file in files],
        "seed": recipe.loop.seed,
        "dev_set": [corpus.file for corpus in recipe.data.dev],
        "dev_loss": {key: value for key, value in dev[-1].items() if key.startswith("dev_")},
        "dev_loss_history": [{key: row[key] for key in HISTORY_FIELDS if key in row} for row in dev],
        "data": [
            {**corpus.model_dump(), **counts}
            for corpus, counts in zip(recipe.data.corpora, _data_counts(run, recipe), strict=True)
        ],
        "cleaning": recipe.data.cleaning.model_dump(mode="json"),
        "recipe": recipe.model_dump(mode="json", exclude={"data"}),
    }


HISTORY_FIELDS = ("update", "num_tokens_seen", "hours", "dev_nll_largest", "dev_nll_smallest")
"""Of a validation, kept in the training record."""


def _data_counts(run: RunFolder, recipe: Recipe) -> list[dict[str, Any]]:
    """What stayed of each corpus, as its preparation counted; nothing of a run that is older than preparations.

    Raises:
        TrainingError: The run's manifest of its data cannot be read.
    """
    if not run.data_manifest.exists():
        return [{} for _ in recipe.data.corpora]
    try:
        manifest = PreparedManifest.model_validate_json(run.data_manifest.read_bytes())
    except (OSError, ValidationError) as error:
        raise TrainingError(
            f"{run.data_manifest}: cannot be read ({error}): train on, it is written anew"
        ) from error
    return [
        {
            "num_lines": record.num_lines,
            "removed": record.removed,
            "num_pairs": record.num_pairs,
            "num_tgt_tokens": record.num_tgt_tokens,
        }
        for record in manifest.corpora
    ]
