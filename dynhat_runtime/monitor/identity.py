"""Which device this is, so that measured figures carry its name. Reads nothing that changes while it runs."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def device_name(root: Path = Path("/")) -> str:
    """The board's name where the firmware tells it, the processor's otherwise, and the number of its CPUs.

    Args:
        root: Where `proc` is looked for.
    """
    return f"{_board(root) or _processor(root) or platform.machine()}, {os.cpu_count() or 1} CPUs"


def _board(root: Path) -> str | None:
    """Device-tree model of an Arm board, such as `NVIDIA Jetson Nano Developer Kit`."""
    try:
        return (root / "proc/device-tree/model").read_text().strip("\0 \n") or None
    except (OSError, UnicodeDecodeError):
        return None


def _processor(root: Path) -> str | None:
    try:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next((name for name in names if name), None)
