"""Tests of dynhat_runtime.http_server: stopped in every moment of a connection's beginning, in this process."""

from __future__ import annotations

import asyncio
import socket

import pytest
from starlette.responses import PlainTextResponse

from dynhat_runtime.http_server import HttpServer

REQUEST = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
PATIENCE_S = 10.0


async def answered(num_turns: int) -> bytes:
    """What a client gets that connected so many turns of the event loop before the server stopped accepting."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = HttpServer(PlainTextResponse("here"))
        serving = asyncio.ensure_future(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        client = socket.create_connection(listener.getsockname(), PATIENCE_S)
        for _ in range(num_turns):
            await asyncio.sleep(0)
        await server.stop_accepting([listener])
        client.sendall(REQUEST)
        client.setblocking(False)
        try:
            return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 4096), 0.5)
        except asyncio.TimeoutError:
            return b"waits"
        finally:
            client.close()
            server.should_exit = True
            await serving


@pytest.mark.parametrize("num_turns", [1, 2, 3, 4, 8])
def test_nobody_is_reset(num_turns: int) -> None:
    """Whoever connects while it stops accepting is answered, or waits in the socket's queue: never turned away."""
    assert asyncio.run(answered(num_turns))[:15] in (b"HTTP/1.1 200 OK", b"waits")


def test_accepted_is_answered() -> None:
    """Whoever has been accepted is answered."""
    assert asyncio.run(answered(20)).startswith(b"HTTP/1.1 200 OK")


def test_told_to_stop_before_it_began() -> None:
    """Told to stop before it began it accepts nobody, and ends."""

    async def serve() -> bool:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = HttpServer(PlainTextResponse("here"))
            await server.stop_accepting([listener])
            await server.serve(sockets=[listener])
            return server.started

    assert asyncio.run(serve()) is False
