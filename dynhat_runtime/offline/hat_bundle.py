"""`dynhat import-hat`: HAT / fairseq checkpoints, averaged, as a bundle that the daemon serves.

Checks everything before anything is written, writes into a folder beside the target and renames it at the end.
Measures nothing: the points come afterwards, from `profile`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynhat_runtime import __version__
from dynhat_runtime.design_space import DesignSpace
from dynhat_runtime.errors import BundleError, CheckpointError
from dynhat_runtime.model.checkpoint import (
    BPE_CODES,
    MANIFEST,
    PAPER_POINTS,
    SRC_DICT,
    TABLES,
    TGT_DICT,
    Bundle,
    write_bundle,
)
from dynhat_runtime.model.spec import SuperTransformerSpec, parameter_shapes
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.offline.hat_pickle import HatCheckpoint, read_checkpoint
from dynhat_runtime.offline.hat_spec import spec_of_checkpoint
from dynhat_runtime.offline.import_hat import weights_from_hat

NUM_SPECIAL_TOKENS = 4
MAX_SRC_TOKENS = 200
"""The reference generates at most so many target tokens; a longer source is split."""
LENGTH_PENALTY = 0.6
IWSLT_LENGTH_PENALTY = 1.0
"""What HAT's published scores were made with."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What comes with the checkpoints."""

    dictionary: Path
    tgt_dictionary: Path | None = None
    """None: one dictionary serves both languages."""
    bpe_codes: Path | None = None
    """None: text is not split into BPE pieces."""
    space: DesignSpace | None = None
    """None: found from the checkpoint."""
    src_lang: str | None = None
    tgt_lang: str | None = None
    """None: the checkpoint's own."""
    dtype: torch.dtype = torch.float16
    """Precision of the weights at rest."""


def import_checkpoints(
    paths: Sequence[Path],
    options: ImportOptions,
    out: Path,
    *,
    check: Callable[[DesignSpace], object] = lambda _: None,
) -> Bundle:
    """Average checkpoints of one training run and write them as a bundle without operating points.

    `check` is asked of the design space before anything is written; what it raises ends the import.

    Raises:
        CheckpointError: A checkpoint, the dictionary or the codes are not what they should be.
        DesignSpaceError: The design space asked for is not the checkpoint's.
        BundleError: `out` cannot be written.
    """
    _check_target(out)
    text_files = _text_files(options)
    first = read_checkpoint(paths[0])
    args, num_updates = first.args, [first.num_updates]
    spec = spec_of_checkpoint(first, options.space)
    _check_dictionaries(spec, text_files, options)
    check(spec.design_space)
    weights = _weights(first, spec)
    if len(paths) > 1:
        weights = {name: weight.float() / len(paths) for name, weight in weights.items()}
        del first
        for path in paths[1:]:
            other = read_checkpoint(path)
            num_updates.append(other.num_updates)
            for name, weight in _weights(other, spec).items():
                weights[name] += weight.float() / len(paths)
    _check_values(weights, options.dtype, paths)
    contents: dict[str, Any] = {
        "languages": _languages(args, options, paths[0]),
        "spec": spec,
        "weights": weights,
        "text_files": text_files,
        "training_record": _record(paths, args, num_updates),
        "max_src_tokens": MAX_SRC_TOKENS,
        "length_penalty": IWSLT_LENGTH_PENALTY if "iwslt" in str(args.get("arch")) else LENGTH_PENALTY,
        "dtype": options.dtype,
    }
    return _write(out, contents)


def count_dict_entries(content: bytes) -> int:
    """Vocabulary size of a fairseq dictionary: the 4 special tokens and one entry per line `symbol count`.

    Raises:
        CheckpointError: A line is something else.
    """
    lines = content.split(b"\n")
    if lines[-1].strip() == b"":
        lines.pop()
    for number, line in enumerate(lines, start=1):
        parts = line.removesuffix(b"\r").removesuffix(b" #fairseq:overwrite").rsplit(b" ", 1)
        if len(parts) != 2 or not parts[1].isdigit():
            raise CheckpointError(f"line {number} is not 'symbol count' as in a fairseq dictionary")
    return NUM_SPECIAL_TOKENS + len(lines)


def _weights(checkpoint: HatCheckpoint, spec: SuperTransformerSpec) -> dict[str, Tensor]:
    """The checkpoint's weights under our names, exactly those the spec needs."""
    state, path = checkpoint.state, checkpoint.path
    weights = weights_from_hat(state)
    if spec.tied_embeddings == "all":
        if "decoder.embedding" in weights:
            raise CheckpointError(
                f"{path}: 'share_all_embeddings' is set, but the embeddings of encoder and decoder differ"
            )
    elif "decoder.embed_tokens.weight" in state:
        weights["decoder.embedding"] = state["decoder.embed_tokens.weight"]
    if spec.tied_embeddings != "none" and "decoder.output" in weights:
        tied = weights.get("decoder.embedding", weights.get("encoder.embedding"))
        if tied is not None and torch.equal(weights["decoder.output"], tied):
            del weights["decoder.output"]  # newer fairseq stores the tied matrix once more
    for name in weights.keys() - parameter_shapes(spec).keys():
        keys = [key for key in state if name in weights_from_hat({key: state[key]})] or [name]
        raise CheckpointError(f"{path}: unexpected key {keys[0][:120]!r}: not part of HAT's architecture")
    try:
        SuperTransformer(spec, weights)
    except BundleError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return weights


def _check_values(weights: Mapping[str, Tensor], dtype: torch.dtype, paths: Sequence[Path]) -> None:
    largest = torch.finfo(dtype).max
    for name, weight in weights.items():
        if not weight.is_floating_point() or not bool(weight.isfinite().all()):
            raise CheckpointError(f"{paths[0]}: weight {name!r} holds values that are no numbers")
        if float(weight.abs().max()) > largest:
            raise CheckpointError(f"{paths[0]}: weight {name!r} does not fit half precision: use --keep-fp32")


def _text_files(options: ImportOptions) -> dict[str, bytes]:
    src_dict = _read(options.dictionary, "dictionary")
    return {
        SRC_DICT: src_dict,
        TGT_DICT: src_dict if options.tgt_dictionary is None else _read(options.tgt_dictionary, "dictionary"),
        BPE_CODES: b"" if options.bpe_codes is None else _read(options.bpe_codes, "BPE codes"),
    }


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: {what} cannot be read ({error.strerror})") from error


def _check_dictionaries(
    spec: SuperTransformerSpec, text_files: Mapping[str, bytes], options: ImportOptions
) -> None:
    sides = (
        ("source", options.dictionary, SRC_DICT, spec.src_vocab_size),
        ("target", options.tgt_dictionary or options.dictionary, TGT_DICT, spec.tgt_vocab_size),
    )
    for side, path, file, vocab_size in sides:
        try:
            num_entries = count_dict_entries(text_files[file])
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        if num_entries != vocab_size:
            raise CheckpointError(
                f"{path}: the dictionary makes {num_entries} tokens ({NUM_SPECIAL_TOKENS} special ones included); "
                f"the checkpoint's {side} vocabulary has {vocab_size}: give the dictionary it was trained with"
            )


def _languages(args: Mapping[str, Any], options: ImportOptions, path: Path) -> tuple[str, str]:
    src_lang = options.src_lang or args.get("source_lang")
    tgt_lang = options.tgt_lang or args.get("target_lang")
    if not isinstance(src_lang, str) or not isinstance(tgt_lang, str):
        raise CheckpointError(f"{path}: does not say its languages: give --src-lang and --tgt-lang")
    return src_lang, tgt_lang


def _record(
    paths: Sequence[Path], args: Mapping[str, Any], num_updates: Sequence[int | None]
) -> dict[str, Any]:
    """Where the weights come from. How they were trained is the checkpoint's own word."""
    wanted = ("arch", "lr", "lr_scheduler", "max_update", "dropout", "label_smoothing", "seed")
    files = []
    for path, updates in zip(paths, num_updates, strict=True):
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
        files.append({"file": path.name, "sha256": digest.hexdigest(), "updates": updates})
    settings = {
        key: args[key] for key in wanted if isinstance(args.get(key), str | int | float | list | bool)
    }
    return {"dynhat_runtime": __version__, "imported_from": files, "settings": settings, "data": []}


def _check_target(out: Path) -> None:
    """A new folder, an empty one, a bundle to replace, or a folder of published points."""
    if not out.exists():
        return
    if not out.is_dir():
        raise BundleError(f"{out}: is a file: give --out a folder")
    try:
        is_ours = not any(out.iterdir()) or (out / MANIFEST).exists() or (out / PAPER_POINTS).exists()
    except OSError as error:
        raise BundleError(f"{out}: cannot be read ({error.strerror})") from error
    if not is_ours:
        raise BundleError(f"{out}: holds other files and no bundle: give --out another folder")


def _write(out: Path, contents: Mapping[str, Any]) -> Bundle:
    partial = out.parent / f".{out.name}.importing-{os.getpid()}"
    src_lang, tgt_lang = contents["languages"]
    try:
        try:
            bundle = write_bundle(
                partial, name=f"{src_lang}-{tgt_lang}", text_pipeline="moses-bpe", **contents
            )
        except BundleError as error:
            raise BundleError(str(error).replace(str(partial), str(out))) from error
        _move(partial, out, bundle)
    except OSError as error:
        raise BundleError(
            f"{out}: cannot be written ({error.strerror}): give a folder you may write to"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Bundle(out, bundle.manifest, bundle.spec, bundle.contents)


def _move(partial: Path, out: Path, bundle: Bundle) -> None:
    """Rename the folder; into one that is there move the files, the manifest last, so that it is valid or refused."""
    if not out.exists():
        partial.rename(out)
        return
    for old in (out / TABLES).glob("*.json"):
        old.unlink()
    for name in (*bundle.manifest.files, MANIFEST):
        (partial / name).replace(out / name)
