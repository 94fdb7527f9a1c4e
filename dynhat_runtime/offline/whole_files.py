"""Writing a file that somebody asked for by an option: whole or not at all, and named when it cannot be done."""

from __future__ import annotations

import os
from pathlib import Path

from dynhat_runtime.errors import SettingsError


def write_text(path: Path, text: str, option: str) -> None:
    """Write a text file as `write_bytes` does."""
    write_bytes(path, text.encode(), option)


def write_bytes(path: Path, content: bytes, option: str) -> None:
    """Write a file under a temporary name first, so that an interruption leaves the previous one whole.

    Args:
        path: The file; one that is there is replaced.
        content: Its content.
        option: What named it, or its folder, such as `--out`.

    Raises:
        SettingsError: It cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise SettingsError(
            f"{path}: cannot be written ({error.strerror}): give {option} a file you may write"
        ) from error


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, which is made when there is none; on disk when this returns, and whole or not at all.

    Args:
        path: The file.
        line: With the end that the file's lines have.

    Raises:
        OSError: It cannot be written; the caller knows which option names it.
    """
    left = line.encode()
    with path.open("ab", buffering=0) as file:
        size_bytes = file.seek(0, os.SEEK_END)
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size_bytes)  # a full disk took a part of it
            raise


def write_new_text(path: Path, text: str, option: str) -> None:
    """Write a file that is not there yet.

    Raises:
        SettingsError: It is there, or cannot be written.
    """
    if path.exists():
        raise SettingsError(f"{path}: is there already: remove it, or give another {option}")
    write_text(path, text, option)


def check_writable(path: Path, option: str) -> None:
    """Say now what writing would say later, after the work.

    Raises:
        SettingsError: `path` is a folder, or its folder is not there or may not be written to.
    """
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        reason = "is a folder" if path.is_dir() else f"no folder {folder} to write to"
        raise SettingsError(f"{path}: cannot be written ({reason}): give {option} a file you may write")
