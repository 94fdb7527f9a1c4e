"""Which error becomes which answer: always `{"error": ...}`, never a traceback.

RequestError, UnknownOperatingPointError   400
PromiseError                               422
EngineOverloadedError                      429, Retry-After
EngineStoppedError                         503, Retry-After
HTTPException (404, 405, 408, 413, 504)    as it says
anything else                              500, and a log line
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from dynhat_runtime.errors import (
    EngineOverloadedError,
    EngineStoppedError,
    PromiseError,
    RequestError,
    UnknownOperatingPointError,
)

Handler = Callable[[Request, Exception], Awaitable[JSONResponse]]

RETRY_SOON = {"Retry-After": "1"}
CLIENT_GONE = 499
"""Nobody reads the answer; the number is the one proxies log."""


def error_answer(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The one shape that errors have."""
    return JSONResponse({"error": message}, status, headers)


def install(app: FastAPI) -> None:
    """Make `app` answer errors this way."""
    for error_type, status, headers in (
        (RequestError, 400, None),
        (UnknownOperatingPointError, 400, None),
        (PromiseError, 422, None),
        (EngineOverloadedError, 429, RETRY_SOON),
        (EngineStoppedError, 503, RETRY_SOON),
    ):
        app.add_exception_handler(error_type, _answer_ours(status, headers))
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)


def _answer_ours(status: int, headers: Mapping[str, str] | None) -> Handler:
    """A handler that passes our own message on."""

    async def answer(_request: Request, error: Exception) -> JSONResponse:
        return error_answer(status, str(error), headers)

    return answer


async def _answer_http(request: Request, error: Exception) -> JSONResponse:
    """Errors that are HTTP's own."""
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code == 404:
        message = f"no such path {request.url.path!r}: GET / names the paths there are"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        message = f"{request.method} is not possible here: use {allowed}"
    return error_answer(error.status_code, message, error.headers)


async def _answer_nobody(_request: Request, _error: Exception) -> JSONResponse:
    """The client left before its request was complete."""
    return error_answer(CLIENT_GONE, "client closed the connection")
