"""Acts: translates on the active operating point, and swaps that point by replacing one reference.

Requests wait in a bounded queue; one worker thread takes sentences of several requests in one batch, never of
two operating points. A request gets its point when its first sentence begins and keeps it to the end; when its
output is degenerate it is translated once more, all of it, on the next larger point.

Senses nothing and decides nothing: the control loop calls `switch_to` and `follow_cpus`, and hears what each batch
took; whoever submits a request may name its point.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

from dynhat_runtime.decoding.beam_search import BeamOptions, SearchCancelledError
from dynhat_runtime.decoding.canary import CANARIES, check_points
from dynhat_runtime.decoding.output_guard import FAULTS, Fault
from dynhat_runtime.decoding.sentences import split_sentences
from dynhat_runtime.decoding.translator import SentenceTranslation, Translator
from dynhat_runtime.decoding_progress import DecodingProgress, WorkInHand
from dynhat_runtime.errors import EngineStoppedError, UnknownOperatingPointError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.threads import move_threads_to, use_decoding_threads
from dynhat_runtime.observation import Observation
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.request_queue import Batch, RequestQueue
from dynhat_runtime.second_attempt import next_larger, second_point
from dynhat_runtime.translation_request import ActivePoint, TextTranslation, TranslationRequest

__all__ = ["ActivePoint", "TextTranslation", "TranslationEngine"]

logger = logging.getLogger(__name__)

Observer = Callable[[Observation], None]


class TranslationEngine:
    """Translates texts on whichever operating point is active when they begin.

    `submit`, `switch_to`, `run_canary` and the properties may be used from any thread.
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
        guarded_ids: Collection[str] = (),
        refused: Mapping[str, str] | None = None,
        on_finished: Observer | None = None,
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
            guarded_ids: Points whose degenerate output is translated again, on the next larger one of them.
            refused: Points left out of `table`, each with the reason.
            on_finished: Hears of every batch, on the worker's thread; its failure harms no request.
        """
        self.table = table
        self.refused: Mapping[str, str] = refused or {}
        self.src_lang, self.tgt_lang = languages
        self._translator = translator
        self._points = {point.id: point for point in points}
        self._active = self._points[table.best.id]
        self._beam_size = beam_size
        self._length_penalty = length_penalty
        self._larger = next_larger(table, guarded_ids)
        self._on_finished = on_finished
        self._observer_complained = False
        self._lock = threading.Condition()
        self._queue = RequestQueue(queue_limit_sentences)
        self._retries: Counter[Fault] = Counter()
        self._work = WorkInHand()
        self._canary_waits = False
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
        on_finished: Observer | None = None,
    ) -> TranslationEngine:
        """Load the SuperTransformer once, cut every point of `table` out of it, and leave out what cannot translate.

        Raises:
            BundleError: A file of the bundle does not hold what it should, or every point was refused.
            DesignSpaceError: A point lies outside the design space.
        """
        super_transformer = bundle.super_transformer().laid_out_for_decoding()
        translator = Translator.of_bundle(bundle)
        subs = {point.id: super_transformer.extract(point.config) for point in table}
        use_decoding_threads()
        penalty = bundle.manifest.length_penalty
        checked = check_points(translator, subs, table, bundle.src_lang, penalty)
        return cls(
            translator,
            [ActivePoint(point.id, subs[point.id]) for point in checked.table],
            checked.table,
            (bundle.src_lang, bundle.tgt_lang),
            beam_size=beam_size,
            length_penalty=penalty,
            queue_limit_sentences=queue_limit_sentences,
            guarded_ids=checked.guarded_ids,
            refused=checked.refused,
            on_finished=on_finished,
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
        self._active = self._point(point_id)

    def follow_cpus(self, cpus: tuple[int, ...]) -> None:
        """Compute on these CPUs."""
        move_threads_to(cpus)

    def _point(self, point_id: str) -> ActivePoint:
        try:
            return self._points[point_id]
        except KeyError:
            known = ", ".join(self._points)
            raise UnknownOperatingPointError(
                f"operating point {point_id!r} is unknown: choose one of {known}"
            ) from None

    # --- requests -------------------------------------------------------------------------------------------

    @property
    def queue_depth(self) -> int:
        """Sentences waiting."""
        return self._queue.num_waiting

    @property
    def guard_retries(self) -> Mapping[str, int]:
        """Requests translated once more because their output was degenerate, by its fault."""
        with self._lock:
            return {fault: self._retries[fault] for fault in FAULTS}

    @property
    def progress(self) -> DecodingProgress:
        """What the worker is at, and when it last got on. Waits for no lock: it is asked when something is stuck."""
        advanced_s, batch = self._work.advanced_s, self._work.batch
        if batch is None:
            return DecodingProgress(is_busy=bool(self._queue), advanced_s=advanced_s)
        point_id, sentences = batch
        lengths = tuple(
            length for sentence in sentences for length in self._translator.part_lengths(sentence)
        )
        return DecodingProgress(
            is_busy=True, advanced_s=advanced_s, point_id=point_id, num_src_tokens=lengths
        )

    def count_src_tokens(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Per text, the length in tokens with eos of everything that `submit` would have decoded at once."""
        return [
            tuple(
                length
                for segment in split_sentences(text, self.src_lang)
                if segment.is_translatable
                for length in self._translator.part_lengths(segment.sentence)
            )
            for text in texts
        ]

    def submit(
        self,
        texts: Sequence[str],
        *,
        beam_size: int | None = None,
        point_id: str | None = None,
        retry_within_ms: float | None = None,
    ) -> Future[list[TextTranslation]]:
        """Queue texts for translation.

        Args:
            texts: Any text; sentences are translated, white space and what has no letters is kept as it is.
            beam_size: Overrides the engine's.
            point_id: Translates this request on that point; None takes the active one.
            retry_within_ms: Should the output be degenerate, a second attempt is made only if it can be expected
                to be done this long after submission; None sets no limit, 0 forbids it.

        Returns:
            One translation per text. Cancelling the future drops what has not begun.

        Raises:
            EngineOverloadedError: The queue is full.
            EngineStoppedError: The engine is stopping.
            UnknownOperatingPointError: There is no point `point_id`.
        """
        request = TranslationRequest(
            texts=[split_sentences(text, self.src_lang) for text in texts],
            beam_size=beam_size or self._beam_size,
            submitted_s=time.monotonic(),
            future=Future(),
            own_point=None if point_id is None else self._point(point_id),
            retry_within_ms=retry_within_ms,
        )
        with self._lock:
            if self._stopping:
                raise EngineStoppedError("the engine is stopping")
            if not self._queue:
                self._work.advance()
            self._queue.add(request)
            self._lock.notify()
        return request.future

    def run_canary(self) -> bool:
        """Have a fixed sentence translated on the active point, to hear in `on_finished` what it takes now.

        It waits for no request and no request waits for it: one that arrives meanwhile breaks it off.

        Returns:
            Whether it was taken; not while there is a request or another canary, nor without a sentence in the
            source language.
        """
        with self._lock:
            is_busy = bool(self._queue) or self._canary_waits or self._stopping
            if is_busy or self.src_lang not in CANARIES:
                return False
            self._canary_waits = True
            self._lock.notify()
        return True

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
            abandoned = self._queue.remove_all()
        for request in abandoned:
            if not request.future.done() and not request.future.cancel():
                request.fail(EngineStoppedError("the engine stopped before this was done"), time.monotonic())

    # --- the worker -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        use_decoding_threads()
        while (batch := self._next_batch()) is not None:
            if batch:
                self._translate(batch)
            elif self._canary_waits:
                self._translate_canary()

    def _next_batch(self) -> Batch | None:
        """Wait for work: a batch, an empty one when only a canary waits, None when stopping and nothing is left."""
        with self._lock:
            while not (self._queue or self._canary_waits or self._stopping):
                self._lock.wait()
            if self._aborting or (self._stopping and not self._queue):
                return None
            return self._queue.next_batch(self._active, time.monotonic())

    def _translate(self, batch: Batch) -> None:
        first, _ = batch[0]
        assert first.point is not None
        sentences = [request.texts[text][segment].sentence for request, (text, segment) in batch]
        try:
            outputs, observation = self._search(
                first.point, sentences, first.beam_size, lambda: self._aborting
            )
        except SearchCancelledError:
            self._fail(batch, EngineStoppedError("the engine stopped before this was done"))
            return
        except Exception as error:  # the worker must outlive any one batch
            logger.exception("translation failed on operating point %s", first.point.id)
            self._fail(batch, error)
            return
        done: list[TranslationRequest] = []
        with self._lock:
            for (request, place), output in zip(batch, outputs, strict=True):
                request.translations[place] = output
                request.num_running -= 1
                if (
                    request.is_done
                    and request in self._queue
                    and not self._try_again(request, observation.monotonic_s)
                ):
                    self._queue.remove(request)
                    done.append(request)
        for request in done:
            request.answer(time.monotonic())
        self._observe(observation)

    def _translate_canary(self) -> None:
        """Translate the canary sentence for its time alone, unless a request comes."""
        point, canary = self._active, CANARIES[self.src_lang][-1]
        try:
            _, observation = self._search(
                point, [canary], self._beam_size, lambda: self._stopping or bool(self._queue)
            )
        except SearchCancelledError:
            return
        except Exception:  # the worker must outlive a canary, too
            logger.exception("canary sentence failed on operating point %s", point.id)
            return
        finally:
            self._canary_waits = False
        self._observe(replace(observation, is_canary=True))

    def _search(
        self, point: ActivePoint, sentences: Sequence[str], beam_size: int, is_cancelled: Callable[[], bool]
    ) -> tuple[list[SentenceTranslation], Observation]:
        """Translate one batch, and time it."""
        options = BeamOptions(beam_size=beam_size, length_penalty=self._length_penalty)
        began_s = time.monotonic()
        with self._work.on(point.id, sentences):
            outputs = self._translator.translate(
                point.sub, sentences, options, is_cancelled=self._work.advancing(is_cancelled)
            )
        ended_s = time.monotonic()
        parts = [part for output in outputs for part in output.parts]
        return outputs, Observation(
            monotonic_s=ended_s,
            point_id=point.id,
            num_sentences=len(parts),
            num_src_tokens=max(part.num_src_tokens for part in parts),
            num_tgt_tokens=max(part.num_tgt_tokens for part in parts),
            beam_size=beam_size,
            elapsed_ms=(ended_s - began_s) * 1e3,
        )

    def _try_again(self, request: TranslationRequest, now_s: float) -> bool:
        """Begin a second attempt if there should be one. Holds the lock."""
        larger_id = second_point(request, now_s, self.table, self._larger)
        fault = request.attempt().first_fault
        if larger_id is None or fault is None:
            return False
        self._queue.begin_again(request, self._points[larger_id], now_s)
        self._retries[fault] += 1
        return True

    def _fail(self, batch: Batch, error: Exception) -> None:
        """Fail every request that had a sentence in the batch, unless it has an earlier attempt to show."""
        with self._lock:
            failed = {id(request): request for request, _ in batch if request in self._queue}
            for request in failed.values():
                self._queue.remove(request)
        for request in failed.values():
            request.fail(error, time.monotonic())

    def _observe(self, observation: Observation) -> None:
        """Tell the observer of a batch."""
        if self._on_finished is None:
            return
        try:
            self._on_finished(observation)
        except Exception:  # whoever listens must not harm who translates
            if not self._observer_complained:
                self._observer_complained = True
                logger.exception("observer of finished batches failed; this is logged once")
