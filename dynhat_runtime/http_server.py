"""The HTTP server around an application, and how it stops accepting without losing anybody. The one door to uvicorn.

Knows no routes, and handles no signal: the daemon says when to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Generator, Sequence
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

CLOSING_S = 2
"""What clients get to close their connections once everything is answered."""

POLL_S = 0.02
"""Between two looks; many turns of the event loop."""


class Entrance:
    """The application that requests go to; another one may take its place between two requests."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request to the application of this moment, which keeps it to the end."""
        await self.app(scope, receive, send)


class HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: it would close the door before the daemon has drained."""

    def __init__(
        self, app: ASGIApp, tls_certificate: Path | None = None, tls_key: Path | None = None
    ) -> None:
        """Serve `app`, by HTTPS if there is a certificate; nothing is opened yet."""
        super().__init__(
            uvicorn.Config(
                app,
                interface="asgi3",
                http="h11",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=CLOSING_S,
                ssl_certfile=tls_certificate,
                ssl_keyfile=tls_key,
            )
        )
        self._has_begun = False

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the daemon."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept, unless it has been told to end before."""
        if not self.should_exit:
            self._has_begun = True
            await super().startup(sockets)

    @property
    def has_connections(self) -> bool:
        """Whether anybody is connected."""
        return bool(self.server_state.connections)

    async def stop_accepting(self, listeners: Sequence[socket.socket]) -> None:
        """Leave newcomers in the queue of `listeners`, which stay open; whoever has been accepted is served on.

        Only stops looking at them. To close a server would reset whoever has been accepted and is not yet a connection.
        """
        if not self._has_begun:
            self.should_exit = True
            return
        while not self.started:
            await asyncio.sleep(POLL_S)
        for listener in listeners:
            asyncio.get_running_loop().remove_reader(listener)
        await asyncio.sleep(POLL_S)  # whoever was being accepted is a connection by then

    def renew_certificate(self, tls_certificate: Path, tls_key: Path | None) -> None:
        """Take what these files hold now for connections to come."""
        if self.config.ssl is not None:
            self.config.ssl.load_cert_chain(tls_certificate, tls_key)
