"""Asks for /livez and /readyz in turns, as an orchestrator does: `python -m benchmarks.load_health URL`.

Every question comes on a connection of its own, and its time runs from before connecting to the whole answer. Judges
nothing: writes every time and status as one line of JSON when its standard input ends.
"""

from __future__ import annotations

import argparse
import json
import select
import socket
import sys
import time
from collections.abc import Sequence
from itertools import cycle
from urllib.parse import urlsplit

PATHS = ("/livez", "/readyz")
ANSWER_S = 30.0


def ask(address: tuple[str, int], path: str) -> tuple[int | None, float]:
    """Status of the answer, None if none came, and the time in ms."""
    began_s = time.monotonic()
    status = None
    try:
        with socket.create_connection(address, ANSWER_S) as connection:
            request = f"GET {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nConnection: close\r\n\r\n"
            connection.sendall(request.encode())
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
        status = int(received.split(b" ", 2)[1])
    except (OSError, ValueError, IndexError):
        pass  # no answer is an answer, too
    return status, (time.monotonic() - began_s) * 1e3


def main(arguments: Sequence[str]) -> None:
    """Ask until told to end, then write what came."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load_health", description=__doc__)
    parser.add_argument("url", help="where the daemon listens")
    parser.add_argument("--interval-s", type=float, default=0.05, help="time between two questions (0.05)")
    asked = parser.parse_args(arguments)
    url = urlsplit(asked.url)
    answers = []
    for path in cycle(PATHS):
        status, elapsed_ms = ask((str(url.hostname), int(url.port or 0)), path)
        answers.append([path, status, round(elapsed_ms, 3)])
        if select.select([sys.stdin], [], [], asked.interval_s)[0]:
            break
    print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
