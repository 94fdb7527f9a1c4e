"""What operators ask: health, the operating points, the active one and who chooses it.

Nothing here waits for the inference queue.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from dynhat_runtime import __version__
from dynhat_runtime.errors import RequestError
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.service.bodies import read_json_object
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from dynhat_runtime.service.schemas import (
    ErrorAnswer,
    HealthAnswer,
    OperatingPointAnswer,
    OperatingPointsAnswer,
    PointDescription,
)

MAX_BODY_BYTES = 4096

NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": ErrorAnswer}}


def router(lifecycle: Lifecycle) -> APIRouter:
    """The operational routes."""
    routes = APIRouter(tags=["operation"])

    @routes.get("/")
    async def get_root() -> dict[str, Any]:
        """Name, version, and where to go from here."""
        paths = ["/translate", "/languages", "/health", "/v1/operating-points", "/v1/operating-point"]
        return {"name": "dynhat-runtime", "version": __version__, "paths": [*paths, "/openapi.json"]}

    @routes.get("/health", response_model=HealthAnswer, responses={503: {"model": HealthAnswer}})
    async def get_health() -> JSONResponse:
        """200 when translations are served, 503 when not."""
        answer = HealthAnswer(status=lifecycle.phase)
        return JSONResponse(answer.model_dump(), 200 if answer.status == "ok" else 503)

    @routes.get("/v1/operating-points", responses=NOT_READY)
    async def get_operating_points() -> OperatingPointsAnswer:
        """All operating points, fastest first."""
        table = lifecycle.serving.engine.table
        return OperatingPointsAnswer(points=[PointDescription.of(point, table) for point in table])

    @routes.get("/v1/operating-point", responses=NOT_READY)
    async def get_operating_point() -> OperatingPointAnswer:
        """The active operating point, and why it is active."""
        return _state(lifecycle.serving)

    @routes.put("/v1/operating-point", responses={400: {"model": ErrorAnswer}, **NOT_READY})
    async def put_operating_point(request: Request) -> OperatingPointAnswer:
        """Pin an operating point, or let the governor choose again."""
        serving = lifecycle.serving
        point = check_choice(await read_json_object(request, MAX_BODY_BYTES), serving.engine.table)
        if point is None:
            await run_in_threadpool(serving.control.set_auto)
        else:
            await run_in_threadpool(serving.control.pin, point)
        return _state(serving)

    return routes


def check_choice(fields: dict[str, Any], table: OperatingPointTable) -> str | None:
    """The id of the point to pin, or None for auto.

    Raises:
        RequestError: Naming the field at fault, and what it may be.
        UnknownOperatingPointError: The table has no such point.
    """
    mode, point = fields.get("mode"), fields.get("point")
    if mode not in ("auto", "pinned"):
        raise RequestError("mode must be 'auto' or 'pinned'", "mode")
    if mode == "auto":
        if point is not None:
            raise RequestError("point belongs to mode 'pinned': leave it out with mode 'auto'", "point")
        return None
    if not isinstance(point, str):
        known = ", ".join(point.id for point in table)
        raise RequestError(
            f"point is missing or not a string: with mode 'pinned' choose one of {known}", "point"
        )
    return table[point].id


def _state(serving: Serving) -> OperatingPointAnswer:
    """Where the control loop stands."""
    return OperatingPointAnswer.of(serving.control.status(), serving.engine.table)
