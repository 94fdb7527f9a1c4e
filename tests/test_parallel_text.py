"""Parallel text on disk: what is read, and how a file or a line that is none is named."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from dynhat_runtime.errors import TrainingError
from dynhat_runtime.offline.parallel_text import BrokenLine, TextFile, read_lines, read_pairs
from tests.toy_text import toy_pairs, write_pairs


def test_pairs_are_read_in_order(tmp_path: Path) -> None:
    """What stands in the file comes out, umlauts included."""
    pairs = toy_pairs(5)
    assert list(read_pairs(write_pairs(tmp_path / "a.tsv.gz", pairs))) == pairs


@pytest.mark.parametrize(("line", "columns"), [("no tab", 1), ("one\ttwo\tthree", 3), ("", 1)])
def test_malformed_line_is_named(tmp_path: Path, line: str, columns: int) -> None:
    """A line without exactly two columns is refused by file and number."""
    path = tmp_path / "a.tsv.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(f"a\tb\n{line}\nc\td\n")
    with pytest.raises(TrainingError, match=rf"a\.tsv\.gz:2: {columns} columns"):
        list(read_pairs(path))


def _whole(path: Path) -> bytes:
    return write_pairs(path, toy_pairs(500)).read_bytes()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: whole[:-200],
        lambda whole: whole[:5],
        lambda whole: whole[:400] + b"\xff" * 40 + whole[440:],
        lambda whole: whole[:-8] + b"\0" * 8,
        lambda whole: b"source\ttarget\n",
        lambda whole: gzip.compress(b"\xff\xfe\t\xff\n"),
    ],
    ids=["truncated", "header only", "altered", "wrong checksum", "not gzip", "not UTF-8"],
)
def test_spoilt_file_is_named(tmp_path: Path, spoil) -> None:
    """A corpus file that is truncated, altered, or of another kind is refused by name in one line."""
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(spoil(_whole(path)))
    with pytest.raises(TrainingError, match=r"a\.tsv\.gz: cannot be read as gzipped UTF-8 TSV") as raised:
        list(read_pairs(path))
    assert "\n" not in str(raised.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A corpus file that is not there is refused by name, with the option that says where to look."""
    with pytest.raises(TrainingError, match=r"b\.tsv\.gz: .*--data-dir"):
        list(read_pairs(tmp_path / "b.tsv.gz"))


def test_broken_lines_are_told_from_pairs(tmp_path: Path) -> None:
    """Read line by line, a file gives its pairs, and its other lines with number and reason."""
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(gzip.compress(b"a\tb\r\nno tab\n\xff\tb\none\ttwo\tthree\nlast\tletzte"))
    assert list(read_lines(path)) == [
        ("a", "b"),
        BrokenLine(2, "1 columns"),
        BrokenLine(3, "not UTF-8"),
        BrokenLine(4, "3 columns"),
        ("last", "letzte"),
    ]


def test_a_file_is_looked_through(tmp_path: Path) -> None:
    """An inspected file has its lines counted; one without a line is refused by name."""
    assert TextFile.inspect(write_pairs(tmp_path / "a.tsv.gz", toy_pairs(7))).num_lines == 7
    with pytest.raises(TrainingError, match=r"b\.tsv\.gz: has no line"):
        TextFile.inspect(write_pairs(tmp_path / "b.tsv.gz", []))
