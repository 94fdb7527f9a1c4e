"""The outermost layer: every request passes here on its way in, and every answer on its way out.

Counts requests, in flight and answered, names the operating point on /translate, and answers what nobody else
caught.
"""

from __future__ import annotations

import logging
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynhat_runtime.service.error_answers import CLIENT_GONE, error_answer
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.metrics import Metrics

POINT_HEADER = "X-Operating-Point"
POINT_PATHS = ("/translate", "/v1/translate")
OTHER_PATH = "other"
"""Stands in the metrics for every path there is not: what clients make up must not become a label."""

logger = logging.getLogger(__name__)


class Gate:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle, metrics: Metrics, paths: frozenset[str]) -> None:
        """Stand around `app`, of which `paths` are the routes."""
        self._app = app
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one connection's request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.monotonic()
        code: int | None = None

        async def send_through(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
                self._complete_headers(scope["path"], MutableHeaders(scope=message))
            await send(message)

        with self._lifecycle.request():
            try:
                await self._app(scope, receive, send_through)
            except Exception:
                logger.exception("%s %r failed", scope["method"], scope["path"])
                if code is None:
                    await error_answer(500, "internal error")(scope, receive, send_through)
            finally:
                route = scope["path"] if scope["path"] in self._paths else OTHER_PATH
                self._metrics.request_answered(route, code or CLIENT_GONE, time.monotonic() - began_s)

    def _complete_headers(self, path: str, headers: MutableHeaders) -> None:
        """Add what every answer carries: the point on /translate, a farewell at the end."""
        if path in POINT_PATHS:
            headers.setdefault(POINT_HEADER, self._lifecycle.active_point_id)
        if self._lifecycle.closes_connections:
            headers["Connection"] = "close"
