"""The outermost layer: every request passes here on its way in, and every answer on its way out.

Gives each request its id, counts requests, in flight and answered, logs each answer without any text, names the
operating point on the translating paths, tells the control loop what a request took besides being decoded, and
answers what nobody else caught.
"""

from __future__ import annotations

import asyncio
import logging
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynhat_runtime.logs import about_request
from dynhat_runtime.observation import Handling
from dynhat_runtime.service import stopwatch
from dynhat_runtime.service.error_answers import CLIENT_GONE, internal_error_answer, is_deepl
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.metrics import Metrics
from dynhat_runtime.service.ports import SpanPort
from dynhat_runtime.service.request_ids import REQUEST_ID_HEADER, choose_request_id

POINT_HEADER = "X-Operating-Point"
TRACE_ID_HEADER = "X-Trace-ID"
"""The request's id once more, as DeepL calls it."""
POINT_PATHS = ("/translate", "/v1/translate", "/v1/translate/stream", "/v2/translate")
OTHER_PATH = "other"
"""Stands in the metrics for every path there is not: what clients make up must not become a label."""
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")

QUIET_PATHS = ("/health", "/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready", "/v1/trace")
"""Asked by machines every few seconds: their answers are logged at level debug."""

logger = logging.getLogger(__name__)


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        lifecycle: Lifecycle,
        metrics: Metrics,
        paths: frozenset[str],
        spans: SpanPort | None = None,
    ) -> None:
        """Stand around `app`, of which `paths` are the routes; `spans` hears of every answer."""
        self._app = app
        self._spans = spans
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one connection's request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = choose_request_id(Headers(scope=scope).get(REQUEST_ID_HEADER))
        with about_request(request_id), self._lifecycle.request():
            await self._pass(scope, receive, send, request_id)

    async def _pass(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        watch = stopwatch.start(scope, is_alone=self._lifecycle.num_in_flight == 1)
        code: int | None = None

        async def send_through(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID_HEADER] = request_id
                if is_deepl(scope["path"]):
                    headers[TRACE_ID_HEADER] = request_id
                self._complete_headers(scope["path"], headers)
            await send(message)

        try:
            await self._app(scope, watch.timing_body(receive), send_through)
        except Exception:
            logger.exception("%s %r failed", scope["method"], scope["path"])
            if code is None:
                await internal_error_answer(scope["path"])(scope, receive, send_through)
        finally:
            # Behind the answer, which leaves at the end of this turn of the event loop: nobody waits for our notes.
            asyncio.get_running_loop().call_soon(self._note, scope, code or CLIENT_GONE, watch, request_id)

    def _note(self, scope: Scope, code: int, watch: stopwatch.Stopwatch, request_id: str) -> None:
        """What there is to note of an answered request."""
        self._note_handling(watch)
        self._note_answer(scope, code, time.monotonic() - watch.began_s, request_id)

    def _note_handling(self, watch: stopwatch.Stopwatch) -> None:
        """Tell the control loop what the request took besides being decoded."""
        handling_ms, serving = watch.handling_ms, self._lifecycle.loaded
        if handling_ms and serving is not None:
            serving.control.note_handling(Handling(monotonic_s=time.monotonic(), elapsed_ms=handling_ms))

    def _note_answer(self, scope: Scope, code: int, duration_s: float, request_id: str) -> None:
        """Count the answer, log it and draw it, without anything the client wrote."""
        route = scope["path"] if scope["path"] in self._paths else self._route_of(scope)
        method = scope["method"] if scope["method"] in METHODS else OTHER_PATH
        self._metrics.request_answered(route, method, code, duration_s)
        level = logging.DEBUG if route in QUIET_PATHS else logging.INFO
        if logger.isEnabledFor(level):
            fields = {
                "method": method,
                "route": route,
                "code": code,
                "duration_ms": round(duration_s * 1e3, 3),
            }
            logger.log(level, "answered", extra={**fields, **scope.get("state", {}).get("log_fields", {})})
        if self._spans is not None:
            ended_ns = time.time_ns()
            attributes: dict[str, str | int] = {
                "http.request.method": method,
                "http.route": route,
                "http.response.status_code": code,
                "dynhat.request_id": request_id,
                "dynhat.operating_point": self._lifecycle.active_point_id,
            }
            began_ns = ended_ns - int(duration_s * 1e9)
            self._spans.answered(f"{method} {route}", Headers(scope=scope), attributes, began_ns, ended_ns)

    def _route_of(self, scope: Scope) -> str:
        """The route with its parameters' names in place of what they were; one word for no route at all."""
        template = getattr(scope.get("route"), "path", None)
        return template if template in self._paths else OTHER_PATH

    def _complete_headers(self, path: str, headers: MutableHeaders) -> None:
        """Add what every answer carries: the point on the translating paths, a farewell at the end."""
        if path in POINT_PATHS:
            headers.setdefault(POINT_HEADER, self._lifecycle.active_point_id)
        if self._lifecycle.closes_connections:
            headers["Connection"] = "close"
