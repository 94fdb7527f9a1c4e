"""Disks that are small, or may not be written to: a tmpfs mounted for one test. Needs root."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory


class Disk:
    """A mounted tmpfs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def resize(self, size_kib: int) -> None:
        """Make room, or take it away."""
        _mount("-o", f"remount,size={size_kib}k", self.folder)

    def fill(self) -> Path:
        """Use up what is left; the file that did."""
        ballast = self.folder / "ballast"
        free_bytes = os.statvfs(self.folder).f_bavail * os.statvfs(self.folder).f_frsize
        ballast.write_bytes(b"\0" * free_bytes)
        return ballast

    def make_read_only(self) -> None:
        """From now on nothing can be written."""
        _mount("-o", "remount,ro", self.folder)


@contextmanager
def small_disk(folder: Path, size_kib: int) -> Iterator[Disk]:
    """A disk of that size at `folder`, which is made; gone in the end with all that is on it."""
    folder.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size_kib}k", "none", folder)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@cache
def why_no_disk() -> str | None:
    """What keeps this machine from it; None if nothing does."""
    if os.geteuid() != 0:
        return "not root"
    with TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder) / "probe", 64):
                return None
        except (OSError, subprocess.SubprocessError) as error:
            return f"cannot mount a tmpfs ({error})"


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)
