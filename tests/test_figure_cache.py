"""Figures kept in a file: measured once, found again, and what is torn is measured again."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynhat_runtime.errors import SettingsError
from dynhat_runtime.offline.figure_cache import FigureCache, Figures, file_sha256


class Meter:
    """Counts how often it measures."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> Figures:
        """The next number."""
        self.count += 1
        return {"value": self.count, "unit": "ms", "none": None}


def test_a_figure_is_measured_once(tmp_path: Path) -> None:
    """Also by a later command; another key is another figure; the order of a key's parts does not matter."""
    file, meter = tmp_path / "figures" / "cache.jsonl", Meter()
    cache = FigureCache(file)
    assert cache.get({"a": 1, "b": (2, 3)}, meter) == {"value": 1, "unit": "ms", "none": None}
    assert cache.get({"b": (2, 3), "a": 1}, meter)["value"] == 1
    assert cache.get({"a": 1, "b": (2, 4)}, meter)["value"] == 2
    assert FigureCache(file).get({"a": 1, "b": (2, 3)}, meter)["value"] == 1
    assert meter.count == 2


def test_a_torn_line_is_measured_again(tmp_path: Path) -> None:
    """And does not spoil the one that is written next."""
    file, meter = tmp_path / "cache.jsonl", Meter()
    FigureCache(file).get({"a": 1}, meter)
    FigureCache(file).get({"a": 2}, meter)
    file.write_text(file.read_text()[:-20])
    assert FigureCache(file).get({"a": 1}, meter)["value"] == 1
    assert FigureCache(file).get({"a": 2}, meter)["value"] == 3
    assert FigureCache(file).get({"a": 2}, meter)["value"] == 3
    assert meter.count == 3


def test_a_file_of_something_else_is_not_believed(tmp_path: Path) -> None:
    """Lines that are no figures are passed over."""
    file = tmp_path / "cache.jsonl"
    file.write_text('[]\n{"key": "k"}\nnull\n')
    assert FigureCache(file).get({"a": 1}, Meter())["value"] == 1


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """It is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot be used to keep figures in"):
        FigureCache(tmp_path / "file" / "cache.jsonl")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="give another"):
        FigureCache(tmp_path / "bytes")


def test_file_hash(tmp_path: Path) -> None:
    """Of the content; a missing file is named."""
    (tmp_path / "empty").write_bytes(b"")
    assert file_sha256(tmp_path / "empty").startswith("e3b0c44298fc1c14")
    with pytest.raises(SettingsError, match=r"nothing.*cannot be read"):
        file_sha256(tmp_path / "nothing")
