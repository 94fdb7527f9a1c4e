"""Parallel text as it lies on disk: gzipped UTF-8 TSV, one pair per line: source, tab, target. Judges no content."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dynhat_runtime.errors import TrainingError

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class BrokenLine:
    """A line that holds no pair.

    Attributes:
        number: Counted from 1.
        reason: What it is instead.
    """

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file of parallel text that was read to its end once, so that it is known to be whole."""

    path: Path
    sha256: str
    num_lines: int

    @classmethod
    def inspect(cls, path: Path) -> TextFile:
        """Read the whole file.

        Raises:
            TrainingError: It cannot be read, or has no line.
        """
        num_lines = sum(1 for _ in read_lines(path))
        if num_lines == 0:
            raise TrainingError(f"{path}: has no line: give a file of source, tab, target, or leave it out")
        return cls(path, hashlib.sha256(path.read_bytes()).hexdigest(), num_lines)


def read_lines(path: Path) -> Iterator[Pair | BrokenLine]:
    """Every line of a gzipped TSV file, as a pair where it is one.

    Raises:
        TrainingError: The file cannot be read, is not gzip, or is truncated.
    """
    try:
        with gzip.open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                yield _parsed(line, number)
    except (OSError, EOFError, zlib.error) as error:
        raise TrainingError(_unreadable(path, str(error))) from error


def read_pairs(path: Path) -> Iterator[Pair]:
    """Pairs of a file that has to be whole, such as a dev or test set.

    Raises:
        TrainingError: The file cannot be read, or a line has not exactly two columns.
    """
    for line in read_lines(path):
        if isinstance(line, BrokenLine):
            if line.reason == _NOT_UTF8:
                raise TrainingError(_unreadable(path, f"line {line.number} is {line.reason}"))
            raise TrainingError(f"{path}:{line.number}: {line.reason}; each line needs source, tab, target")
        yield line


_NOT_UTF8 = "not UTF-8"


def _parsed(line: bytes, number: int) -> Pair | BrokenLine:
    try:
        columns = line.rstrip(b"\r\n").decode("utf-8").split("\t")
    except UnicodeDecodeError:
        return BrokenLine(number, _NOT_UTF8)
    if len(columns) != 2:
        return BrokenLine(number, f"{len(columns)} columns")
    return columns[0], columns[1]


def _unreadable(path: Path, reason: str) -> str:
    return f"{path}: cannot be read as gzipped UTF-8 TSV ({reason}): give --data-dir its folder"
