"""Acts: translates on the active operating point, and swaps that point by replacing one reference.

Requests wait in a bounded queue; one worker thread takes sentences of several requests in one batch, never of
two operating points. A request gets its point when its first sentence begins and keeps it to the end.

Senses nothing and decides nothing: the control loop calls `switch_to` and `follow_cpus`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from dynhat_runtime.decoding.beam_search import BeamOptions, SearchCancelledError
from dynhat_runtime.decoding.sentences import Segment, join_sentences, split_sentences
from dynhat_runtime.decoding.translator import Translator
from dynhat_runtime.errors import EngineOverloadedError, EngineStoppedError, UnknownOperatingPointError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.sub_transformer import SubTransformer
from dynhat_runtime.model.threads import move_threads_to, use_decoding_threads
from dynhat_runtime.operating_point import OperatingPointTable

logger = logging.getLogger(__name__)

MAX_BATCH_SENTENCES = 16
MAX_BATCH_CHARACTERS = 2000
"""Bound on the sentences that share a batch: keeps the wait of a short request behind a long one short."""


@dataclass(frozen=True, slots=True)
class TextTranslation:
    """One translated text of a request.

    Attributes:
        operating_point: Id of the one point that translated all of it.
        queue_ms: From submission until its first sentence began.
        elapsed_ms: From submission until it was done.
    """

    text: str
    operating_point: str
    num_sentences: int
    queue_ms: float
    elapsed_ms: float


@dataclass(frozen=True, slots=True)
class ActivePoint:
    """An operating point ready to translate; the engine holds exactly one as active."""

    id: str
    sub: SubTransformer


@dataclass(slots=True, eq=False)
class _Request:
    """Texts of one caller, cut into sentences."""

    texts: list[list[Segment]]
    beam_size: int
    submitted_s: float
    future: Future[list[TextTranslation]]
    waiting: deque[tuple[int, int]]
    """(text, segment) still to be translated, in order."""
    translations: dict[tuple[int, int], str] = field(default_factory=dict)
    num_running: int = 0
    point: ActivePoint | None = None
    began_s: float = 0.0

    @property
    def is_done(self) -> bool:
        """All sentences have been translated."""
        return not self.waiting and not self.num_running


class TranslationEngine:
    """Translates texts on whichever operating point is active when they begin.

    `submit`, `switch_to` and the properties may be used from any thread.
    """

    def __init__(
        self,
        translator: Translator,
        points: Sequence[ActivePoint],
        table: OperatingPointTable,
        languages: tuple[str, str],
        *,
        beam_size: int = 4,
        length_penalty: float = 0.6,
        queue_limit_sentences: int = 512,
    ) -> None:
        """Join the parts; nothing runs before `start`.

        Args:
            translator: Tokenizer and length limits.
            points: Those of `table`; its best is active first.
            table: What was measured of them.
            languages: Codes of source and target.
            beam_size: For requests that name none.
            length_penalty: Of the search's scores.
            queue_limit_sentences: Sentences that may wait before `submit` refuses.
        """
        self.table = table
        self.src_lang, self.tgt_lang = languages
        self._translator = translator
        self._points = {point.id: point for point in points}
        self._active = self._points[table.best.id]
        self._beam_size = beam_size
        self._length_penalty = length_penalty
        self._queue_limit = queue_limit_sentences
        self._lock = threading.Condition()
        self._requests: deque[_Request] = deque()
        self._num_waiting = 0
        self._stopping = False
        self._aborting = False
        self._thread: threading.Thread | None = None

    @classmethod
    def load(
        cls,
        bundle: Bundle,
        table: OperatingPointTable,
        *,
        beam_size: int = 4,
        queue_limit_sentences: int = 512,
    ) -> TranslationEngine:
        """Load the SuperTransformer once and cut every point of `table` out of it.

        Raises:
            BundleError: A file of the bundle does not hold what it should.
            DesignSpaceError: A point lies outside the design space.
        """
        super_transformer = bundle.super_transformer().laid_out_for_decoding()
        points = [ActivePoint(point.id, super_transformer.extract(point.config)) for point in table]
        return cls(
            Translator.of_bundle(bundle),
            points,
            table,
            (bundle.src_lang, bundle.tgt_lang),
            beam_size=beam_size,
            length_penalty=bundle.manifest.length_penalty,
            queue_limit_sentences=queue_limit_sentences,
        )

    # --- the operating point --------------------------------------------------------------------------------

    @property
    def active_point_id(self) -> str:
        """The point that translations starting now will use."""
        return self._active.id

    def switch_to(self, point_id: str) -> None:
        """Make `point_id` the active point; a request that has begun keeps its own.

        Raises:
            UnknownOperatingPointError: No such point; nothing changed.
        """
        try:
            self._active = self._points[point_id]
        except KeyError:
            known = ", ".join(self._points)
            raise UnknownOperatingPointError(
                f"operating point {point_id!r} is unknown: choose one of {known}"
            ) from None

    def follow_cpus(self, cpus: tuple[int, ...]) -> None:
        """Compute on these CPUs."""
        move_threads_to(cpus)

    # --- requests -------------------------------------------------------------------------------------------

    @property
    def queue_depth(self) -> int:
        """Sentences waiting."""
        return self._num_waiting

    def submit(self, texts: Sequence[str], *, beam_size: int | None = None) -> Future[list[TextTranslation]]:
        """Queue texts for translation.

        Args:
            texts: Any text; sentences are translated, white space and what has no letters is kept as it is.
            beam_size: Overrides the engine's.

        Returns:
            One translation per text. Cancelling the future drops what has not begun.

        Raises:
            EngineOverloadedError: The queue is full.
            EngineStoppedError: The engine is stopping.
        """
        segments = [split_sentences(text, self.src_lang) for text in texts]
        waiting = deque(
            (i, j)
            for i, text in enumerate(segments)
            for j, segment in enumerate(text)
            if segment.is_translatable
        )
        request = _Request(segments, beam_size or self._beam_size, time.monotonic(), Future(), waiting)
        with self._lock:
            if self._stopping:
                raise EngineStoppedError("the engine is stopping")
            # A request larger than the whole queue is taken when nothing waits: else it would never be.
            if self._num_waiting and self._num_waiting + len(waiting) > self._queue_limit:
                raise EngineOverloadedError(
                    f"{self._num_waiting} sentences wait, {len(waiting)} more exceed the limit of {self._queue_limit}"
                )
            self._num_waiting += len(waiting)
            self._requests.append(request)
            self._lock.notify()
        return request.future

    # --- life cycle -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the worker thread."""
        assert self._thread is None, "the engine runs already"
        self._thread = threading.Thread(target=self._run, name="dynhat-engine", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Refuse new requests, finish those queued within `timeout_s`, drop the rest."""
        with self._lock:
            self._stopping = True
            self._lock.notify()
        thread, self._thread = self._thread, None
        if thread is None:
            return
        thread.join(timeout_s)
        if thread.is_alive():
            self._aborting = True
            thread.join(5.0)
        with self._lock:
            abandoned = list(self._requests)
            self._requests.clear()
        for request in abandoned:
            if not request.future.done() and not request.future.cancel():
                request.future.set_exception(EngineStoppedError("the engine stopped before this was done"))

    # --- the worker -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        use_decoding_threads()
        while (batch := self._next_batch()) is not None:
            if batch:
                self._translate(batch)

    def _next_batch(self) -> list[tuple[_Request, tuple[int, int]]] | None:
        """Wait for work; None when stopping and nothing is left."""
        with self._lock:
            while not self._requests and not self._stopping:
                self._lock.wait()
            if not self._requests or self._aborting:
                return None
            return self._gather()

    def _gather(self) -> list[tuple[_Request, tuple[int, int]]]:
        """Sentences for one batch: the oldest request's, then others' with its point and beam. Holds the lock."""
        batch: list[tuple[_Request, tuple[int, int]]] = []
        num_characters = 0
        active = self._active  # read once: a switch may come at any moment, and a batch has one point
        point: ActivePoint | None = None
        beam_size = 0
        for request in list(self._requests):
            if batch and (request.point or active, request.beam_size) != (point, beam_size):
                continue
            if request.point is None and not self._begin(request, active):
                continue
            point, beam_size = request.point, request.beam_size
            while request.waiting and len(batch) < MAX_BATCH_SENTENCES:
                text, segment = request.waiting[0]
                num_characters += len(request.texts[text][segment].sentence)
                if batch and num_characters > MAX_BATCH_CHARACTERS:
                    return batch
                batch.append((request, request.waiting.popleft()))
                request.num_running += 1
                self._num_waiting -= 1
            if len(batch) == MAX_BATCH_SENTENCES:
                break
        return batch

    def _begin(self, request: _Request, active: ActivePoint) -> bool:
        """Give a request its point; False when nothing is left to do for it. Holds the lock."""
        if not request.future.set_running_or_notify_cancel():
            self._num_waiting -= len(request.waiting)
            self._requests.remove(request)
            return False
        request.point, request.began_s = active, time.monotonic()
        if request.is_done:
            self._requests.remove(request)
            self._finish(request)
            return False
        return True

    def _translate(self, batch: list[tuple[_Request, tuple[int, int]]]) -> None:
        first, _ = batch[0]
        assert first.point is not None
        sentences = [request.texts[text][segment].sentence for request, (text, segment) in batch]
        options = BeamOptions(beam_size=first.beam_size, length_penalty=self._length_penalty)
        try:
            outputs = self._translator.translate(
                first.point.sub, sentences, options, is_cancelled=lambda: self._aborting
            )
        except SearchCancelledError:
            self._fail(batch, EngineStoppedError("the engine stopped before this was done"))
            return
        except Exception as error:  # the worker must outlive any one batch
            logger.exception("translation failed on operating point %s", first.point.id)
            self._fail(batch, error)
            return
        done: list[_Request] = []
        with self._lock:
            for (request, place), output in zip(batch, outputs, strict=True):
                request.translations[place] = output.text
                request.num_running -= 1
                if request.is_done and request in self._requests:
                    self._requests.remove(request)
                    done.append(request)
        for request in done:
            self._finish(request)

    def _finish(self, request: _Request) -> None:
        assert request.point is not None
        now = time.monotonic()
        request.future.set_result(
            [
                TextTranslation(
                    text=join_sentences(
                        text,
                        [
                            request.translations.get((i, j), segment.sentence)
                            for j, segment in enumerate(text)
                        ],
                    ),
                    operating_point=request.point.id,
                    num_sentences=sum(segment.is_translatable for segment in text),
                    queue_ms=(request.began_s - request.submitted_s) * 1e3,
                    elapsed_ms=(now - request.submitted_s) * 1e3,
                )
                for i, text in enumerate(request.texts)
            ]
        )

    def _fail(self, batch: list[tuple[_Request, tuple[int, int]]], error: Exception) -> None:
        """Fail every request that had a sentence in the batch."""
        with self._lock:
            failed = {id(request): request for request, _ in batch if request in self._requests}
            for request in failed.values():
                self._requests.remove(request)
                self._num_waiting -= len(request.waiting)
        for request in failed.values():
            request.future.set_exception(error)
