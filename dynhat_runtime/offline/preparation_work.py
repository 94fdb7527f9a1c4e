"""The work folder of a preparation: what its stages have finished, chunk by chunk, so that nothing is done twice.

A chunk's text is written before its record, and both under a temporary name first: a record vouches for its chunk.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from dynhat_runtime.errors import TrainingError
from dynhat_runtime.offline.cleaning import Reason
from dynhat_runtime.offline.parallel_text import Pair
from dynhat_runtime.offline.prepared_data import ShardRecord
from dynhat_runtime.offline.whole_files import write_bytes


class ChunkRecord(BaseModel):
    """What cleaning made of one chunk; `CorpusRecord` says the same of a whole corpus."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_pairs: int
    removed: dict[Reason, int]
    examples: dict[Reason, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """Files of chunks by their names."""

    path: Path

    def begin(self, identity: str) -> None:
        """Go on with work of the same identity; other work in the folder is thrown away.

        Raises:
            TrainingError: The folder cannot be written.
        """
        mark = self.path / "identity"
        try:
            if self.path.exists() and not (mark.exists() and mark.read_text(encoding="ascii") == identity):
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(
                f"{self.path}: cannot be written ({error.strerror}): give another folder"
            ) from error
        write_bytes(mark, identity.encode("ascii"), "--out")

    def cleaned(self, chunk: str) -> ChunkRecord | None:
        """What cleaning made of a chunk; None where it has not yet."""
        path = self._record(chunk)
        return ChunkRecord.model_validate_json(path.read_bytes()) if path.exists() else None

    def cleaned_record(self, chunk: str) -> ChunkRecord:
        """The same of a chunk that has been cleaned."""
        record = self.cleaned(chunk)
        assert record is not None
        return record

    def keep_cleaned(self, chunk: str, pairs: Sequence[Pair], record: ChunkRecord) -> None:
        """A chunk is cleaned."""
        write_bytes(self._text(chunk), "".join(f"{src}\t{tgt}\n" for src, tgt in pairs).encode(), "--out")
        write_bytes(self._record(chunk), record.model_dump_json().encode(), "--out")

    def pairs(self, chunk: str) -> Iterator[Pair]:
        """The pairs that stayed of a chunk."""
        with self._text(chunk).open(encoding="utf-8", newline="\n") as lines:
            for line in lines:
                source, target = line.rstrip("\n").split("\t")
                yield source, target

    def vocabulary(self) -> bytes | None:
        """The trained vocabulary; None where it is not yet."""
        path = self.path / "vocabulary"
        return path.read_bytes() if path.exists() else None

    def keep_vocabulary(self, model: bytes) -> None:
        """The vocabulary is trained."""
        write_bytes(self.path / "vocabulary", model, "--out")

    def shard(self, chunk: str) -> ShardRecord | None:
        """The record of a chunk's shard; None where it is not written yet."""
        path = self._shard(chunk)
        return ShardRecord.model_validate_json(path.read_bytes()) if path.exists() else None

    def keep_shard(self, chunk: str, record: ShardRecord) -> None:
        """A chunk's shard is written."""
        write_bytes(self._shard(chunk), record.model_dump_json().encode(), "--out")

    def _text(self, chunk: str) -> Path:
        return self.path / f"{chunk}.tsv"

    def _record(self, chunk: str) -> Path:
        return self.path / f"{chunk}.cleaned.json"

    def _shard(self, chunk: str) -> Path:
        return self.path / f"{chunk}.shard.json"
