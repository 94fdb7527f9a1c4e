"""Which error becomes which answer: always `{"error": ...}`, never a traceback.

UnauthorizedError                          401, WWW-Authenticate; code missing_key or unknown_key
RateLimitedError                           429, Retry-After; code rate_limited
RequestTooLargeError                       413
RequestError, UnknownOperatingPointError   400
PromiseError                               422
EngineOverloadedError                      503 (or 429, a setting), Retry-After; code queue_full, queue
DeadlineError                              504; code deadline
EngineStoppedError                         503, Retry-After; code not_ready
HTTPException (404, 405, 408, 413)         as it says
anything else                              500, and a log line

LibreTranslate's paths differ, since its clients do: 400 for a missing key or a text too long, 403 for an unknown
key, 429 for a full queue; and their errors have nothing but `error`. DeepL's paths, /v2/ and /v3/ but KServe's, answer
`{"message": ...}` and nothing else: 403 for a missing or unknown key, 429 for a full queue, 503 for a promise that
cannot be kept.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from dynhat_runtime.errors import (
    DeadlineError,
    DynhatError,
    EngineOverloadedError,
    EngineStoppedError,
    PromiseError,
    RateLimitedError,
    RequestError,
    RequestTooLargeError,
    UnauthorizedError,
    UnknownOperatingPointError,
)

Handler = Callable[[Request, Exception], Awaitable[JSONResponse]]

RETRY_SOON_S = 1
CLIENT_GONE = 499
"""Nobody reads the answer; the number is the one proxies log."""

STATUS: Mapping[type[DynhatError], int] = {
    UnauthorizedError: 401,
    RateLimitedError: 429,
    RequestTooLargeError: 413,
    RequestError: 400,
    UnknownOperatingPointError: 400,
    PromiseError: 422,
    DeadlineError: 504,
    EngineStoppedError: 503,
}
"""On our own paths; that of a full queue is a setting."""
LIBRETRANSLATE_PATHS = ("/translate", "/detect", "/languages", "/frontend/settings")
LIBRETRANSLATE_STATUS: Mapping[type[DynhatError], int] = {
    RequestTooLargeError: 400,
    EngineOverloadedError: 429,
}
DEEPL_STATUS: Mapping[type[DynhatError], int] = {
    UnauthorizedError: 403,
    EngineOverloadedError: 429,
    PromiseError: 503,
}
KSERVE_PATHS = ("/v2/health", "/v2/models")


def is_deepl(path: str) -> bool:
    """Whether DeepL's clients ask there; also for what of DeepL's there is not."""
    return path.startswith(("/v2/", "/v3/")) and not path.startswith(KSERVE_PATHS)


def error_answer(
    status: int, message: str, headers: Mapping[str, str] | None = None, **more: object
) -> JSONResponse:
    """The one shape that errors have."""
    return JSONResponse({"error": message, **more}, status, headers)


def deepl_answer(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The shape that errors have on DeepL's paths."""
    return JSONResponse({"message": message}, status, headers)


def internal_error_answer(path: str) -> JSONResponse:
    """Of an error nobody expected, its reason untold."""
    return (deepl_answer if is_deepl(path) else error_answer)(500, "internal error")


def install(app: FastAPI, overload_status: int = 503) -> None:
    """Make `app` answer errors this way.

    Args:
        app: The application.
        overload_status: What a full queue is answered with on our own paths.
    """
    statuses = {**STATUS, EngineOverloadedError: overload_status}

    def answer_of(status: int) -> Handler:
        async def answer(request: Request, error: Exception) -> JSONResponse:
            return answer_to(error, request.url.path, status)

        return answer

    for error_type, status in statuses.items():
        app.add_exception_handler(error_type, answer_of(status))
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)


def answer_to(error: Exception, path: str, status: int) -> JSONResponse:
    """The answer to an error of ours, as whoever asks at `path` knows it; `status` is the one our own paths have."""
    if is_deepl(path):
        return deepl_answer(_deepl_status(error, status), str(error), headers_of(error))
    if path in LIBRETRANSLATE_PATHS:
        return error_answer(_libretranslate_status(error, status), str(error), headers_of(error))
    return error_answer(status, str(error), headers_of(error), **details_of(error))


def headers_of(error: Exception) -> dict[str, str]:
    """What an answer says of this error beside its text."""
    if isinstance(error, RateLimitedError | EngineOverloadedError):
        return {"Retry-After": str(error.retry_after_s)}
    if isinstance(error, EngineStoppedError):
        return {"Retry-After": str(RETRY_SOON_S)}
    if isinstance(error, UnauthorizedError):
        return {"WWW-Authenticate": "Bearer"}
    return {}


def details_of(error: Exception) -> dict[str, Any]:
    """What programs go by: a code, and with a full queue what is in it."""
    if isinstance(error, EngineOverloadedError):
        return {"code": "queue_full", "queue": error.queue}
    if isinstance(error, RateLimitedError):
        return {"code": "rate_limited"}
    if isinstance(error, UnauthorizedError):
        return {"code": "missing_key" if error.is_missing else "unknown_key"}
    if isinstance(error, DeadlineError):
        return {"code": "deadline"}
    if isinstance(error, EngineStoppedError):
        return {"code": "not_ready"}
    return {}


def _deepl_status(error: Exception, ours: int) -> int:
    """The status that DeepL's clients know."""
    return DEEPL_STATUS.get(type(error), ours)  # type: ignore[arg-type]


def _libretranslate_status(error: Exception, ours: int) -> int:
    """The status that LibreTranslate's clients know."""
    if isinstance(error, UnauthorizedError):
        return 400 if error.is_missing else 403
    return LIBRETRANSLATE_STATUS.get(type(error), ours)  # type: ignore[arg-type]


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    """Errors that are HTTP's own."""
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code == 404:
        message = f"no such path {request.url.path!r}: GET / names the paths there are"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{request.method} is not possible here: use {allowed}"
    answer = deepl_answer if is_deepl(request.url.path) else error_answer
    return answer(error.status_code, message, error.headers)


async def _answer_nobody(_request: Request, _error: Exception) -> JSONResponse:
    """The client left before its request was complete."""
    return error_answer(CLIENT_GONE, "client closed the connection")
