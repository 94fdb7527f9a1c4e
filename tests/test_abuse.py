"""The real daemon against clients that are slow, broken or hostile: clear answers, bounded memory, and it serves on."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from benchmarks.load_measure import rss_mib
from dynhat_runtime.model.checkpoint import Bundle
from tests.real_daemon import PATIENCE_S, Daemon
from tests.tiny_bundle import SENTENCES

pytestmark = pytest.mark.daemon

PATHS = ("/translate", "/v1/translate", "/v1/translate/stream", "/v2/translate", "/detect")
CHAR_LIMIT = 60_000
BODY_S = 5
"""What the daemon lets a body take."""
MEBIBYTE = 2**20
MOST_GROWTH_MIB = 48
"""Far below any of the bodies sent here, far above what serving takes."""


@pytest.fixture(scope="module")
def daemon(tiny_bundle: Bundle) -> Iterator[Daemon]:
    """One daemon for all that is done to it; it outlives everything and ends as told."""
    running = Daemon(tiny_bundle.path, char_limit=str(CHAR_LIMIT), request_timeout_s=str(BODY_S))
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def serves_on(daemon: Daemon) -> Iterator[None]:
    """After every test it translates, nothing is left in flight, and its log shows no traceback."""
    yield
    status, answer, _ = daemon.translate(SENTENCES[0])
    assert (status, bool(answer["translatedText"])) == (200, True)
    deadline_s = time.monotonic() + PATIENCE_S
    while requests_in_flight(daemon) > 1:  # the question itself is one
        assert time.monotonic() < deadline_s, "a request is held for ever"
        time.sleep(0.05)
    assert not [line for line in daemon.log if "Traceback" in line], daemon.log


def requests_in_flight(daemon: Daemon) -> float:
    """As the daemon counts them."""
    with urllib.request.urlopen(f"{daemon.url}/metrics", timeout=PATIENCE_S) as answer:
        found = re.search(rb"^dynhat_requests_in_flight (\S+)$", answer.read(), re.MULTILINE)
    assert found is not None
    return float(found[1])


def connect(daemon: Daemon) -> socket.socket:
    """A connection."""
    return socket.create_connection(daemon.address, PATIENCE_S)


def head(path: str, *lines: str, content_type: str = "application/json") -> bytes:
    """The head of a POST."""
    named = (f"POST {path} HTTP/1.1", "Host: here", f"Content-Type: {content_type}", *lines)
    return "\r\n".join((*named, "", "")).encode()


def read_all(connection: socket.socket) -> bytes:
    """Everything until the daemon closes; nothing if it cuts the connection."""
    received = b""
    try:
        while chunk := connection.recv(65536):
            received += chunk
    except ConnectionError:
        pass
    return received


def post(daemon: Daemon, path: str, body: bytes, content_type: str = "application/json") -> tuple[int, bytes]:
    """Status and body of an answer, whatever was sent."""
    with connect(daemon) as connection:
        lines = (f"Content-Length: {len(body)}", "Connection: close")
        connection.sendall(head(path, *lines, content_type=content_type) + body)
        received = read_all(connection)
    return int(received[9:12]), received.partition(b"\r\n\r\n")[2]


# --- slow and broken clients ---


def test_slow_clients(daemon: Daemon) -> None:
    """Heads and bodies that drip in are ended with 408 while others are served as ever."""
    with ExitStack() as stack:
        heads = [stack.enter_context(connect(daemon)) for _ in range(20)]
        bodies = [stack.enter_context(connect(daemon)) for _ in range(5)]
        for connection, path in zip(bodies, PATHS, strict=True):
            connection.sendall(head(path, "Content-Length: 100") + b'{"')
        ended = threading.Event()
        dripping = threading.Thread(target=_drip, args=(heads, ended))
        dripping.start()
        try:
            assert {read_all(connection)[:12] for connection in bodies} == {b"HTTP/1.1 408"}
            assert daemon.request("/readyz")[0] == 200
            answers = [read_all(connection) for connection in heads]
        finally:
            ended.set()
            dripping.join()
    assert {answer[:12] for answer in answers} == {b"HTTP/1.1 408"}
    assert "head of the request took longer" in json.loads(answers[0].partition(b"\r\n\r\n")[2])["error"]


def _drip(connections: list[socket.socket], ended: threading.Event) -> None:
    """A head that never ends, a byte at a time."""
    for byte in head("/translate", *(f"X-{number}: a" for number in range(1000))):
        for connection in connections:
            try:
                connection.send(bytes([byte]))
            except OSError:
                continue
        if ended.wait(0.2):
            return


def test_half_sent(daemon: Daemon) -> None:
    """Clients that go in the middle of a head, a body or a chunk leave nothing behind."""
    pieces = (
        b"POST /trans",
        head("/translate", "Content-Length: 100")[:-2],
        *(head(path, "Content-Length: 100") + b'{"text": "a' for path in PATHS),
        *(head(path, "Transfer-Encoding: chunked") + b'20\r\n{"text"' for path in PATHS),
    )
    for number in range(120):
        with connect(daemon) as connection:
            connection.sendall(pieces[number % len(pieces)])


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET / FTP/1.1\r\n\r\n",
        b"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /translate HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        b"POST /translate HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 1_000_000,
        b"\r\n" * 100 + b"\x00" * 100 + b"\r\n\r\n",
    ],
    ids=["tls", "version", "negative length", "two lengths", "bad chunk", "endless header", "zeros"],
)
def test_no_http(daemon: Daemon, nonsense: bytes) -> None:
    """What is no HTTP is answered with 400 or hung up on, at once."""
    with connect(daemon) as connection:
        try:
            connection.sendall(nonsense)
        except ConnectionError:
            return
        assert read_all(connection)[:12] in (b"HTTP/1.1 400", b"")


def test_a_slow_reader(daemon: Daemon) -> None:
    """Clients that ask for streams and never read them hold up nobody, and are gone when they go."""
    text = "\n".join(SENTENCES)[:CHAR_LIMIT]
    body = json.dumps({"text": text, "source": "en", "target": "de"}).encode()
    with ExitStack() as stack:
        for _ in range(4):
            connection = socket.socket()
            stack.enter_context(connection)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.connect(daemon.address)
            connection.sendall(head("/v1/translate/stream", f"Content-Length: {len(body)}") + body)
        assert daemon.translate(SENTENCES[1])[0] == 200
        assert daemon.request("/livez")[0] == 200


def test_many_connections(daemon: Daemon) -> None:
    """Two thousand connections that say nothing keep nobody from being answered."""
    with ExitStack() as stack:
        for _ in range(2000):
            stack.enter_context(connect(daemon))
        assert daemon.translate(SENTENCES[2])[0] == 200


def test_more_listeners_than_seats(daemon: Daemon) -> None:
    """Beyond 32 listeners to events the next is told to come later; those that go make room."""
    request = b"GET /v1/events HTTP/1.1\r\nHost: here\r\n\r\n"
    with ExitStack() as stack:
        statuses = []
        for _ in range(34):
            connection = stack.enter_context(connect(daemon))
            connection.sendall(request)
            statuses.append(connection.recv(12)[9:])
        assert statuses == [b"200"] * 32 + [b"429"] * 2


# --- too much ---


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("path", PATHS)
def test_a_huge_body(daemon: Daemon, path: str, is_chunked: bool) -> None:
    """100 MB are refused with what the path's clients know, before they are all there, and never held in memory."""
    before_mib = rss_mib(daemon.process.pid)
    length = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {100 * MEBIBYTE}"
    piece = b"100000\r\n" + b"a" * MEBIBYTE + b"\r\n" if is_chunked else b"a" * MEBIBYTE
    answer = b""
    with connect(daemon) as connection:
        connection.sendall(head(path, length))
        connection.setblocking(False)
        num_sent = 0
        deadline_s = time.monotonic() + PATIENCE_S
        while not answer and num_sent < 100 * len(piece):
            assert time.monotonic() < deadline_s
            try:
                num_sent += connection.send(piece[num_sent % len(piece) :])
            except BlockingIOError:
                time.sleep(0.001)
            try:
                answer = connection.recv(65536)
            except BlockingIOError:
                continue
    assert int(answer[9:12]) == (400 if path in ("/translate", "/detect") else 413)
    assert num_sent < 50 * MEBIBYTE
    assert rss_mib(daemon.process.pid) - before_mib < MOST_GROWTH_MIB


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 20_000,
        b'{"q": ' + b"[" * 50_000 + b"]" * 50_000 + b', "text": [[[["a"]]]]}',
        b'{"q": "\xff\xfe", "text": "\xc3\x28"}',
        b'{"q": "\\ud800", "text": "\\udfff", "source": "en", "target": "de", "target_lang": "DE"}',
        b'{"q": "a" "text": "a"}',
        b"",
        b"null",
        b"\x00" * 1000,
        b'{"q": 1e999, "text": 1e999}',
        b'{"q": ' + b"9" * 50_000 + b', "text": ' + b"9" * 50_000 + b"}",
    ],
    ids=[
        *(
            "deep list",
            "deep object",
            "nested texts",
            "no utf-8",
            "half surrogates",
            "no comma",
            "empty",
            "null",
        ),
        *("zeros", "infinite", "a long number"),
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_bad_bodies(daemon: Daemon, path: str, body: bytes) -> None:
    """A body that is nothing to translate is refused with 400 and one line of JSON that says why."""
    status, answer = post(daemon, path, body)
    assert status == 400, answer
    (message,) = json.loads(answer).values()
    assert message
    assert "\n" not in message


# --- odd texts ---

ODD_TEXTS = {
    "NUL bytes": "The man\x00 sees\x00\x00 a red house.\x00",
    "one endless word": "a" * 50_000,
    "endless digits": "7" * 50_000,
    "emoji flood": "😀" * 20_000,
    "joined emoji": "👩‍👩‍👧‍👦🏳️‍🌈" * 500,
    "right to left": "שלום עולם. السلام عليكم! Hello \u202eolleh\u202c.",
    "mixed scripts": "\u0422he m\u0430n 看见 a красный 집. ماذا ترى؟ " * 50,
    "stacked accents": "e" + "\u0301" * 5000,
    "zero width": "\u200b\u200c\u200d\ufeff" * 1000,
    "line breaks": "\n" * 20_000 + "The man sees a red house." + "\r\n\r" * 1000,
    "braces": "{" * 20_000 + "}" * 20_000,
    "percent signs": "%" * 20_000,
    "at signs": "@a" * 10_000,
    "addresses": "http://" * 5000,
    "stops": "." * 30_000,
    "one-letter sentences": "A. " * 2000,
    "private and unassigned": "\ue000\ufffe\uffff\U0010ffff" * 100,
}


@pytest.mark.parametrize("name", ODD_TEXTS)
def test_odd_texts(daemon: Daemon, name: str) -> None:
    """Odd texts are translated, or refused for what they cost; those without language come back as they were."""
    text = ODD_TEXTS[name]
    status, answer, _ = daemon.translate(text)
    assert status in (200, 429, 504), answer
    if status == 200:
        translated = answer["translatedText"]
        if not any(map(str.isalpha, text)):
            assert translated == text
        for kept in ("😀", "👩‍👩‍👧‍👦", "\n"):
            assert translated.count(kept) == text.count(kept)


@pytest.mark.parametrize(
    "markup",
    ["<b>" * 20_000, "<!--" * 5000, "&" * 20_000, "<a b='>" * 5000, "</p>" * 10_000, "<p><b>1</i>" * 5000],
)
def test_odd_markup(daemon: Daemon, markup: str) -> None:
    """Markup without end or beginning comes back as it was."""
    fields: dict[str, Any] = {"q": markup, "source": "en", "target": "de", "format": "html"}
    status, answer, _ = daemon.request("/translate", fields)
    assert status == 200
    assert len(answer["translatedText"]) >= len(markup)


def test_memory_after_all_that(daemon: Daemon) -> None:
    """Once it has seen a flood twice, another one of the same makes it no larger."""

    def flood() -> float:
        for text in ("emoji flood", "mixed scripts", "line breaks", "one-letter sentences"):
            assert daemon.translate(ODD_TEXTS[text])[0] in (200, 429, 504)
        return rss_mib(daemon.process.pid)

    flood()
    before_mib = flood()
    flood()
    assert rss_mib(daemon.process.pid) - before_mib < MOST_GROWTH_MIB
