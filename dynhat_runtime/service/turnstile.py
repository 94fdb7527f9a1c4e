"""Lets one request begin per turn of the event loop, so that whoever must be answered at once waits for few.

The loop does all that is ready in one turn. Under load that is the beginning of dozens of requests, milliseconds
each, and who has just connected to ask after the health would wait for all of them, turn after turn.
"""

from __future__ import annotations

import asyncio
from collections import deque

from starlette.types import ASGIApp, Receive, Scope, Send

from dynhat_runtime.service.health import PATHS


class Turnstile:
    """ASGI middleware: requests begin in the order they came, health's at once."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before `app`."""
        self._app = app
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_turning = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on when it is its turn."""
        if scope["type"] == "http" and scope["path"] not in PATHS:
            await self._turn()
        await self._app(scope, receive, send)

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        self._waiting.append(turn)
        if not self._is_turning:
            self._is_turning = True
            loop.call_soon(self._let_one_in)
        await turn

    def _let_one_in(self) -> None:
        """Whoever waits longest; who has given up meanwhile is passed over."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                asyncio.get_running_loop().call_soon(self._let_one_in)
                return
        self._is_turning = False
