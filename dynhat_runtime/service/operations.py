"""What operators ask: the operating points, the active one and who chooses it, resources, decisions, metrics.

Nothing here waits for the inference queue.
"""

from __future__ import annotations

import hmac
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response
from starlette.concurrency import run_in_threadpool

from dynhat_runtime.errors import RequestError, UnauthorizedError
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.service import deepl, health, libretranslate
from dynhat_runtime.service.bodies import JSON, described, read_json_object
from dynhat_runtime.service.door import Door, key_in
from dynhat_runtime.service.keys import digest_of
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from dynhat_runtime.service.metrics import CONTENT_TYPE, Metrics
from dynhat_runtime.service.request_fields import show
from dynhat_runtime.service.schemas import (
    DecisionsAnswer,
    ErrorAnswer,
    OperatingPointAnswer,
    OperatingPointBody,
    OperatingPointsAnswer,
    PointDescription,
    RefusedPoint,
    ResourcesAnswer,
)

MAX_BODY_BYTES = 4096

PATHS = (
    *libretranslate.PATHS,
    *deepl.PATHS,
    *health.PATHS,
    "/metrics",
    "/v1/trace",
    "/v1/translate",
    "/v1/translate/stream",
    "/v1/operating-points",
    "/v1/operating-point",
    "/v1/resources",
    "/v1/decisions",
    "/v1/events",
    "/openapi.json",
)

NOT_READY: dict[int | str, dict[str, Any]] = {status: {"model": ErrorAnswer} for status in (401, 503)}
CHOICE = described(JSON, schema=OperatingPointBody.model_json_schema())


DEFAULT_DECISIONS, MAX_DECISIONS = 20, 256


def router(
    lifecycle: Lifecycle,
    door: Door,
    metrics: Metrics,
    shows_metrics: bool = True,
    metrics_token: str | None = None,
) -> APIRouter:
    """The operational routes.

    Args:
        lifecycle: Says what serves.
        door: Lets in who may ask.
        metrics: Answered at /metrics.
        shows_metrics: Whether there is such a path.
        metrics_token: What /metrics has to be asked with, as `Authorization: Bearer`; None asks for nothing.
    """
    routes = APIRouter(tags=["operation"])

    @routes.get("/v1/operating-points", responses=NOT_READY)
    async def get_operating_points(request: Request) -> OperatingPointsAnswer:
        """All operating points, fastest first."""
        door.check(key_in(request.headers))
        engine = lifecycle.serving.engine
        return OperatingPointsAnswer(
            points=[PointDescription.of(point, engine.table) for point in engine.table],
            refused=[RefusedPoint(id=point_id, reason=why) for point_id, why in engine.refused.items()],
        )

    @routes.get("/v1/operating-point", responses=NOT_READY)
    async def get_operating_point(request: Request) -> OperatingPointAnswer:
        """The active operating point, and why it is active."""
        door.check(key_in(request.headers))
        return _state(lifecycle.serving)

    @routes.put(
        "/v1/operating-point",
        responses={400: {"model": ErrorAnswer}, 413: {"model": ErrorAnswer}, **NOT_READY},
        openapi_extra=CHOICE,
    )
    async def put_operating_point(request: Request) -> OperatingPointAnswer:
        """Pin an operating point, or let the governor choose again."""
        door.check(key_in(request.headers))
        serving = lifecycle.serving
        point = check_choice(await read_json_object(request, MAX_BODY_BYTES), serving.engine.table)
        if point is None:
            await run_in_threadpool(serving.control.set_auto)
        else:
            await run_in_threadpool(serving.control.pin, point)
        return _state(serving)

    @routes.get("/v1/decisions", responses={400: {"model": ErrorAnswer}, **NOT_READY})
    async def get_decisions(request: Request, last: str | None = None) -> DecisionsAnswer:
        """The why-log: the last decisions that changed something, and the latest one, newest last."""
        door.check(key_in(request.headers))
        control = lifecycle.serving.control
        return DecisionsAnswer(
            decisions=[decision.as_dict() for decision in control.decisions(check_last(last))]
        )

    @routes.get("/v1/resources", responses=NOT_READY)
    async def get_resources(request: Request) -> ResourcesAnswer:
        """The latest reading of the device."""
        door.check(key_in(request.headers))
        snapshot = lifecycle.serving.control.status().snapshot
        return ResourcesAnswer(resources=None if snapshot is None else snapshot.as_dict())

    @routes.get("/metrics", response_class=Response, responses={401: {"model": ErrorAnswer}})
    async def get_metrics(request: Request) -> Response:
        """Figures for Prometheus."""
        if not shows_metrics:
            raise HTTPException(404)
        if metrics_token is not None and not is_same(key_in(request.headers) or "", metrics_token):
            raise UnauthorizedError("the metrics token is needed: send it as 'Authorization: Bearer TOKEN'")
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)

    return routes


def is_same(given: str, expected: str) -> bool:
    """Whether two secrets are one, in a time that says nothing of where they differ."""
    return hmac.compare_digest(digest_of(given), digest_of(expected))


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
