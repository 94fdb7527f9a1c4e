"""Tests of dynhat_runtime.http_server: stopped in every moment of a connection's beginning, in this process."""

from __future__ import annotations

import asyncio
import socket
import time
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.responses import PlainTextResponse

from dynhat_runtime.http_server import HEAD_S, HttpServer, OnePiece, WaitingForHeads

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


def test_who_stands_at_the_door_is_answered() -> None:
    """Whoever has connected when it ends, accepted or not yet, is answered, and whoever is idle may still ask."""

    async def ask_at_the_end() -> list[bytes]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = HttpServer(PlainTextResponse("here"))
            serving = asyncio.ensure_future(server.serve(sockets=[listener]))
            while not server.started:
                await asyncio.sleep(0.01)
            address = listener.getsockname()
            idle = socket.create_connection(address, PATIENCE_S)
            await asyncio.sleep(0.05)
            server.should_exit = True
            time.sleep(0.3)  # nobody is accepted meanwhile, as when the event loop is busy
            at_the_door = [socket.create_connection(address, PATIENCE_S) for _ in range(20)]
            for client in at_the_door:
                client.sendall(REQUEST)
            await asyncio.sleep(0.3)
            idle.sendall(REQUEST)
            await serving
            answers = [client.recv(4096) for client in (*at_the_door, idle)]
            for client in (*at_the_door, idle):
                client.close()
            return answers

    answers = asyncio.run(ask_at_the_end())
    assert {answer[:15] for answer in answers} == {b"HTTP/1.1 200 OK"}


def test_forced_to_end_it_waits_for_nobody() -> None:
    """With `force_exit` an idle connection keeps nobody."""

    async def serve() -> float:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = HttpServer(PlainTextResponse("here"))
            serving = asyncio.ensure_future(server.serve(sockets=[listener]))
            while not server.started:
                await asyncio.sleep(0.01)
            with socket.create_connection(listener.getsockname(), PATIENCE_S) as idle:
                await asyncio.sleep(0.05)
                server.should_exit = server.force_exit = True
                await serving
                return len(idle.recv(4096))

    assert asyncio.run(serve()) == 0


class Recorded:
    """A transport that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        """Note."""
        self.told.append(data)

    def close(self) -> None:
        """Note."""
        self.told.append("close")

    def is_closing(self) -> bool:
        """Whether it was told to close."""
        return "close" in self.told


def test_one_piece() -> None:
    """What one turn of the event loop writes goes out in one piece, also before closing; the rest passes through."""

    async def run() -> list[bytes | str]:
        transport = Recorded()
        joined = OnePiece(transport)  # type: ignore[arg-type]
        joined.write(b"head ")
        joined.write(b"body")
        joined.write(b"")
        assert transport.told == []
        await asyncio.sleep(0)
        assert transport.told == [b"head body"]
        joined.write(b"")
        await asyncio.sleep(0)
        joined.write(b"more")
        joined.write(b" and the end")
        assert not joined.is_closing()
        joined.close()
        assert joined.is_closing()
        await asyncio.sleep(0)
        return transport.told

    assert asyncio.run(run()) == [b"head body", b"more and the end", "close"]


def test_an_empty_piece_first() -> None:
    """What follows an empty piece in its turn is sent all the same, such as the end of a stream."""

    async def run() -> list[bytes | str]:
        transport = Recorded()
        joined = OnePiece(transport)  # type: ignore[arg-type]
        joined.write(b"")
        joined.write(b"0\r\n\r\n")
        await asyncio.sleep(0)
        return transport.told

    assert asyncio.run(run()) == [b"0\r\n\r\n"]


@dataclass(eq=False)
class Connection:
    """What of uvicorn's connections is looked at."""

    cycle: Any = None


def test_who_waits_for_heads() -> None:
    """A connection without a whole head for so long is overdue; one being answered, or that has asked anew, is not."""
    waiting = WaitingForHeads()
    silent, answered, asking = (
        Connection(),
        Connection(SimpleNamespace(response_complete=False)),
        Connection(),
    )
    asking.cycle = SimpleNamespace(response_complete=True)
    connections = [silent, answered, asking]
    assert waiting.overdue(connections, 0.0) == []
    asking.cycle = SimpleNamespace(response_complete=True)
    assert waiting.overdue(connections, HEAD_S) == []
    assert waiting.overdue(connections, HEAD_S + 1) == [silent]
    assert waiting.overdue([answered, asking], 2 * HEAD_S + 1) == [asking]
    assert waiting.overdue([silent], 2 * HEAD_S + 1) == []


def test_told_to_stop_before_it_began() -> None:
    """Told to stop before it began it accepts nobody, and ends."""

    async def serve() -> bool:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            server = HttpServer(PlainTextResponse("here"))
            await server.stop_accepting([listener])
            await server.serve(sockets=[listener])
            return server.started

    assert asyncio.run(serve()) is False
