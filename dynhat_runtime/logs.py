"""How log lines look: for people, or one JSON object a line, and the request that each is about.

The only importer of structlog. Everybody logs with the standard library; fields given as `extra` are shown.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TextIO

import structlog

from dynhat_runtime.journal_lines import JournalFormatter, leads_to_journal

LogFormat = Literal["console", "json"]

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

EventDict = MutableMapping[str, Any]


def current_request_id() -> str | None:
    """The request that is being served here, None outside of any."""
    return _request_id.get()


@contextmanager
def about_request(request_id: str) -> Iterator[None]:
    """Log lines written inside, and by what is started inside, carry this request's id."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


def configure_logging(level: str, log_format: LogFormat, stream: TextIO | None = None) -> None:
    """Send everything that is logged to `stream`, in that format; may be called again.

    Args:
        level: Least severe line shown: debug, info, warning or error.
        log_format: How lines look.
        stream: Where they go; None takes standard error.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    if leads_to_journal(stream or sys.stderr):
        handler.setFormatter(JournalFormatter(line_formatter(log_format, with_time=False)))
    else:
        handler.setFormatter(line_formatter(log_format))
    root = logging.getLogger()
    for old in list(root.handlers):
        if getattr(old, "is_dynhat", False):
            root.removeHandler(old)
    handler.is_dynhat = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    root.setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, root.level))


def line_formatter(log_format: LogFormat, *, with_time: bool = True) -> logging.Formatter:
    """What turns a record into a line; without the time for a journal that has its own clock."""
    shared: list[Any] = [
        structlog.stdlib.ExtraAdder(),
        _add_request_id,
        structlog.stdlib.add_log_level,
        *([structlog.processors.TimeStamper(fmt="iso", utc=True)] if with_time else []),
    ]
    if log_format == "json":
        last: list[Any] = [
            structlog.processors.format_exc_info,
            _json_fields,
            structlog.processors.JSONRenderer(),
        ]
    else:
        last = [structlog.processors.format_exc_info, _console_line]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )


def _add_request_id(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Name the request that the line is about, unless it names its own."""
    request_id = _request_id.get()
    if request_id is not None:
        event.setdefault("request_id", request_id)
    return event


def _json_fields(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """What must be there comes first."""
    first = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event}
    return {**first, **event}


def _console_line(_logger: Any, _method: str, event: EventDict) -> str:
    """`time LEVEL what happened field=value ...`, and below it the traceback if there is one."""
    traceback = event.pop("exception", None)
    time = f"{event.pop('timestamp')} " if "timestamp" in event else ""
    start = f"{time}{event.pop('level').upper()} {event.pop('event')}"
    fields = "".join(f" {name}={_value(value)}" for name, value in event.items())
    return f"{start}{fields}" + (f"\n{traceback}" if traceback else "")


def _value(value: object) -> str:
    """A field's value, quoted where a space would end it."""
    text = str(value)
    return repr(text) if not text or any(character.isspace() for character in text) else text
