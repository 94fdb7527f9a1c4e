"""Text files that an option names: whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynhat_runtime.errors import SettingsError
from dynhat_runtime.offline.whole_files import check_writable, write_new_text, write_text


def test_file_is_replaced_whole(tmp_path: Path) -> None:
    """A file that is there is replaced, and no temporary file stays."""
    for text in ("one", "zwölf"):
        write_text(tmp_path / "a.txt", text, "--out")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "zwölf"
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


def test_new_file_replaces_nothing(tmp_path: Path) -> None:
    """A new file is written once; the second time it is refused and stays as it is."""
    write_new_text(tmp_path / "a.txt", "mine", "--out")
    with pytest.raises(SettingsError, match=r"a\.txt: is there already: remove it, or give another --out"):
        write_new_text(tmp_path / "a.txt", "yours", "--out")
    assert (tmp_path / "a.txt").read_text() == "mine"


@pytest.mark.parametrize("path", ["absent/a.txt", "."])
def test_what_cannot_be_written(tmp_path: Path, path: str) -> None:
    """A folder, or a file in a folder that is not there, is refused before and by writing, with the option."""
    check_writable(tmp_path / "a.txt", "--csv")
    for refuses in (
        lambda: check_writable(tmp_path / path, "--csv"),
        lambda: write_text(tmp_path / path, "text", "--csv"),
    ):
        with pytest.raises(SettingsError, match=r"cannot be written .*give --csv a file you may write"):
            refuses()
