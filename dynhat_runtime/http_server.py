"""The HTTP server around an application: how it stops without losing anybody, and whom it hangs up on meanwhile.

The one door to uvicorn. Knows no routes, and handles no signal: the daemon says when to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from dynhat_runtime.service.stopwatch import ARRIVED_S

CLOSING_S = 2
"""What clients get to close their connections once everything is answered."""

FAREWELL_S = 1.0
"""How long a connection that is idle at the end may still bring a request, which is answered."""

HEAD_S = 10.0
"""How long the head of a request may take to arrive."""

TICKS_PER_LOOK = 10
"""uvicorn's ticks, of 0.1 s, between two looks for heads that take too long."""

POLL_S = 0.02
"""Between two looks; many turns of the event loop."""

TOO_SLOW_BODY = (
    b'{"error":"the head of the request took longer than %g s to arrive: send it at once"}' % HEAD_S
)
TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\nContent-Type: application/json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(TOO_SLOW_BODY), TOO_SLOW_BODY)
)
"""The answer of who has no request yet to give to the application."""


class Entrance:
    """The application that requests go to; another one may take its place between two requests."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request to the application of this moment, which keeps it to the end."""
        await self.app(scope, receive, send)


class OnePiece:
    """A transport that sends what is written in one turn of the event loop as one piece.

    uvicorn writes the head of an answer, its body and its end one by one. A process killed in between would leave a
    proxy with a head it has passed on and no body: too late to ask another daemon.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send, at the end of this turn."""
        if not data:
            return
        if not self._written:
            asyncio.get_running_loop().call_soon(self.flush)
        self._written.append(data)

    def flush(self) -> None:
        """Send what has been written."""
        if self._written:
            data = b"".join(self._written)
            self._written.clear()
            self._transport.write(data)

    def close(self) -> None:
        """Close, once everything written is sent."""
        self.flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        """Everything else is the transport's."""
        return getattr(self._transport, name)


class Connection(H11Protocol):
    """What uvicorn speaks with one client: an answer in one piece, and of a request the time when it came."""

    def connection_made(self, transport: Any) -> None:
        """Begin."""
        super().connection_made(OnePiece(transport))  # type: ignore[arg-type]  # all of it that is used

    def data_received(self, data: bytes) -> None:
        """Take what came, and note when: a request has arrived when the last of its head has."""
        self.app_state = {**self.app_state, ARRIVED_S: time.monotonic()}
        super().data_received(data)


class WaitingForHeads:
    """Which connections wait for the head of a request, and since when.

    uvicorn limits how long a connection may be idle between requests, and nothing before the first or within a head.
    """

    def __init__(self) -> None:
        self._since: dict[Any, tuple[object, float]] = {}

    def overdue(self, connections: Iterable[Any], now_s: float) -> list[Any]:
        """Those of uvicorn's connections that have kept us waiting for longer than `HEAD_S`."""
        earlier, self._since = self._since, {}
        for connection in connections:
            request = connection.cycle
            if request is not None and not request.response_complete:
                continue
            last_request, since_s = earlier.get(connection, (request, now_s))
            self._since[connection] = (request, since_s if last_request is request else now_s)
        return [connection for connection, (_, since_s) in self._since.items() if now_s - since_s > HEAD_S]


def _hang_up(connection: Any) -> None:
    """Close a connection; one that has begun a request is told why."""
    if connection.conn.trailing_data[0]:
        connection.transport.write(TOO_SLOW)
    connection.transport.close()


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
                http=Connection,
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
        self._leaves_queue = False
        self._waiting = WaitingForHeads()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leave signals to the daemon."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept, unless it has been told to end before."""
        if not self.should_exit:
            self._has_begun = True
            await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn's own tick, and now and then a look at who keeps us waiting."""
        if counter % TICKS_PER_LOOK == 0:
            for connection in self._waiting.overdue(self.server_state.connections, time.monotonic()):
                _hang_up(connection)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End without losing anybody who is connected: the door closes first, and what still comes in is answered.

        A `force_exit` waits for none of that.
        """
        if not self.force_exit:
            await self._see_off(sockets or [])
        await super().shutdown(sockets)

    async def _see_off(self, listeners: Sequence[socket.socket]) -> None:
        """Take in all who stand at the door, close it, and give them and the idle a moment to be answered."""
        if not self._leaves_queue:
            await self._take_in_and_close(listeners)
        until_s = time.monotonic() + FAREWELL_S
        await asyncio.sleep(POLL_S)  # whoever was being accepted is a connection by then
        while self.has_connections and not self.force_exit and time.monotonic() < until_s:
            await asyncio.sleep(POLL_S)

    async def _take_in_and_close(self, listeners: Sequence[socket.socket]) -> None:
        """Accept the whole queue and close the door behind the last, without a turn of the event loop between."""
        loop = asyncio.get_running_loop()
        accepted = []
        for listener in listeners:
            with contextlib.suppress(OSError):  # the queue is empty, or there is no descriptor left
                while True:
                    accepted.append(listener.accept()[0])
        for server in self.servers:
            server.close()
        for connection in accepted:
            connection.setblocking(False)
            with contextlib.suppress(OSError):  # gone already
                await loop.connect_accepted_socket(self._new_protocol, connection, ssl=self.config.ssl)

    def _new_protocol(self) -> asyncio.Protocol:
        """What uvicorn speaks with one connection."""
        return Connection(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    @property
    def has_connections(self) -> bool:
        """Whether anybody is connected."""
        return bool(self.server_state.connections)

    async def stop_accepting(self, listeners: Sequence[socket.socket]) -> None:
        """Leave newcomers in the queue of `listeners`, which stay open; whoever has been accepted is served on.

        For listeners that outlive this process. Only stops looking at them: to close a server would reset whoever has
        been accepted and is not yet a connection.
        """
        self._leaves_queue = True
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
