"""What a training run reads: prepared data, found or made, and its batches in training order. Trains nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dynhat_runtime.errors import TrainingError
from dynhat_runtime.offline.data import Batch, TokenisedCorpus, collate, epoch_batches, padded_batches
from dynhat_runtime.offline.prepare import prepare
from dynhat_runtime.offline.prepared_data import PreparedData, manifest_path
from dynhat_runtime.offline.recipe import Recipe
from dynhat_runtime.offline.run_folder import RunFolder
from dynhat_runtime.offline.whole_files import write_bytes


# Rules, first match decides:
#   1  prepared data is named               -> that, if it was prepared for this recipe's data
#   2  a folder of text is named            -> prepared in the run folder; what is ready there is used
#   3  the run folder has prepared data     -> that
#   4  nothing                              -> refused
# A run keeps the tokenizer that it began with: data made with another is refused.
def training_data(
    recipe: Recipe, data_dir: Path | None, run: RunFolder, prepared: Path | None, console: Console
) -> PreparedData:
    """The prepared data of a run, by the rules above; its tokenizer and manifest are copied into the run folder.

    Raises:
        TrainingError: There is none, it is not this recipe's, or the text cannot be prepared.
    """
    if prepared is None and data_dir is not None:
        given = run.tokenizer if run.tokenizer.exists() else None
        data = prepare(recipe.data, data_dir, run.prepared, tokenizer=given, console=console)
    elif prepared is None and not manifest_path(run.prepared).exists():
        raise TrainingError(f"{run.path}: no data: give --data-dir with the text, or --prepared")
    else:
        data = PreparedData.open(prepared or run.prepared)
        data.check_fits(recipe.data, "give the recipe it was prepared with, or prepare it anew")
    if not run.tokenizer.exists():
        write_bytes(run.tokenizer, data.tokenizer.read_bytes(), "--run-dir")
    elif run.tokenizer.read_bytes() != data.tokenizer.read_bytes():
        raise TrainingError(
            f"{data.path} was prepared with another tokenizer than {run.tokenizer}: use another --run-dir"
        )
    write_bytes(run.data_manifest, manifest_path(data.path).read_bytes(), "--run-dir")
    return data


def load_corpora(
    recipe: Recipe, prepared: PreparedData
) -> tuple[TokenisedCorpus, np.ndarray[Any, Any], list[Batch]]:
    """Training pairs, their weights, and the development batches."""
    corpora = prepared.load(prepared.manifest.corpora)
    weights = np.repeat(
        [corpus.weight for corpus in recipe.data.corpora], [len(corpus) for corpus in corpora]
    )
    dev = TokenisedCorpus.join(prepared.load(prepared.manifest.dev))
    order = np.argsort(dev.tgt_lengths, kind="stable")
    return (
        TokenisedCorpus.join(corpora),
        weights,
        padded_batches(dev, order, recipe.loop.max_tokens_per_batch),
    )


def training_batches(
    recipe: Recipe,
    corpus: TokenisedCorpus,
    weights: np.ndarray[Any, Any],
    *,
    skip: int,
    rank: int,
    world_size: int,
) -> Iterator[list[Batch]]:
    """This process's micro-batches of one update after another, without end.

    Args:
        recipe: For seed and batch sizes.
        corpus: Training pairs.
        weights: Their expected occurrences per epoch.
        skip: Updates already done.
        rank: This process among `world_size`.
        world_size: Processes that share each update's micro-batches.
    """
    per_update = recipe.loop.num_batches_per_update
    update, epoch = 0, 0
    while True:
        batches = epoch_batches(
            corpus, weights, max_tokens=recipe.loop.max_tokens_per_batch, seed=recipe.loop.seed, epoch=epoch
        )
        if len(batches) < per_update:
            raise TrainingError(
                f"an epoch has {len(batches)} batches, fewer than num_batches_per_update={per_update}"
            )
        for begin in range(0, len(batches) - per_update + 1, per_update):
            if update >= skip:
                mine = batches[begin : begin + per_update][rank::world_size]
                yield [collate(corpus, indices.tolist()) for indices in mine]
            update += 1
        epoch += 1
