"""What operators ask: health, the operating points, the active one and who chooses it.

Nothing here waits for the inference queue.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from dynhat_runtime.errors import RequestError
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.service.bodies import read_json_object
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from dynhat_runtime.service.metrics import CONTENT_TYPE, Metrics
from dynhat_runtime.service.request_fields import show
from dynhat_runtime.service.schemas import (
    DecisionsAnswer,
    ErrorAnswer,
    HealthAnswer,
    OperatingPointAnswer,
    OperatingPointsAnswer,
    PointDescription,
    RefusedPoint,
)

MAX_BODY_BYTES = 4096

PATHS = (
    "/translate",
    "/languages",
    "/health",
    "/metrics",
    "/v1/trace",
    "/v1/translate",
    "/v1/operating-points",
    "/v1/operating-point",
    "/v1/decisions",
    "/openapi.json",
)

NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": ErrorAnswer}}


DEFAULT_DECISIONS, MAX_DECISIONS = 20, 256


def router(lifecycle: Lifecycle, metrics: Metrics) -> APIRouter:
    """The operational routes."""
    routes = APIRouter(tags=["operation"])

    @routes.get("/health", response_model=HealthAnswer, responses={503: {"model": HealthAnswer}})
    async def get_health() -> JSONResponse:
        """200 when translations are served, 503 when not."""
        answer = HealthAnswer(status=lifecycle.phase)
        return JSONResponse(answer.model_dump(), 200 if answer.status == "ok" else 503)

    @routes.get("/v1/operating-points", responses=NOT_READY)
    async def get_operating_points() -> OperatingPointsAnswer:
        """All operating points, fastest first."""
        engine = lifecycle.serving.engine
        return OperatingPointsAnswer(
            points=[PointDescription.of(point, engine.table) for point in engine.table],
            refused=[RefusedPoint(id=point_id, reason=why) for point_id, why in engine.refused.items()],
        )

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

    @routes.get("/v1/decisions", responses={400: {"model": ErrorAnswer}, **NOT_READY})
    async def get_decisions(last: str | None = None) -> DecisionsAnswer:
        """The why-log: the last decisions that changed something, and the latest one, newest last."""
        control = lifecycle.serving.control
        return DecisionsAnswer(
            decisions=[decision.as_dict() for decision in control.decisions(check_last(last))]
        )

    @routes.get("/metrics", response_class=Response)
    async def get_metrics() -> Response:
        """Figures for Prometheus."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)

    return routes


def check_last(last: str | None) -> int:
    """How many decisions are asked for.

    Raises:
        RequestError: It is no number within bounds.
    """
    if last is None:
        return DEFAULT_DECISIONS
    if not (last.isascii() and last.isdecimal() and len(last) <= 4 and 1 <= int(last) <= MAX_DECISIONS):
        raise RequestError(f"last {show(last)} cannot be: send a number from 1 to {MAX_DECISIONS}", "last")
    return int(last)


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
