"""A real server around a lifecycle, for tests of what asks a daemon."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from dynhat_runtime.service.app import create_app
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.limits import RequestLimits


@contextmanager
def served(lifecycle: Lifecycle) -> Iterator[str]:
    """Where it listens."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(create_app(lifecycle, RequestLimits()), log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
