"""Tests of dynhat_runtime.service.turnstile: who begins when."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive, Scope, Send

from dynhat_runtime.service.turnstile import Turnstile

NOBODY: Any = None


class Begun:
    """An application that notes in which turn of the event loop a request begins."""

    def __init__(self) -> None:
        self.turn = 0
        self.seen: list[tuple[str, int]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note."""
        self.seen.append((scope["path"], self.turn))

    async def count_turns(self) -> None:
        """One after the other."""
        while True:
            await asyncio.sleep(0)
            self.turn += 1


def ask(turnstile: Turnstile, path: str) -> asyncio.Task[None]:
    """One request more."""

    async def pass_through() -> None:
        await turnstile({"type": "http", "path": path}, NOBODY, NOBODY)

    return asyncio.ensure_future(pass_through())


def test_one_a_turn_in_order_and_health_at_once() -> None:
    """Requests begin in turns that follow one another, in the order they came; health does not wait behind them."""

    async def run() -> Begun:
        begun = Begun()
        turnstile = Turnstile(begun)
        counting = asyncio.ensure_future(begun.count_turns())
        tasks = [ask(turnstile, f"/{number}") for number in range(5)]
        tasks.append(ask(turnstile, "/livez"))
        await asyncio.gather(*tasks)
        await asyncio.gather(ask(turnstile, "/later"))
        counting.cancel()
        return begun

    seen = asyncio.run(run()).seen
    assert seen[0][0] == "/livez"
    numbered = seen[1:6]
    assert [path for path, _ in numbered] == [f"/{number}" for number in range(5)]
    turns = [turn for _, turn in numbered]
    assert turns == list(range(turns[0], turns[0] + 5))
    assert seen[6][0] == "/later"


def test_who_gives_up_holds_up_nobody() -> None:
    """A request that is cancelled while it waits is passed over."""

    async def run() -> list[str]:
        begun = Begun()
        turnstile = Turnstile(begun)
        first, second, third = (ask(turnstile, path) for path in ("/1", "/2", "/3"))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(first, third)
        return [path for path, _ in begun.seen]

    assert asyncio.run(run()) == ["/1", "/3"]
