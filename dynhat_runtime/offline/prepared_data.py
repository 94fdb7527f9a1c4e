"""Prepared data on disk: a tokenizer, shards of token ids, and a manifest of what they were made of.

A folder holds `prepared.json` (the manifest, written last), `report.md`, `tokenizer.model` and shards (`.npz`: ids and
lengths, 16 bits each where they fit, deflated). The same text and recipe give the same bytes. Cleans and tokenises
nothing: `prepare.py` does.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from dynhat_runtime.errors import TrainingError, first_complaint
from dynhat_runtime.offline.cleaning import Reason
from dynhat_runtime.offline.data import TokenisedCorpus
from dynhat_runtime.offline.recipe import DataRecipe, differing_fields

FREE_DATA_FIELDS = frozenset({"weight", "licence"})
"""Fields of a recipe's data that no shard depends on: they are read from the recipe that is trained."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ShardRecord(_Part):
    """One shard's file and what is in it."""

    file: str
    sha256: str
    num_pairs: int
    num_src_tokens: int
    num_tgt_tokens: int


class CorpusRecord(_Part):
    """What became of one corpus."""

    file: str
    text_sha256: str
    num_lines: int
    removed: dict[Reason, int]
    """Lines that gave no pair, by reason; those that removed none are not named."""
    examples: dict[Reason, tuple[int, ...]]
    """Numbers of the first few of those lines, counted from 1."""
    shards: tuple[ShardRecord, ...]

    @property
    def num_pairs(self) -> int:
        """Pairs kept."""
        return sum(shard.num_pairs for shard in self.shards)

    @property
    def num_src_tokens(self) -> int:
        """Source tokens kept, with an eos each."""
        return sum(shard.num_src_tokens for shard in self.shards)

    @property
    def num_tgt_tokens(self) -> int:
        """Target tokens kept, with an eos each."""
        return sum(shard.num_tgt_tokens for shard in self.shards)


class PreparedManifest(_Part):
    """Everything that decides what the shards hold, and what they hold."""

    format_version: Literal[1] = 1
    data: DataRecipe
    held_out_sha256: dict[str, str]
    tokenizer_sha256: str
    corpora: tuple[CorpusRecord, ...]
    dev: tuple[CorpusRecord, ...]


@dataclass(frozen=True, slots=True)
class PreparedData:
    """A folder that was prepared to the end."""

    path: Path
    manifest: PreparedManifest

    @classmethod
    def open(cls, path: Path) -> PreparedData:
        """Read the manifest.

        Raises:
            TrainingError: There is none, or it is broken.
        """
        file = manifest_path(path)
        try:
            return cls(path, PreparedManifest.model_validate_json(file.read_bytes()))
        except FileNotFoundError as error:
            raise TrainingError(
                f"{path}: holds no {file.name}: make or finish it with 'dynhat prepare-data --out {path}'"
            ) from error
        except (OSError, ValidationError) as error:
            reason = first_complaint(error) if isinstance(error, ValidationError) else error.strerror
            raise TrainingError(f"{file}: cannot be read ({reason}): prepare the data anew") from error

    @property
    def tokenizer(self) -> Path:
        """The sentencepiece model that the shards were made with."""
        return tokenizer_path(self.path)

    def check_fits(self, data: DataRecipe, remedy: str) -> None:
        """Refuse data that another recipe was prepared for.

        Raises:
            TrainingError: Naming the fields and both values.
        """
        differences = differing_fields(self.manifest.data, data, FREE_DATA_FIELDS)
        if differences:
            raise TrainingError(
                f"{self.path} was prepared with data.{', data.'.join(differences.values())}: {remedy}"
            )

    def load(self, corpora: Sequence[CorpusRecord]) -> list[TokenisedCorpus]:
        """The pairs of some of the manifest's corpora, in tokens.

        Raises:
            TrainingError: A shard is missing or altered.
        """
        return [TokenisedCorpus.join([self._shard(record) for record in corpus.shards]) for corpus in corpora]

    def _shard(self, record: ShardRecord) -> TokenisedCorpus:
        path = self.path / record.file
        try:
            content = path.read_bytes()
        except OSError as error:
            raise TrainingError(
                f"{path}: cannot be read ({error.strerror}): prepare the data anew"
            ) from error
        if hashlib.sha256(content).hexdigest() != record.sha256:
            raise TrainingError(f"{path}: is not what was prepared: prepare the data anew")
        try:
            return _unpacked(content)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise TrainingError(f"{path}: holds no tokens ({error}): prepare the data anew") from error


def manifest_path(folder: Path) -> Path:
    """The file that makes a folder prepared data."""
    return folder / "prepared.json"


def tokenizer_path(folder: Path) -> Path:
    """The tokenizer of prepared data."""
    return folder / "tokenizer.model"


def packed(corpus: TokenisedCorpus) -> bytes:
    """A shard's file: the same pairs give the same bytes."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        src_ids=_narrow(corpus.src_ids),
        src_lengths=_narrow(corpus.src_lengths),
        tgt_ids=_narrow(corpus.tgt_ids),
        tgt_lengths=_narrow(corpus.tgt_lengths),
    )
    return content.getvalue()


def _unpacked(content: bytes) -> TokenisedCorpus:
    with np.load(io.BytesIO(content)) as arrays:
        src_offsets, tgt_offsets = (
            np.concatenate([[0], np.cumsum(arrays[f"{side}_lengths"], dtype=np.int64)])
            for side in ("src", "tgt")
        )
        return TokenisedCorpus(arrays["src_ids"], src_offsets, arrays["tgt_ids"], tgt_offsets)


def _narrow(numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """In 16 bits where they fit, else in 32."""
    fits = len(numbers) == 0 or int(numbers.max()) <= np.iinfo(np.uint16).max
    return numbers.astype(np.uint16 if fits else np.uint32)
