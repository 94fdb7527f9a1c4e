"""Serves an application below a path, for whoever shares a host name by paths. What lies elsewhere is not there."""

from __future__ import annotations

from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from dynhat_runtime.service.error_answers import error_answer


class UnderPrefix:
    """ASGI middleware that takes the prefix off."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        """Stand before `app`; `prefix` begins with a slash and does not end in one."""
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass what lies below the prefix."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        if path != self._prefix and not path.startswith(f"{self._prefix}/"):
            answer = error_answer(404, f"no such path {path!r}: all paths lie below {self._prefix}")
            await answer(scope, receive, send)
            return
        if path == self._prefix:  # a page's relative addresses need the slash
            await RedirectResponse(f"{self._prefix}/", 308)(scope, receive, send)
            return
        inner = path[len(self._prefix) :]
        await self._app({**scope, "path": inner, "raw_path": inner.encode()}, receive, send)
