"""Log lines with the priority that systemd's journal reads, where standard error leads to the journal.

A line that begins with <N> has the priority N of syslog (sd-daemon(3)). Chooses no format: it wraps whichever there is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TextIO

PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
    (logging.NOTSET, 7),
)
"""Least level of logging, and the priority from there on."""


class JournalFormatter(logging.Formatter):
    """Another formatter's lines, each with its priority: the journal takes every line of a traceback for an entry."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines."""
        return with_priority(self._inner.format(record), record.levelno)


def with_priority(text: str, level: int) -> str:
    """`text` with the priority of `level` before each line."""
    priority = next(priority for least, priority in PRIORITIES if level >= least)
    return "\n".join(f"<{priority}>{line}" for line in text.splitlines())


def leads_to_journal(stream: TextIO, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `stream` is the one that systemd connected to its journal, and not redirected since."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # no file behind it, or closed
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
