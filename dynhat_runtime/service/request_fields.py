"""Checks that the translating routes share: texts within the limits, a choice among few, a number within bounds.

Every refusal is a RequestError that names the field, its value and the remedy.
"""

from __future__ import annotations

import asyncio
import reprlib
from collections.abc import Awaitable
from typing import Any

from fastapi import HTTPException

from dynhat_runtime.errors import RequestError, RequestTooLargeError
from dynhat_runtime.service.limits import RequestLimits

MAX_ALTERNATIVES = 16
"""More are never found: there are at most as many as the search has beams, less one."""


async def read_in_time(
    reading: Awaitable[dict[str, Any]], limits: RequestLimits, texts_field: str
) -> dict[str, Any]:
    """The fields that `reading` returns, unless they take too long to arrive.

    Raises:
        RequestTooLargeError: The body is larger than any within the limits.
        RequestError: It is no such thing.
        HTTPException: 408, it took too long.
    """
    try:
        return await asyncio.wait_for(reading, limits.timeout_s)
    except RequestTooLargeError as error:
        limit = f"{texts_field} may hold {limits.char_limit} characters per request"
        raise RequestTooLargeError(f"{error} ({limit})", texts_field) from None
    except asyncio.TimeoutError:
        raise HTTPException(408, f"the body took longer than {limits.timeout_s:g} s to arrive") from None


def check_texts(field: str, value: object, limits: RequestLimits) -> tuple[tuple[str, ...], bool]:
    """The texts, and whether they came as a list."""
    if value is None:
        raise RequestError(f"{field} is missing: send a text or a list of texts", field)
    is_batch = isinstance(value, list)
    texts: list[Any] = value if isinstance(value, list) else [value]
    if not texts:
        raise RequestError(f"{field} is an empty list: send 1 to {limits.batch_limit} texts", field)
    if len(texts) > limits.batch_limit:
        raise RequestTooLargeError(
            f"{field} holds {len(texts)} texts: the limit is {limits.batch_limit} texts per request", field
        )
    for position, text in enumerate(texts):
        name = f"{field}[{position}]" if is_batch else field
        if not isinstance(text, str):
            raise RequestError(f"{name} is {show(text)}, not a string: send a text or a list of texts", field)
        if not _is_unicode(text):
            raise RequestError(f"{name} holds half a surrogate pair: send valid Unicode", field)
    num_chars = sum(map(len, texts))
    if num_chars > limits.char_limit:
        raise RequestTooLargeError(
            f"{field} holds {num_chars} characters: the limit is {limits.char_limit} characters per request",
            field,
        )
    return tuple(texts), is_batch


def check_choice(field: str, value: object, allowed: tuple[str, ...]) -> str:
    """`value`, if it is one of those allowed."""
    choices = " or ".join(map(repr, allowed))
    if value is None:
        raise RequestError(f"{field} is missing: send {choices}", field)
    if not isinstance(value, str) or value not in allowed:
        raise RequestError(f"{field} {show(value)} is not served here: send {choices}", field)
    return value


def check_number(field: str, value: object, maximum: float) -> float | None:
    """`value`, if it is a number above 0 and at most `maximum`; None if it was not given."""
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # NaN compares false with everything, and so is refused, too.
    if not (is_number and 0 < value <= maximum):  # type: ignore[operator]
        raise RequestError(
            f"{field} {show(value)} cannot be: send a number above 0, at most {maximum:g}", field
        )
    return float(value)  # type: ignore[arg-type]


def check_count(field: str, value: object, maximum: int) -> int:
    """`value`, if it is a whole number from 0 on, or one in digits as forms send it; 0 if it was not given.

    More than `maximum` is `maximum`: there is no more to be had.
    """
    if value is None or value == "":
        return 0
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = min(int(value[:9]), maximum)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise RequestError(f"{field} {show(value)} cannot be: send a whole number, 0 or more", field)
    return min(value, maximum)


def check_number_of(field: str, value: object, maximum: int) -> int:
    """As `check_count`, of a field that only JSON sends: digits in a string are refused."""
    if isinstance(value, str):
        raise RequestError(f"{field} {show(value)} cannot be: send a whole number, 0 or more", field)
    return check_count(field, value, maximum)


def check_flag(field: str, value: object) -> bool:
    """`value`, if it is true or false; False if it was not given."""
    if value is not None and not isinstance(value, bool):
        raise RequestError(f"{field} {show(value)} cannot be: send true or false", field)
    return bool(value)


def show(value: object) -> str:
    """A short form of something a client sent, fit for a message."""
    return reprlib.repr(value)


def _is_unicode(text: str) -> bool:
    """False for what JSON can smuggle in and UTF-8 cannot carry out."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
