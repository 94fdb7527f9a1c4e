"""The application factory: routes, error answers and the gate around them, over one lifecycle."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI

from dynhat_runtime import __version__
from dynhat_runtime.service import error_answers, libretranslate, operations, promised, trace, web_page
from dynhat_runtime.service.gate import Gate
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.limits import RequestLimits
from dynhat_runtime.service.metrics import Metrics


def create_app(
    lifecycle: Lifecycle,
    limits: RequestLimits,
    recorder: Callable[[], trace.TracePort | None] = lambda: None,
) -> FastAPI:
    """The HTTP application.

    Args:
        lifecycle: Says whether translations are served, and by what; its owner moves it on.
        limits: How much one request may ask for.
        recorder: What holds the last events, or None as long as there is nothing to hold.
    """
    app = FastAPI(
        title="dynhat-runtime",
        version=__version__,
        docs_url=None,  # its page loads scripts from elsewhere, and a device may have no network
        redoc_url=None,
        redirect_slashes=False,
    )
    metrics = Metrics(lifecycle)
    error_answers.install(app)
    app.include_router(libretranslate.router(lifecycle, limits))
    app.include_router(promised.router(lifecycle, limits, metrics))
    app.include_router(operations.router(lifecycle, metrics))
    app.include_router(trace.router(recorder))
    app.include_router(web_page.router(operations.PATHS))
    paths = frozenset((*operations.PATHS, *web_page.PATHS))
    app.add_middleware(Gate, lifecycle=lifecycle, metrics=metrics, paths=paths)
    return app
