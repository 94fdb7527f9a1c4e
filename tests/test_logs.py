"""Log lines: for people and for programs, and the request that each is about."""

from __future__ import annotations

import json
import logging
import threading

import pytest

from dynhat_runtime.logs import LogFormat, about_request, current_request_id, line_formatter


def line(
    log_format: LogFormat, message: str, *arguments: object, with_time: bool = True, **extra: object
) -> str:
    """A record as a line."""
    logger = logging.getLogger("test_logs")
    record = logger.makeRecord("test_logs", logging.WARNING, "f", 1, message, arguments, None, extra=extra)
    return line_formatter(log_format, with_time=with_time).format(record)


def test_a_line_for_people() -> None:
    """Time, level, what happened, then fields; what has white space in it is quoted."""
    with about_request("r-1"):
        text = line("console", "switch from=%s", "p1", to_point="p2", reason="too slow", empty="")
    time, level, *rest = text.split(" ", 2)
    assert time.endswith("Z")
    assert (level, rest) == (
        "WARNING",
        ["switch from=p1 to_point=p2 reason='too slow' empty='' request_id=r-1"],
    )


def test_a_line_for_programs() -> None:
    """One JSON object with what happened first, whatever the text."""
    with about_request("r-1"):
        text = line("json", "%s", 'a "b"\nc', code=200)
    assert "\n" not in text
    fields = json.loads(text)
    assert list(fields)[:3] == ["timestamp", "level", "event"]
    assert (fields["event"], fields["level"]) == ('a "b"\nc', "warning")
    assert (fields["code"], fields["request_id"]) == (200, "r-1")


def test_without_time() -> None:
    """A journal that has its own clock gets no second one."""
    assert line("console", "hello", with_time=False) == "WARNING hello"
    assert "timestamp" not in json.loads(line("json", "hello", with_time=False))


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback(log_format: LogFormat) -> None:
    """An exception's traceback is told, in JSON in the same line."""
    logger = logging.getLogger("test_logs")
    try:
        raise ZeroDivisionError("nothing to divide by")
    except ZeroDivisionError as error:
        info = (type(error), error, error.__traceback__)
        record = logger.makeRecord("test_logs", logging.ERROR, "f", 1, "failed", (), info)
    text = line_formatter(log_format).format(record)
    assert "nothing to divide by" in text
    assert "test_a_traceback" in text
    assert ("\n" in text) is (log_format == "console")


def test_an_id_is_of_its_own_request() -> None:
    """Outside of a request there is no id, and another thread's request is not ours."""
    assert current_request_id() is None
    seen = []
    with about_request("r-1"):
        thread = threading.Thread(target=lambda: seen.append(current_request_id()))
        thread.start()
        thread.join()
        with about_request("r-2"):
            seen.append(current_request_id())
        seen.append(current_request_id())
    assert seen == [None, "r-2", "r-1"]
