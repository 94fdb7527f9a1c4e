"""What goes over the wire, as values. Reads no requests and knows no routes; never imports fastapi."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.governor.governor import ObservationResult
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


class PromisedTranslation(BaseModel):
    """One text's translation with what was promised; figures are of the whole request."""

    text: str
    operating_point: str
    predicted_ms: float
    elapsed_ms: float
    """From the request's arrival to the answer."""
    budget_met: bool
    """`elapsed_ms` is within the request's latency budget; without one within the daemon's, for every sentence."""


class PromisedAnswer(BaseModel):
    """POST /v1/translate: one translation per text, in the same order."""

    translations: list[PromisedTranslation]


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


class RefusedPoint(BaseModel):
    """A point of the table that is not served."""

    id: str
    reason: str


class OperatingPointsAnswer(BaseModel):
    """GET /v1/operating-points: fastest first, and those that failed their canary sentences."""

    points: list[PointDescription]
    refused: list[RefusedPoint]


class DecisionsAnswer(BaseModel):
    """GET /v1/decisions: newest last."""

    decisions: list[dict[str, Any]]


class JudgedPrediction(BaseModel):
    """What one batch of sentences was predicted to take, and what it took."""

    monotonic_s: float
    """When it was done, by the clock of the snapshots."""
    point_id: str
    num_sentences: int
    predicted_ms: float
    """At the lengths it turned out to have."""
    actual_ms: float
    is_canary: bool
    """A sentence of the daemon's own."""

    @classmethod
    def of(cls, result: ObservationResult) -> JudgedPrediction:
        """Say it of one batch."""
        batch = result.observation
        return cls(
            monotonic_s=batch.monotonic_s,
            point_id=batch.point_id,
            num_sentences=batch.num_sentences,
            predicted_ms=round(result.predicted_ms, 3),
            actual_ms=round(result.actual_ms, 3),
            is_canary=batch.is_canary,
        )


class OperatingPointAnswer(BaseModel):
    """GET and PUT /v1/operating-point."""

    active: PointDescription
    next_better: str | None
    """Id of the point that translates next better than the active one; null for the best."""
    mode: Mode
    policy: str
    since: str
    """UTC, ISO 8601."""
    reason: str
    slow_down_factor: float | None
    """How much slower than measured translations are at present; null before the first decision."""
    slow_down_std: float | None
    prediction_error_fraction: float | None
    """Median absolute error of the last predictions; null before any."""
    latest_predictions: list[JudgedPrediction]
    """Oldest first."""
    resources: dict[str, Any] | None
    """The latest resource snapshot, or None before the first."""

    @classmethod
    def of(cls, status: ControlStatusPort, table: OperatingPointTable) -> OperatingPointAnswer:
        """Say where the control loop stands."""
        quality = table.quality_by_id()
        better = [point_id for point_id in quality if quality[point_id] > quality[status.active_id]]
        return cls(
            active=PointDescription.of(table[status.active_id], table),
            next_better=min(better, key=quality.__getitem__) if better else None,
            mode=status.mode,
            policy=status.policy,
            since=status.since_utc.isoformat(timespec="milliseconds"),
            reason=status.reason,
            slow_down_factor=status.slow_down_factor,
            slow_down_std=status.slow_down_std,
            prediction_error_fraction=status.prediction_error_fraction,
            latest_predictions=[JudgedPrediction.of(result) for result in status.latest_predictions],
            resources=None if status.snapshot is None else status.snapshot.as_dict(),
        )
