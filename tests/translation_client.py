"""A client as a process, for another network name space.

    translation_client.py WHERE NUMBER CONCURRENCY REQUEST_ID KEY

WHERE is http://HOST:PORT or the path of a unix socket. Sends translations, each on a connection of its own, and prints
a JSON object: how many were answered with each status, and each failure in words.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

TIMEOUT_S = 60.0
SENTENCE = "A man is riding a bicycle."


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(self._path)


def translate(where: str, request_id: str, key: str) -> str:
    """The status of one translation, or what went wrong."""
    is_url = where.startswith("http://")
    connection = (
        http.client.HTTPConnection(urlsplit(where).netloc, timeout=TIMEOUT_S)
        if is_url
        else UnixConnection(where)
    )
    try:
        headers = {"Content-Type": "application/json", "X-Request-ID": request_id}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        body = json.dumps({"q": SENTENCE, "source": "en", "target": "de"})
        connection.request("POST", "/translate", body, headers)
        response = connection.getresponse()
        answer = json.load(response)
        return f"{response.status}" if answer.get("translatedText") else f"{response.status} {answer}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return repr(error)
    finally:
        connection.close()


if __name__ == "__main__":
    with ThreadPoolExecutor(int(sys.argv[3])) as pool:
        where, number, _, request_id, key = sys.argv[1:]
        work = [pool.submit(translate, where, request_id, key) for _ in range(int(number))]
        print(json.dumps(Counter(each.result() for each in work)))
