"""Tests of dynhat_runtime.journal_lines."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from dynhat_runtime.journal_lines import JournalFormatter, leads_to_journal


def formatted(level: int, message: str, **more: object) -> str:
    """A record as the journal gets it."""
    record = logging.makeLogRecord({"levelno": level, "msg": message, **more})
    return JournalFormatter(logging.Formatter("%(message)s")).format(record)


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2), (35, 4)],
)  # fmt: skip
def test_priority(level: int, priority: int) -> None:
    """A level has syslog's priority, and one between two levels that of the lower."""
    assert formatted(level, "text") == f"<{priority}>text"


def test_every_line_of_a_traceback() -> None:
    """The journal makes an entry of every line, so each has the priority."""
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        text = formatted(logging.ERROR, "failed", exc_info=(type(error), error, error.__traceback__))
    lines = text.splitlines()
    assert lines[0] == "<3>failed"
    assert lines[-1] == "<3>lines"
    assert all(line.startswith("<3>") for line in lines)


def test_only_the_stream_that_was_connected(tmp_path: Path) -> None:
    """A stream is the journal's if it is the very one that systemd connected, and not another since."""
    with (tmp_path / "a").open("w") as journal, (tmp_path / "b").open("w") as other:
        status = os.fstat(journal.fileno())
        environment = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert leads_to_journal(journal, environment)
        assert not leads_to_journal(other, environment)
        assert not leads_to_journal(journal, {})
    assert not leads_to_journal(journal, environment)
