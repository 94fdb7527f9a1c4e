"""What the service asks of the engine and of the control loop, as protocols. Implements nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any, Literal, Protocol

from dynhat_runtime.decoding.score import Score
from dynhat_runtime.decoding_progress import DecodingProgress
from dynhat_runtime.governor.governor import ObservationResult
from dynhat_runtime.governor.request_choice import RequestChoice, RequestWish
from dynhat_runtime.observation import Handling
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.prepared_texts import PreparedTexts
from dynhat_runtime.queue_load import Priority, QueueLoad
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from dynhat_runtime.tally import ControlTallies, EngineTallies
from dynhat_runtime.text.sentences import Cuts

Mode = Literal["auto", "pinned"]


class Translated(Protocol):
    """One text's translation."""

    @property
    def text(self) -> str:
        """The translation."""

    @property
    def operating_point(self) -> str:
        """Id of the point that produced it; the same for all texts of a request."""

    @property
    def num_sentences(self) -> int:
        """Those translated."""

    @property
    def queue_ms(self) -> float:
        """From submission until the request's first sentence began."""

    @property
    def elapsed_ms(self) -> float:
        """From submission until the request was done."""

    @property
    def num_src_tokens(self) -> int:
        """Of its sentences."""

    @property
    def num_tgt_tokens(self) -> int:
        """Of their translations."""

    @property
    def alternatives(self) -> tuple[str, ...]:
        """Other translations, as many as were asked for and found, better ones first."""

    @property
    def score(self) -> Score:
        """How sure the model was of it."""

    @property
    def alternative_scores(self) -> tuple[Score, ...]:
        """Likewise of each alternative."""

    @property
    def num_guard_retries(self) -> int:
        """How often the request was translated anew because the output was degenerate."""


class EnginePort(Protocol):
    """A started translation engine."""

    @property
    def table(self) -> OperatingPointTable:
        """The points it can serve."""

    @property
    def active_point_id(self) -> str:
        """Id of the point that the next translation will use."""

    @property
    def src_lang(self) -> str:
        """Code of the language it reads."""

    @property
    def tgt_lang(self) -> str:
        """Code of the language it writes."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Points that are not served, each with the reason."""

    @property
    def queue_depth(self) -> int:
        """Sentences waiting."""

    @property
    def progress(self) -> DecodingProgress:
        """What it is at, for whoever watches; answered even when it is stuck."""

    @property
    def queue_load(self) -> QueueLoad:
        """What waits, and what may."""

    @property
    def tallies(self) -> EngineTallies:
        """What it did since it began."""

    @property
    def guard_retries(self) -> Mapping[str, int]:
        """Requests translated once more because their output was degenerate, by its fault."""

    def check_room(self) -> None:
        """Refuse before a request is looked at, if there is no room for any.

        Raises:
            EngineOverloadedError: The queue is full.
            EngineStoppedError: The engine is stopping.
        """

    def prepare(self, texts: Sequence[str], cuts: Cuts = "lines") -> PreparedTexts:
        """What `submit` would have decoded for these texts, which it takes in their place."""

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
    ) -> Future[Any]:
        """A future of one `Translated` per text (Any: futures are invariant).

        Args:
            texts: What to translate, or what `prepare` made of it.
            beam_size: Overrides the engine's.
            point_id: For this request alone; None takes the active point.
            retry_within_ms: By when a second attempt at degenerate output must be done; None sets no limit, 0
                forbids it.
            priority: The class of requests that it waits in.
            request_id: The name that log lines about it carry.
            on_sentence: Hears of each sentence, on the engine's thread: number of its text, next piece of that
                text's translation. The request is then translated in order, and there is no second attempt.
            num_alternatives: Other translations wanted of each text.
            cuts: What ends a sentence of texts that are not prepared.
            timeout_s: How long somebody waits for it.

        Raises:
            EngineOverloadedError: The queue is full.
            EngineStoppedError: The engine is stopping.
            UnknownOperatingPointError: No such point.
        """


class ControlStatusPort(Protocol):
    """What the control loop last decided, and on what grounds."""

    @property
    def active_id(self) -> str:
        """Id of the active operating point."""

    @property
    def mode(self) -> Mode:
        """Who chooses: the governor, or whoever pinned a point."""

    @property
    def since_utc(self) -> datetime:
        """When the active point became active."""

    @property
    def reason(self) -> str:
        """Why it did."""

    @property
    def snapshot(self) -> ResourceSnapshot | None:
        """The latest reading of the device."""

    @property
    def policy(self) -> str:
        """Name of the policy that chooses."""

    @property
    def slow_down_factor(self) -> float | None:
        """How much slower than the table says translations are at present; None before the first decision."""

    @property
    def slow_down_std(self) -> float | None:
        """How uncertain that is, about a relative error."""

    @property
    def handling_ms(self) -> float | None:
        """What requests take besides being decoded; None before the first decision."""

    @property
    def prediction_error_fraction(self) -> float | None:
        """Median absolute error of the last predictions, as a share of what was measured; None before any."""

    @property
    def latest_predictions(self) -> Sequence[ObservationResult]:
        """The last predictions that a batch has put to the test, oldest first."""


class DecisionPort(Protocol):
    """One entry of the why-log."""

    @property
    def active_id(self) -> str:
        """The point that was active when it was decided."""

    @property
    def point_id(self) -> str:
        """The point decided on."""

    @property
    def changed(self) -> bool:
        """Whether that is another one."""

    @property
    def reason_code(self) -> str:
        """The rule that decided."""

    def as_dict(self) -> dict[str, object]:
        """Everything that was known and weighed, ready for JSON."""


class ControlPort(Protocol):
    """A started control loop."""

    def choose(self, wish: RequestWish) -> RequestChoice:
        """The operating point for one request.

        Raises:
            UnknownOperatingPointError: The wish names a point that there is not.
        """

    def note_handling(self, handling: Handling) -> None:
        """Take note of what an answered request took besides being decoded. Returns at once."""

    def decisions(self, last: int) -> Sequence[DecisionPort]:
        """The newest entries of the why-log, at most `last`, oldest first: the changes, and the latest decision."""

    @property
    def tallies(self) -> ControlTallies:
        """What it did since it began."""

    def status(self) -> ControlStatusPort:
        """The present state, as a value."""

    def pin(self, point_id: str) -> None:
        """Keep one point active.

        Raises:
            UnknownOperatingPointError: No such point.
        """

    def set_auto(self) -> None:
        """Let the governor choose again."""


class SpanPort(Protocol):
    """Hears of each answered request, to draw it as a span."""

    def answered(
        self,
        name: str,
        headers: Mapping[str, str],
        attributes: Mapping[str, str | int],
        began_ns: int,
        ended_ns: int,
    ) -> None:
        """Method and route, the request's headers, what there is to say of it, and its times since the epoch."""
