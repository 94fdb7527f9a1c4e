"""Is it alive, is it ready: for people, for LibreTranslate's clients, for Kubernetes and for KServe's.

Nothing here waits for the inference queue, needs a key, or asks the engine anything.

Rules:
  1  alive: the event loop answers, and nobody who watches has found decoding stuck;
  2  ready: loaded, not told to stop, and alive.
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from dynhat_runtime import __version__
from dynhat_runtime.service.lifecycle import Lifecycle
from dynhat_runtime.service.schemas import (
    HealthAnswer,
    LivenessAnswer,
    ModelAnswer,
    ReadinessAnswer,
    ServerAnswer,
)

MODEL = "translation"
"""The one model's name to KServe's clients, whatever bundle is loaded."""

PATHS = (
    "/health",
    "/livez",
    "/readyz",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    f"/v2/models/{MODEL}",
    f"/v2/models/{MODEL}/ready",
)

Status = Literal["ok", "loading", "draining", "error"]


def router(lifecycle: Lifecycle) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["health"])

    @routes.get("/health", response_model=HealthAnswer, responses={503: {"model": HealthAnswer}})
    async def get_health() -> JSONResponse:
        """200 when translations are served, 503 when not."""
        status = status_of(lifecycle)
        return JSONResponse(HealthAnswer(status=status).model_dump(), 200 if status == "ok" else 503)

    alive: dict[int | str, dict[str, Any]] = {503: {"model": LivenessAnswer}}
    ready: dict[int | str, dict[str, Any]] = {503: {"model": ReadinessAnswer}}

    @routes.get("/livez", response_model=LivenessAnswer, responses=alive)
    @routes.get("/v2/health/live", response_model=LivenessAnswer, responses=alive)
    async def get_live(response: Response) -> LivenessAnswer:
        """200 unless decoding is stuck; also while loading and draining."""
        response.status_code = 503 if lifecycle.is_stuck else 200
        return LivenessAnswer(live=not lifecycle.is_stuck)

    @routes.get("/readyz", response_model=ReadinessAnswer, responses=ready)
    @routes.get("/v2/health/ready", response_model=ReadinessAnswer, responses=ready)
    @routes.get(f"/v2/models/{MODEL}/ready", response_model=ReadinessAnswer, responses=ready)
    async def get_ready(response: Response) -> ReadinessAnswer:
        """200 when new clients should come here."""
        status = status_of(lifecycle)
        response.status_code = 200 if status == "ok" else 503
        return ReadinessAnswer(ready=status == "ok", status=status)

    @routes.get("/v2")
    async def get_server() -> ServerAnswer:
        """Name and version, as KServe has it."""
        return ServerAnswer(name="dynhat-runtime", version=__version__, extensions=[])

    @routes.get(f"/v2/models/{MODEL}")
    async def get_model() -> ModelAnswer:
        """The one model, as KServe has it. Translations are asked for elsewhere: GET / names the paths."""
        return ModelAnswer(name=MODEL, versions=[__version__], platform="dynhat", inputs=[], outputs=[])

    return routes


def status_of(lifecycle: Lifecycle) -> Status:
    """The phase in the words that health answers have had from the start."""
    if lifecycle.is_stuck:
        return "error"
    if lifecycle.phase == "leaving":
        return "draining"
    return lifecycle.phase
