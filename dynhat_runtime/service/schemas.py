"""What goes over the wire, as values. Reads no requests and knows no routes; never imports fastapi."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.operating_point import LatencyMeasurement, OperatingPoint, OperatingPointTable
from dynhat_runtime.service.ports import ControlStatusPort, Mode


class ErrorAnswer(BaseModel):
    """Every error, whatever its status."""

    error: str


class HealthAnswer(BaseModel):
    """GET /health."""

    status: Literal["ok", "loading", "draining", "error"]


class Language(BaseModel):
    """One element of GET /languages."""

    code: str
    name: str
    targets: list[str]


class DetectedLanguage(BaseModel):
    """The language a text is taken to be in; confidence 0..100."""

    confidence: float
    language: str


class TranslateRequest(BaseModel):
    """POST /translate, checked: as many texts as were asked for, and whether they came as a list."""

    model_config = ConfigDict(frozen=True)

    texts: tuple[str, ...]
    is_batch: bool
    is_auto: bool


class TranslateAnswer(BaseModel):
    """POST /translate; `detectedLanguage` only when the source was "auto"."""

    translatedText: str | list[str]  # the facade's spelling
    detectedLanguage: DetectedLanguage | list[DetectedLanguage] | None = None


class PointDescription(BaseModel):
    """An operating point with everything measured of it."""

    id: str
    latency_ms: float
    """At the table's reference length, with all CPUs."""
    num_parameters: int
    dev_loss: float | None
    bleu: float | None
    bleu_signature: str | None
    latencies: tuple[LatencyMeasurement, ...]
    config: SubTransformerConfig

    @classmethod
    def of(cls, point: OperatingPoint, table: OperatingPointTable) -> PointDescription:
        """Describe `point` of `table`."""
        return cls(latency_ms=table.reference_latency_ms(point), **dict(point))


class OperatingPointsAnswer(BaseModel):
    """GET /v1/operating-points: fastest first."""

    points: list[PointDescription]


class OperatingPointAnswer(BaseModel):
    """GET and PUT /v1/operating-point."""

    active: PointDescription
    mode: Mode
    since: str
    """UTC, ISO 8601."""
    reason: str
    resources: dict[str, Any] | None
    """The latest resource snapshot, or None before the first."""

    @classmethod
    def of(cls, status: ControlStatusPort, table: OperatingPointTable) -> OperatingPointAnswer:
        """Say where the control loop stands."""
        return cls(
            active=PointDescription.of(table[status.active_id], table),
            mode=status.mode,
            since=status.since_utc.isoformat(timespec="milliseconds"),
            reason=status.reason,
            resources=None if status.snapshot is None else status.snapshot.as_dict(),
        )
