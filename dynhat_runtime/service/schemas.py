"""What goes over the wire, as values. Reads no requests and knows no routes; never imports fastapi."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.governor.governor import ObservationResult
from dynhat_runtime.operating_point import LatencyMeasurement, OperatingPoint, OperatingPointTable, Precision
from dynhat_runtime.service.ports import ControlStatusPort, Mode, Translated
from dynhat_runtime.text.documents import TextFormat


class ErrorAnswer(BaseModel):
    """Every error, whatever its status."""

    error: str


class QueueAnswer(BaseModel):
    """What waits for the engine, and what may."""

    requests: int
    sentences: int
    tokens: int
    limit_requests: int
    limit_sentences: int
    limit_tokens: int
    expected_wait_s: float | None
    """At the pace of the last batches; null before the first."""


class OverloadAnswer(BaseModel):
    """503: `code` is queue_full, with the queue, or not_ready."""

    error: str
    code: Literal["queue_full", "not_ready"]
    queue: QueueAnswer | None = None


class LivenessAnswer(BaseModel):
    """GET /livez and /v2/health/live."""

    live: bool


class ReadinessAnswer(BaseModel):
    """GET /readyz and /v2/health/ready."""

    ready: bool
    status: Literal["ok", "loading", "draining", "error"]


class ServerAnswer(BaseModel):
    """GET /v2."""

    name: str
    version: str
    extensions: list[str]


class ModelAnswer(BaseModel):
    """GET /v2/models/translation."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]


class ResourcesAnswer(BaseModel):
    """GET /v1/resources: the latest reading of the device; null before the first."""

    resources: dict[str, Any] | None


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


class TranslateBody(BaseModel):
    """POST /translate, as JSON or as a form; fields that are not listed are ignored."""

    q: str | list[str]
    """One text or several."""
    source: str
    """"auto" where it is to be detected."""
    target: str
    format: Literal["text", "html"] | None = None
    alternatives: int | None = None
    """Other translations wanted, 0 or more."""
    api_key: str | None = None


class DetectBody(BaseModel):
    """POST /detect, as JSON or as a form; fields that are not listed are ignored."""

    q: str
    api_key: str | None = None


class TranslateRequest(BaseModel):
    """POST /translate, checked: as many texts as were asked for, and whether they came as a list."""

    model_config = ConfigDict(frozen=True)

    texts: tuple[str, ...]
    is_batch: bool
    is_auto: bool
    text_format: TextFormat = "text"
    num_alternatives: int = 0


class TranslateAnswer(BaseModel):
    """POST /translate; `detectedLanguage` only when the source was "auto", `alternatives` only when asked for."""

    translatedText: str | list[str]  # the facade's spelling
    detectedLanguage: DetectedLanguage | list[DetectedLanguage] | None = None
    alternatives: list[str] | list[list[str]] | None = None


class FrontendLanguage(BaseModel):
    """A language a page begins with."""

    code: str
    name: str


class FrontendLanguages(BaseModel):
    """What is translated into what at first."""

    source: FrontendLanguage
    target: FrontendLanguage


class FrontendSettings(BaseModel):
    """GET /frontend/settings, spelt as LibreTranslate's page reads it."""

    charLimit: int
    frontendTimeout: int = 500
    """Pause in typing after which a page translates, in ms."""
    apiKeys: bool
    keyRequired: bool
    suggestions: bool = False
    filesTranslation: bool = False
    supportedFilesFormat: list[str] = []
    language: FrontendLanguages


class PromisedBody(BaseModel):
    """POST /v1/translate and /v1/translate/stream."""

    model_config = ConfigDict(extra="forbid")

    text: str | list[str]
    """One text or several."""
    source: str
    target: str
    latency_budget_ms: float | None = None
    """Time from arrival to answer that the operating point is chosen for, and the answer judged by."""
    min_quality: float | None = None
    """Lowest BLEU that will do."""
    point: str | None = None
    """Operating point to translate on."""
    strict: bool | None = None
    """Refuse with 422 what is not expected to be met."""
    deadline_ms: float | None = None
    """Time after which the answer is of no use: 504 then, or at once where it is not expected to be met."""
    priority: Literal["interactive", "batch"] | None = None
    """Class of requests to wait in; without it the key's, which is interactive unless the key file says otherwise."""
    timings: bool | None = None
    """Say of each text what it took."""
    alternatives: int | None = Field(None, ge=0)
    """Other translations wanted of each text; more than are found are not made up."""
    scores: bool | None = None
    """Say of each translation how sure the model was of it."""


class Timings(BaseModel):
    """What one text took. Times are of its whole request."""

    queue_ms: float
    """From submission until the request's first sentence began."""
    translate_ms: float
    """From then until all was done."""
    num_sentences: int
    num_src_tokens: int
    num_tgt_tokens: int
    num_guard_retries: int
    """How often the request was translated anew because the output was degenerate."""

    @classmethod
    def of(cls, translated: Translated | None) -> Timings:
        """What the engine says of a text; nothing took no time."""
        if translated is None:
            return cls(
                queue_ms=0,
                translate_ms=0,
                num_sentences=0,
                num_src_tokens=0,
                num_tgt_tokens=0,
                num_guard_retries=0,
            )
        return cls(
            queue_ms=round(translated.queue_ms, 3),
            translate_ms=round(translated.elapsed_ms - translated.queue_ms, 3),
            num_sentences=translated.num_sentences,
            num_src_tokens=translated.num_src_tokens,
            num_tgt_tokens=translated.num_tgt_tokens,
            num_guard_retries=translated.num_guard_retries,
        )


class Alternative(BaseModel):
    """Another translation of a text."""

    text: str
    score: float | None = None
    """As the first translation's; only where it was asked for."""


class PromisedTranslation(BaseModel):
    """One text's translation with what was promised; figures are of the whole request."""

    text: str
    operating_point: str
    predicted_ms: float
    elapsed_ms: float
    """From the request's arrival to the answer."""
    budget_met: bool
    """`elapsed_ms` is within the request's latency budget; without one within the daemon's, for every sentence."""
    score: float | None = None
    """Mean log-probability of its tokens, at most 0; only where it was asked for and something was translated."""
    alternatives: list[Alternative] | None = None
    """Better ones first; only where they were asked for."""
    timings: Timings | None = None
    """Only where they were asked for."""


class PromisedAnswer(BaseModel):
    """POST /v1/translate: one translation per text, in the same order."""

    translations: list[PromisedTranslation]


class PointDescription(BaseModel):
    """An operating point with everything measured of it."""

    id: str
    latency_ms: float
    """At the table's reference length, with all CPUs."""
    precision: Precision
    num_threads: int
    has_shortlist: bool
    """Whether it says only what is on a sentence's vocabulary shortlist; its dev loss is the whole vocabulary's."""
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


class OperatingPointBody(BaseModel):
    """PUT /v1/operating-point."""

    mode: Literal["auto", "pinned"]
    point: str | None = None
    """With mode pinned: the id of the point."""


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
    handling_ms: float | None
    """What requests take besides being decoded and waiting; null before the first decision."""
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
            handling_ms=status.handling_ms,
            prediction_error_fraction=status.prediction_error_fraction,
            latest_predictions=[JudgedPrediction.of(result) for result in status.latest_predictions],
            resources=None if status.snapshot is None else status.snapshot.as_dict(),
        )
