"""The kernel's small text files: read one, read it if it is there, take a number out of it. Knows no sensor.

A read may hang in a driver: whoever calls this for a device's file does so on a sensor thread (`sensor.py`).
O_NONBLOCK would not help: files in /sys ignore it.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

LARGEST_FILE_BYTES = 64 * 1024
HZ_PER_KHZ = 1000.0
BYTES_PER_MIB = 2**20
FASTEST_BELIEVED_HZ = 20e9
COLDEST_BELIEVED_CELSIUS = -40.0
HOTTEST_BELIEVED_CELSIUS = 150.0
MOST_CPUS_BELIEVED = 8192


def read_text(path: Path | str) -> str:
    """The text of one of the kernel's small files, in three system calls; open() would make eight."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, LARGEST_FILE_BYTES).decode()
    finally:
        os.close(descriptor)


def read_text_if_there(path: Path | str) -> str | None:
    """The file's text; None if there is no such file. Any other trouble is raised."""
    try:
        return read_text(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def believable(value: float, low: float, high: float, what: str) -> float:
    """The value, if it lies within the bounds.

    Raises:
        ValueError: It does not (NaN never does), named by `what`.
    """
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{what} is {value:g}, not within {low:g} and {high:g}")
    return float(value)


def frequency_hz(value: float, what: str) -> float:
    """A clock or its ceiling, above zero.

    Raises:
        ValueError: No such clock exists.
    """
    return believable(value, 1.0, FASTEST_BELIEVED_HZ, what)


def cpu_list(text: str, what: str) -> tuple[int, ...]:
    """CPU numbers of a list such as `0-2,5`, rising; empty for an empty text.

    Raises:
        ValueError: It is no such list.
    """
    cpus: set[int] = set()
    for part in text.strip("\0 \n").split(","):
        if not part:
            continue
        first, _, last = part.partition("-")
        begin, end = int(first), int(last or first)
        if not 0 <= begin <= end < MOST_CPUS_BELIEVED:
            raise ValueError(f"{what} has {part!r}, which is no range of CPUs")
        cpus.update(range(begin, end + 1))
    return tuple(sorted(cpus))
