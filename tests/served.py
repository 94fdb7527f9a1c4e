"""A real server around a lifecycle, for tests of what asks a daemon."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from dynhat_runtime.service.app import create_app
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.limits import RequestLimits
from dynhat_runtime.service.trace import TracePort


@contextmanager
def served(
    lifecycle: Lifecycle,
    recorder: Callable[[], TracePort | None] = lambda: None,
    around: Callable[[ASGIApp], ASGIApp] = lambda app: app,
) -> Iterator[str]:
    """Where it listens; `around` may stand before the application."""
    listener = socket.create_server(("127.0.0.1", 0))
    app = around(create_app(lifecycle, RequestLimits(), recorder))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
