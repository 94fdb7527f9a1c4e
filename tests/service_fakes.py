"""An engine that shouts and a control loop that obeys, for tests of what stands around them."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

from dynhat_runtime.decoding.score import Score
from dynhat_runtime.decoding_progress import DecodingProgress
from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.errors import EngineOverloadedError, EngineStoppedError
from dynhat_runtime.governor.governor import ObservationResult
from dynhat_runtime.governor.request_choice import RequestChoice, RequestWish
from dynhat_runtime.observation import Handling
from dynhat_runtime.operating_point import (
    DeviceDescription,
    LatencyMeasurement,
    OperatingPoint,
    OperatingPointTable,
)
from dynhat_runtime.prepared_texts import PreparedTexts
from dynhat_runtime.queue_load import Priority, QueueLimits, QueueLoad
from dynhat_runtime.resource_snapshot import ResourceSnapshot, SensorState
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from dynhat_runtime.service.ports import Mode
from dynhat_runtime.tally import ControlTallies, EngineTallies
from dynhat_runtime.text.sentences import Cuts, Segment
from tests.planned_sentences import planned_sentence

SINCE = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=timezone.utc)


def make_table(num_points: int = 3) -> OperatingPointTable:
    """Points p1, p2, ...: each 10 ms slower than the one before."""
    return OperatingPointTable(
        device=DeviceDescription(
            name="test bench",
            machine="aarch64",
            num_cpus=4,
            torch_version="2.1.0",
            beam_size=4,
            measured_at="2026-01-01T00:00:00+00:00",
        ),
        design_space="tiny",
        weights_sha256="0" * 64,
        default_latency_budget_ms=35,
        points=tuple(_make_point(number) for number in range(1, num_points + 1)),
    )


def _make_point(number: int) -> OperatingPoint:
    """A point with as many decoder layers as its number."""
    total_ms = 10.0 * number
    return OperatingPoint(
        id=f"p{number}",
        config=SubTransformerConfig(
            encoder_embed_dim=8,
            encoder_ffn_dims=(16,),
            encoder_attention_heads=(2,),
            decoder_embed_dim=8,
            decoder_ffn_dims=(16,) * number,
            decoder_attention_heads=(2,) * number,
            cross_attention_heads=(2,) * number,
            cross_attention_spans=(1,) * number,
        ),
        num_parameters=1_000_000 * number,
        latencies=(
            LatencyMeasurement(
                num_cpus=4,
                num_src_tokens=30,
                num_tgt_tokens=30,
                encoder_ms=total_ms / 2,
                decoder_ms=total_ms / 2,
                total_ms=total_ms,
                std_ms=0.5,
                num_runs=5,
            ),
        ),
        dev_loss=4.0 - number / 10,
        bleu=20.0 + number,
        bleu_signature="sacrebleu|test",
    )


SCORE = Score(log_probability=-0.5, num_tokens=2)


@dataclass(frozen=True)
class FakeTranslation:
    """What the fake engine returns per text."""

    text: str
    operating_point: str
    num_sentences: int = 1
    queue_ms: float = 1.5
    elapsed_ms: float = 4.0
    num_src_tokens: int = 3
    num_tgt_tokens: int = 2
    num_guard_retries: int = 0
    alternatives: tuple[str, ...] = ()
    score: Score = SCORE
    alternative_scores: tuple[Score, ...] = ()


class FakeEngine:
    """Translates to upper case, on a thread of its own, once `go` is set (it is at first).

    `failure` is raised by `submit`; `late_failure` ends the future.
    """

    src_lang = "en"
    tgt_lang = "de"

    def __init__(self, table: OperatingPointTable | None = None) -> None:
        self.table = table or make_table()
        self.active_point_id = self.table.points[0].id
        self.go = threading.Event()
        self.go.set()
        self.failure: Exception | None = None
        self.late_failure: Exception | None = None
        self.submitted: list[list[str]] = []
        self.futures: list[Future[list[FakeTranslation]]] = []
        self.is_stopped = False
        self.refused: dict[str, str] = {}
        self.queue_load = QueueLoad()
        self.tallies = EngineTallies()
        self.guard_retries = {"repetition": 0, "empty": 0}
        self.retries_within_ms: list[float | None] = []
        self.progress = DecodingProgress(is_busy=False, advanced_s=0.0)
        self.asked: list[dict[str, object]] = []
        self._worker = ThreadPoolExecutor(1)

    @property
    def queue_depth(self) -> int:
        """Sentences waiting."""
        return self.queue_load.sentences

    def check_room(self) -> None:
        """As full as it was told to be."""
        if isinstance(self.failure, EngineOverloadedError):
            raise self.failure

    def prepare(self, texts: Sequence[str], cuts: Cuts = "lines") -> PreparedTexts:
        """Every text is a sentence, with a token for each word, and eos; only letters are translated."""
        return PreparedTexts(
            [[Segment("", text, "")] for text in texts],
            {
                (number, 0): planned_sentence(text, len(text.split()) + 1)
                for number, text in enumerate(texts)
                if any(map(str.isalpha, text))
            },
        )

    def submit(
        self,
        texts: Sequence[str] | PreparedTexts,
        *,
        beam_size: int | None = None,
        point_id: str | None = None,
        retry_within_ms: float | None = None,
        priority: Priority = "interactive",
        request_id: str | None = None,
        on_sentence: Callable[[int, str], None] | None = None,
        num_alternatives: int = 0,
        cuts: Cuts = "lines",
        timeout_s: float = math.inf,
    ) -> Future[list[FakeTranslation]]:
        """Queue the texts."""
        if self.failure is not None:
            raise self.failure
        if self.is_stopped:
            raise EngineStoppedError("engine is stopped")
        if isinstance(texts, PreparedTexts):
            texts = [segment.sentence for (segment,) in texts.texts]
        self.submitted.append(list(texts))
        self.retries_within_ms.append(retry_within_ms)
        self.asked.append(
            {"priority": priority, "request_id": request_id, "cuts": cuts, "timeout_s": timeout_s}
        )
        point = point_id or self.active_point_id
        future = self._worker.submit(self._translate, list(texts), point, on_sentence, num_alternatives)
        self.futures.append(future)
        return future

    def _translate(
        self,
        texts: list[str],
        point_id: str,
        on_sentence: Callable[[int, str], None] | None = None,
        num_alternatives: int = 0,
    ) -> list[FakeTranslation]:
        for number, text in enumerate(texts if on_sentence is not None else ()):
            for sentence in text.split("|"):
                self.go.wait(timeout=30)
                assert on_sentence is not None
                on_sentence(number, sentence.upper())
        self.go.wait(timeout=30)
        if self.late_failure is not None:
            raise self.late_failure
        others = [f" ({number})" for number in range(1, num_alternatives + 1)]
        return [
            FakeTranslation(
                text.upper(),
                point_id,
                alternatives=tuple(text.upper() + other for other in others),
                alternative_scores=tuple(Score(-float(number), 2) for number in range(1, len(others) + 1)),
            )
            for text in texts
        ]

    def start(self) -> None:
        """Nothing to start."""

    def stop(self, timeout_s: float) -> None:
        """Refuse what comes, and let go of what is held."""
        self.is_stopped = True
        self.late_failure = EngineStoppedError("engine is stopped")
        self.go.set()


def overloaded() -> EngineOverloadedError:
    """What a full queue raises."""
    load = QueueLoad(requests=256, sentences=300, tokens=4000, limits=QueueLimits(), expected_wait_s=2.4)
    return EngineOverloadedError(
        "the queue is full: 256 requests wait", queue=load.as_dict(), retry_after_s=load.retry_after_s
    )


@dataclass(frozen=True)
class FakeStatus:
    """What the fake control loop says of itself."""

    active_id: str
    mode: Mode
    since_utc: datetime
    reason: str
    snapshot: ResourceSnapshot | None
    policy: str = "predictive"
    slow_down_factor: float = 1.25
    slow_down_std: float = 0.05
    handling_ms: float | None = 2.5
    prediction_error_fraction: float | None = 0.04
    latest_predictions: tuple[ObservationResult, ...] = ()


@dataclass(frozen=True)
class FakeDecision:
    """An entry of the why-log, in the governor's own shape."""

    active_id: str
    point_id: str
    reason: str
    reason_code: str = "step_up"
    snapshot: ResourceSnapshot = field(default=ResourceSnapshot(monotonic_s=1.0, source="host"))

    @property
    def changed(self) -> bool:
        """Another point than the active one."""
        return self.active_id != self.point_id

    def as_dict(self) -> dict[str, object]:
        """What the governor's decision says of itself."""
        return {
            "active_id": self.active_id,
            "point_id": self.point_id,
            "changed": self.changed,
            "mode": "auto",
            "policy": "predictive",
            "reason": self.reason,
            "reason_code": self.reason_code,
            "candidates": [
                {
                    "point_id": f"p{number}",
                    "predicted_ms": 12.5 * number,
                    "fits": number < 3,
                    "probability_met": 1.0 - 0.4 * (number == 3),
                    "why_not": "37.5 ms is over the budget of 35.0 ms" if number == 3 else None,
                    "bleu": 20.0 + number,
                }
                for number in (1, 2, 3)
            ],
            "latency_budget_ms": 35.0,
            "confidence": 0.95,
            "slow_down_factor": 1.25,
            "slow_down_std": 0.05,
            "dwell_s": 0.0,
            "decided_monotonic_s": self.snapshot.monotonic_s,
            "snapshot": self.snapshot.as_dict(),
        }


class FakeControl:
    """Does what it is told, and in "auto" takes the fastest point.

    Predicts ten milliseconds per point number: p2 takes 20, whatever the length.
    """

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.is_stopped = False
        self.state = FakeStatus(
            active_id=engine.active_point_id,
            mode="auto",
            since_utc=SINCE,
            reason="fits the budget of 35 ms",
            snapshot=ResourceSnapshot(
                monotonic_s=1.0,
                source="host",
                usable_cpus=(0, 1),
                cpu_quota_cpus=1.5,
                sensors=(
                    SensorState(name="cpu", is_up=True),
                    SensorState(name="thermal", is_up=False, error="no such file"),
                ),
            ),
        )
        self.tallies = ControlTallies()
        self.log: list[FakeDecision] = []
        self.daemon_budget_ms = 35.0
        """For a sentence of a request without a budget."""
        self.wishes: list[RequestWish] = []
        self.handlings: list[Handling] = []

    def choose(self, wish: RequestWish) -> RequestChoice:
        """The point asked for, else the slowest within the budget, else the fastest."""
        self.wishes.append(wish)
        table = self.engine.table
        fitting = [
            point
            for point in table
            if (wish.latency_budget_ms is None or table.reference_latency_ms(point) <= wish.latency_budget_ms)
            and (wish.min_quality is None or (point.bleu or 0) >= wish.min_quality)
        ]
        if wish.point_id is not None:
            point, is_met = table[wish.point_id], table[wish.point_id] in fitting
        elif wish.latency_budget_ms is None and wish.min_quality is None:
            point, is_met = table[self.engine.active_point_id], True
        else:
            point, is_met = (fitting or table.points)[-1 if fitting else 0], bool(fitting)
        predicted_ms = table.reference_latency_ms(point)
        reason = f"{point.id} needs {predicted_ms:.1f} ms{'' if is_met else ', which does not do'}"
        budget_ms = wish.latency_budget_ms or self.daemon_budget_ms * len(wish.num_src_tokens)
        return RequestChoice(
            point_id=point.id,
            predicted_ms=predicted_ms,
            latency_budget_ms=budget_ms,
            is_met=is_met,
            reason=reason,
        )

    def note_handling(self, handling: Handling) -> None:
        """Keep it."""
        self.handlings.append(handling)

    def decisions(self, last: int) -> list[FakeDecision]:
        """The end of the log."""
        return self.log[-last:]

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Note that it was asked for."""
        self.is_stopped = True

    def status(self) -> FakeStatus:
        """The present state."""
        return self.state

    def pin(self, point_id: str) -> None:
        """Make one point active."""
        self._switch(self.engine.table[point_id].id, "pinned")

    def set_auto(self) -> None:
        """Make the fastest point active."""
        self._switch(self.engine.table.points[0].id, "auto")

    def _switch(self, point_id: str, mode: Mode) -> None:
        self.log.append(FakeDecision(self.engine.active_point_id, point_id, "asked for", "pinned"))
        self.engine.active_point_id = point_id
        self.state = replace(self.state, active_id=point_id, mode=mode, reason="asked for")


def ready(engine: FakeEngine, control: FakeControl | None = None) -> Lifecycle:
    """A daemon that is ready."""
    lifecycle = Lifecycle()
    lifecycle.ready(Serving(engine, control or FakeControl(engine)))
    return lifecycle


class FakeTrace:
    """A recorder with nothing recorded."""

    def page_after(self, number: int) -> str:
        """No events, whatever the number."""
        return f'{{"header": {{}}, "events": [], "next": {number}, "lost": 0}}'
