"""The application factory: routes, error answers and the gate around them, over one lifecycle.

An application never changes: other limits or other keys make another one, over the same lifecycle and metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from dynhat_runtime import __version__
from dynhat_runtime.service import (
    deepl,
    early_refusal,
    error_answers,
    events,
    health,
    libretranslate,
    operations,
    promised,
    trace,
    web_page,
)
from dynhat_runtime.service.door import Door
from dynhat_runtime.service.gate import Gate
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.limits import RequestLimits
from dynhat_runtime.service.metrics import Metrics
from dynhat_runtime.service.ports import SpanPort
from dynhat_runtime.service.prefix import UnderPrefix
from dynhat_runtime.service.turnstile import Turnstile


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On what terms the application serves.

    Attributes:
        door: Who may ask; None lets everybody in.
        overload_status: What a full queue is answered with on our own paths.
        cors_origins: Origins whose pages may call; "*" is any, none is none.
        url_prefix: Path that all others stand below.
        shows_metrics: Whether there is a /metrics.
        metrics_token: What it has to be asked with; None asks for nothing.
    """

    door: Door | None = None
    overload_status: int = 503
    cors_origins: tuple[str, ...] = ()
    url_prefix: str = ""
    shows_metrics: bool = True
    metrics_token: str | None = None


def create_app(
    lifecycle: Lifecycle,
    limits: RequestLimits,
    recorder: Callable[[], trace.TracePort | None] = lambda: None,
    *,
    terms: Terms | None = None,
    metrics: Metrics | None = None,
    spans: SpanPort | None = None,
) -> FastAPI:
    """The HTTP application.

    Args:
        lifecycle: Says whether translations are served, and by what; its owner moves it on.
        limits: How much one request may ask for.
        recorder: What holds the last events, or None as long as there is nothing to hold.
        terms: Keys, origins and the like; None takes the defaults.
        metrics: Counted on in; None begins anew.
        spans: Hears of every answered request.
    """
    terms = terms or Terms()
    door = terms.door or Door()
    app = FastAPI(
        title="dynhat-runtime",
        version=__version__,
        docs_url=None,  # its page loads scripts from elsewhere, and a device may have no network
        redoc_url=None,
        redirect_slashes=False,
    )
    metrics = metrics or Metrics(lifecycle)
    error_answers.install(app, terms.overload_status)
    app.include_router(libretranslate.router(lifecycle, limits, door))
    app.include_router(deepl.router(lifecycle, limits, door))
    app.include_router(promised.router(lifecycle, limits, door, metrics))
    app.include_router(health.router(lifecycle))
    app.include_router(operations.router(lifecycle, door, metrics, terms.shows_metrics, terms.metrics_token))
    app.include_router(events.router(lifecycle, door))
    app.include_router(trace.router(recorder, door))
    app.include_router(web_page.router(operations.PATHS))
    app.add_middleware(
        early_refusal.EarlyRefusal, lifecycle=lifecycle, door=door, overload_status=terms.overload_status
    )
    if terms.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(terms.cors_origins),
            allow_methods=["GET", "POST", "PUT"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key", "X-Request-ID"],
            expose_headers=["X-Operating-Point", "X-Request-ID", "Retry-After"],
        )
    paths = frozenset((*operations.PATHS, *web_page.PATHS))
    app.add_middleware(Turnstile)
    app.add_middleware(Gate, lifecycle=lifecycle, metrics=metrics, paths=paths, spans=spans)
    if terms.url_prefix:
        app.add_middleware(UnderPrefix, prefix=terms.url_prefix)
    return app
