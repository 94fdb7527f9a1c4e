"""Losses that were measured once and need not be again: one JSON object per line, only ever appended to.

A key says everything the loss depends on: a fingerprint (weights, dev text, subset, smoothing), the rung and the
gene. Measures nothing.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dynhat_runtime.errors import SearchError
from dynhat_runtime.offline.whole_files import append_line


class LossKey(NamedTuple):
    """What one loss belongs to. The gene is `DesignSpace.gene` of the config, so one per architecture."""

    fingerprint: str
    rung: str
    gene: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MeasuredLoss:
    """Nats per target token, and the wall seconds it took."""

    loss: float
    seconds: float


class LossCache:
    """The losses of one file, which need not exist yet.

    Raises:
        SearchError: The file cannot be read or written, or a line in it is none of ours. A last line that a
            killed process left unfinished is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[LossKey, MeasuredLoss] = {}
        try:
            with path.open("ab+") as file:
                file.seek(0)
                content = file.read()
                whole = content.rfind(b"\n") + 1
                file.truncate(whole)
        except OSError as error:
            raise self._cannot(error) from error
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                key, measured = _parsed(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                raise SearchError(f"{path}, line {number}: no measured loss: remove the line") from error
            self._rows[key] = measured

    def __len__(self) -> int:
        return len(self._rows)

    def get(self, key: LossKey) -> MeasuredLoss | None:
        """The loss, if it was measured."""
        return self._rows.get(key)

    def add(self, key: LossKey, measured: MeasuredLoss) -> None:
        """Keep a loss; on disk when this returns.

        Raises:
            SearchError: The file cannot be written.
        """
        row = {**key._asdict(), "loss": measured.loss, "seconds": round(measured.seconds, 4)}
        try:
            append_line(self.path, json.dumps(row) + "\n")
        except OSError as error:
            raise self._cannot(error) from error
        self._rows[key] = _parsed(row)[1]

    def _cannot(self, error: OSError) -> SearchError:
        return SearchError(f"{self.path}: cannot be used ({error.strerror}): give another --run-dir")


def _parsed(row: Any) -> tuple[LossKey, MeasuredLoss]:
    """Key and value of one line.

    Raises:
        ValueError: A value is none we write; so do KeyError and TypeError.
    """
    loss, seconds = float(row["loss"]), float(row["seconds"])
    if not math.isfinite(loss) or not seconds >= 0:
        raise ValueError("not a loss")
    gene = tuple(int(entry) for entry in row["gene"])
    return LossKey(str(row["fingerprint"]), str(row["rung"]), gene), MeasuredLoss(loss, seconds)
