"""Many clients in one process: `python -m benchmarks.load_clients URL`, each with a connection of its own.

Each sends a request, reads the whole answer, and sends the next; one that was refused comes again after a moment.
Speaks just enough HTTP/1.1 for that, so that it takes little from the daemon that it measures. Judges nothing: in the
end it writes every request's fate as one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from itertools import count
from urllib.parse import quote_plus, urlsplit

from benchmarks.sentences import SENTENCES, sentences_of_30_words

SPREAD = (0.75, 1.25)
"""Of the wait that Retry-After asks for, so that those refused together do not come again together."""
ANSWER_S = 120.0
"""How long an answer may take before it counts as lost."""


@dataclass(slots=True)
class Fates:
    """What became of all requests."""

    num_sent: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    """Answers that arrived whole, by status."""
    lost: list[str] = field(default_factory=list)
    """Requests sent that no whole answer came for, each with what happened."""
    num_not_connected: int = 0
    """Attempts to connect that failed: nothing was sent."""
    num_hung_up: int = 0
    """Requests that met a connection closed while it was idle; the first byte never went out."""
    accepted_ms: list[float] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0
    cpu_s: float = 0.0
    """Of this process."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer."""

    status: int
    is_last: bool
    """The server closes the connection behind it."""
    retry_after_s: float
    """When to come again after a refusal; 1 where nothing is said."""


class LostError(Exception):
    """No whole answer came."""


def requests_of(host: str) -> list[bytes]:
    """Requests to all three facades: a third each, with a sentence, a long one, or a short text of three."""
    texts = []
    longer = sentences_of_30_words()
    for number, sentence in enumerate(SENTENCES):
        texts.append(sentence)
        if number % 4 == 0:
            texts.append(longer[number % len(longer)])
        if number % 8 == 0:
            texts.append(" ".join(SENTENCES[number : number + 3]))
    return [_request(host, number, text) for number, text in enumerate(texts)]


def _request(host: str, number: int, text: str) -> bytes:
    """The request with this text to the facade whose turn it is."""
    path, content_type, body = (
        ("/v1/translate", "application/json", json.dumps({"text": text, "source": "en", "target": "de"})),
        ("/translate", "application/json", json.dumps({"q": text, "source": "en", "target": "de"})),
        (
            "/v2/translate",
            "application/x-www-form-urlencoded",
            f"text={quote_plus(text)}&source_lang=EN&target_lang=DE",
        ),
    )[number % 3]
    headers = f"Host: {host}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return f"POST {path} HTTP/1.1\r\n{headers}\r\n{body}".encode()


class Client:
    """One client: at most one connection, at most one request at a time."""

    def __init__(self, address: tuple[str, int], pause_s: float | None, fates: Fates) -> None:
        """Ask at `address`; come again `pause_s` after a refusal, None: when Retry-After says; note in `fates`."""
        self._address = address
        self._pause_s = pause_s
        self._fates = fates
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def keep_asking(self, requests: Sequence[bytes], first: int, until_s: float) -> None:
        """One request after the other until that time, or until nobody accepts connections any more."""
        for number in count(first):
            if time.monotonic() >= until_s:
                break
            if self._streams is None:
                try:
                    self._streams = await asyncio.open_connection(*self._address)
                except OSError:
                    self._fates.num_not_connected += 1
                    break
            await self._ask(requests[number % len(requests)])
        self._hang_up()

    async def _ask(self, request: bytes) -> None:
        """Send one request and note its fate."""
        assert self._streams is not None
        reader, writer = self._streams
        if reader.at_eof() or writer.is_closing():
            self._fates.num_hung_up += 1
            self._hang_up()
            return
        began_s = time.monotonic()
        self._fates.num_sent += 1
        try:
            writer.write(request)
            answer = await asyncio.wait_for(_read_answer(reader), ANSWER_S)
        except (OSError, LostError, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
            after_s = time.monotonic() - began_s
            self._fates.lost.append(f"{type(error).__name__} {error} after {after_s:.3f} s")
            self._hang_up()
            return
        elapsed_ms = (time.monotonic() - began_s) * 1e3
        self._fates.statuses[str(answer.status)] += 1
        (self._fates.accepted_ms if answer.status == 200 else self._fates.refused_ms).append(elapsed_ms)
        if answer.is_last:
            self._hang_up()
        if answer.status != 200:
            pause_s = (
                answer.retry_after_s * random.uniform(*SPREAD) if self._pause_s is None else self._pause_s
            )
            await asyncio.sleep(pause_s)

    def _hang_up(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _read_answer(reader: asyncio.StreamReader) -> Answer:
    """A head and as many bytes as it announces.

    Raises:
        LostError: It is no answer, or announces no length.
        IncompleteReadError: The connection ended before.
    """
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    parts = first.split(" ", 2)
    if len(parts) < 2 or not parts[1].isdigit() or not headers.get("content-length", "").isdigit():
        raise LostError(f"{first!r} is no answer with a length")
    await reader.readexactly(int(headers["content-length"]))
    retry_after = headers.get("retry-after", "")
    return Answer(
        status=int(parts[1]),
        is_last=headers.get("connection", "").lower() == "close",
        retry_after_s=float(retry_after) if retry_after.isdigit() else 1.0,
    )


async def ask(url: str, num_clients: int, seconds: float, pause_s: float | None) -> Fates:
    """All clients at once, begun over a second so that they do not march in step."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    requests = requests_of(address.netloc)
    fates = Fates()
    began_s = time.monotonic()
    until_s = began_s + seconds

    async def begin(number: int) -> None:
        await asyncio.sleep(min(1.0, seconds / 4) * number / num_clients)
        client = Client((str(address.hostname), int(address.port or 0)), pause_s, fates)
        await client.keep_asking(requests, number, until_s)

    await asyncio.gather(*(begin(number) for number in range(num_clients)))
    fates.elapsed_s, fates.cpu_s = time.monotonic() - began_s, time.process_time()
    return fates


def main(arguments: Sequence[str]) -> None:
    """Ask, then write what became of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load_clients", description=__doc__)
    parser.add_argument("url", help="where the daemon listens")
    parser.add_argument("--clients", type=int, default=200, help="how many (200)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long new requests are sent (60)")
    parser.add_argument("--pause-s", type=float, help="wait of a refused client (what Retry-After says)")
    asked = parser.parse_args(arguments)
    fates = asyncio.run(ask(asked.url, asked.clients, asked.seconds, asked.pause_s))
    print(json.dumps({each.name: getattr(fates, each.name) for each in fields(fates)}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
