"""One caller's texts on their way through the engine: what waits, what is done, and which attempt counts.

A request has one operating point at a time; a second attempt begins anew on a larger one. Knows no queue, no lock
and no clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from dynhat_runtime.decoding.output_guard import Fault
from dynhat_runtime.decoding.score import Score
from dynhat_runtime.decoding.translator import PlannedSentence, SentenceTranslation
from dynhat_runtime.model.decodable import Decodable
from dynhat_runtime.prepared_texts import Place, PreparedTexts
from dynhat_runtime.queue_load import Priority
from dynhat_runtime.text.sentences import Segment, join_sentences

NOTHING_DECODED = Score(0.0, 0)

OnSentence = Callable[[int, str], None]
"""Hears of each translated sentence: the number of its text, and the next piece of that text's translation."""


@dataclass(frozen=True, slots=True)
class TextTranslation:
    """One translated text of a request.

    Attributes:
        operating_point: Id of the one point that translated all of it.
        queue_ms: From submission until its first sentence began.
        elapsed_ms: From submission until it was done.
        num_src_tokens: Of its sentences, with an eos each.
        num_tgt_tokens: Likewise of their translations.
        num_guard_retries: How often its whole request was translated anew because the output was degenerate.
        alternatives: Other translations, better ones first: the second-best of every sentence, the third-best ...
        score: How sure the model was of it, all sentences together.
        alternative_scores: Likewise of each alternative.
    """

    text: str
    operating_point: str
    num_sentences: int
    queue_ms: float
    elapsed_ms: float
    num_src_tokens: int = 0
    num_tgt_tokens: int = 0
    num_guard_retries: int = 0
    alternatives: tuple[str, ...] = ()
    score: Score = NOTHING_DECODED
    alternative_scores: tuple[Score, ...] = ()


@dataclass(frozen=True, slots=True)
class ActivePoint:
    """An operating point ready to translate; the engine holds exactly one as active."""

    id: str
    sub: Decodable


@dataclass(frozen=True, slots=True)
class Attempt:
    """All sentences of a request as one point translated them."""

    point: ActivePoint
    translations: Mapping[Place, SentenceTranslation]

    @property
    def num_faults(self) -> int:
        """Degenerate sentences."""
        return sum(sentence.fault is not None for sentence in self.translations.values())

    @property
    def first_fault(self) -> Fault | None:
        """The fault of the first degenerate sentence in the order of the texts."""
        faults = (self.translations[place].fault for place in sorted(self.translations))
        return next((fault for fault in faults if fault is not None), None)


@dataclass(slots=True, eq=False)
class TranslationRequest:
    """Texts of one caller, cut into sentences."""

    prepared: PreparedTexts
    beam_size: int
    submitted_s: float
    future: Future[list[TextTranslation]]
    own_point: ActivePoint | None = None
    """The point it asked for; None takes the one active when it begins."""
    priority: Priority = "interactive"
    request_id: str | None = None
    """The name that log lines about it carry."""
    on_sentence: OnSentence | None = None
    """Hears of every sentence as soon as it is done, on the engine's thread."""
    max_batch_sentences: int = 1_000_000
    """How many of its own sentences may share a batch."""
    retry_within_ms: float | None = None
    """From submission, by when a second attempt must be expected to be done; None sets no limit, 0 forbids it."""
    num_alternatives: int = 0
    """Other translations wanted of each text."""
    deadline_s: float = math.inf
    """Monotonic time after which nobody waits for it any more."""
    waiting: deque[Place] = field(init=False)
    """Sentences still to be translated, in order."""
    translations: dict[Place, SentenceTranslation] = field(default_factory=dict)
    num_running: int = 0
    point: ActivePoint | None = None
    """What it is translated on, once it has begun."""
    began_s: float = 0.0
    attempt_began_s: float = 0.0
    earlier: Attempt | None = None
    """The first attempt, while there is a second."""

    def __post_init__(self) -> None:
        self.waiting = deque(self.planned)

    @property
    def texts(self) -> Sequence[Sequence[Segment]]:
        """The segments of each text."""
        return self.prepared.texts

    @property
    def planned(self) -> Mapping[Place, PlannedSentence]:
        """Every sentence there is to translate."""
        return self.prepared.planned

    def num_tokens_of(self, place: Place) -> int:
        """Source tokens of a sentence."""
        return self.planned[place].num_src_tokens

    @property
    def num_waiting_tokens(self) -> int:
        """Source tokens of the sentences that wait."""
        return sum(map(self.num_tokens_of, self.waiting))

    @property
    def is_done(self) -> bool:
        """All sentences have been translated."""
        return not self.waiting and not self.num_running

    def point_when_active(self, active: ActivePoint) -> ActivePoint:
        """What its next sentence is translated on."""
        return self.point or self.own_point or active

    def begin(self, active: ActivePoint, now_s: float) -> None:
        """Get the point that it keeps."""
        self.point = self.point_when_active(active)
        self.began_s = self.attempt_began_s = now_s

    def attempt(self) -> Attempt:
        """What has been translated on the present point."""
        assert self.point is not None
        return Attempt(self.point, self.translations)

    def begin_again(self, larger: ActivePoint, now_s: float) -> None:
        """Set the finished first attempt aside and translate everything on `larger`."""
        self.earlier, self.translations = self.attempt(), {}
        self.point, self.attempt_began_s = larger, now_s
        self.waiting = deque(self.planned)

    def piece(self, place: Place, translation: str) -> str:
        """A sentence's translation with what stays as it is around it: all pieces of a text in order are the text."""
        number, position = place
        text = self.texts[number]
        others = [other for of, other in self.planned if of == number]
        first = max((other + 1 for other in others if other < position), default=0)
        end = position + 1 if any(other > position for other in others) else len(text)
        segments = text[first:end]
        return join_sentences(
            segments,
            [translation if each is text[position] else each.sentence for each in segments],
        )

    # The less bad attempt is the one with fewer degenerate sentences; of equals the second, as its point is better.
    def answer(self, now_s: float) -> None:
        """Give the caller one translation per text, all of them from one attempt."""
        attempt, earlier = self.attempt(), self.earlier
        if earlier is not None and earlier.num_faults < attempt.num_faults:
            attempt = earlier
        self._answer_with(attempt, now_s)

    def fail(self, error: Exception, now_s: float) -> None:
        """Give the caller the error, or the first attempt if only the second failed."""
        if self.earlier is not None:
            self._answer_with(self.earlier, now_s)
        elif self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    # The future stays pending until it is answered, so that its caller can cancel it at any time.
    def _answer_with(self, chosen: Attempt, now_s: float) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_result([self._text_result(i, chosen, now_s) for i in range(len(self.texts))])

    def _text_result(self, number: int, chosen: Attempt, now_s: float) -> TextTranslation:
        text = self.texts[number]
        translated = {
            position: sentence for (of, position), sentence in chosen.translations.items() if of == number
        }
        scored: dict[str, Score] = {}
        for rank in range(self.num_alternatives + 1):
            scored.setdefault(_joined(text, translated, rank), _score_of(translated, rank))
        best, *others = scored
        score, *other_scores = scored.values()
        return TextTranslation(
            text=best,
            operating_point=chosen.point.id,
            num_sentences=len(translated),
            queue_ms=(self.began_s - self.submitted_s) * 1e3,
            elapsed_ms=(now_s - self.submitted_s) * 1e3,
            num_src_tokens=sum(sentence.num_src_tokens for sentence in translated.values()),
            num_tgt_tokens=sum(sentence.num_tgt_tokens for sentence in translated.values()),
            num_guard_retries=0 if self.earlier is None else 1,
            alternatives=tuple(others),
            score=score,
            alternative_scores=tuple(other_scores),
        )


def _joined(text: Sequence[Segment], translated: Mapping[int, SentenceTranslation], rank: int) -> str:
    """A text of its sentences' translations of one rank, 0 the best; a sentence that has no other gives its best."""
    return join_sentences(
        text,
        [
            segment.sentence if position not in translated else _of_rank(translated[position], rank)[0]
            for position, segment in enumerate(text)
        ],
    )


def _score_of(translated: Mapping[int, SentenceTranslation], rank: int) -> Score:
    """The score of all its sentences' translations of one rank together."""
    return Score.total(_of_rank(sentence, rank)[1] for sentence in translated.values())


def _of_rank(sentence: SentenceTranslation, rank: int) -> tuple[str, Score]:
    ranked = tuple(zip((sentence.text, *sentence.alternatives), sentence.scores, strict=True))
    return ranked[rank] if rank < len(ranked) else ranked[0]
