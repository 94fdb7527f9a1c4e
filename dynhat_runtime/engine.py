"""Acts: translates on the active operating point, and swaps that point by replacing one reference.

Requests wait in a bounded queue; one worker thread takes sentences of several requests in one batch, never of
two operating points. A request gets its point when its first sentence begins and keeps it to the end; when its
output is degenerate it is translated once more, all of it, on the next larger point. A request whose future is
cancelled leaves at once; a batch that nobody waits for any more ends between two steps.

Senses nothing and decides nothing: the control loop calls `switch_to` and `follow_cpus`, and hears what each batch
took; whoever submits a request may name its point.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

from dynhat_runtime.batch import Batch, is_abandoned, note_waits, planned_in, request_ids_of, tell_sentences
from dynhat_runtime.decoding.canary import CANARIES
from dynhat_runtime.decoding.output_guard import FAULTS
from dynhat_runtime.decoding.search import BeamOptions, SearchCancelledError
from dynhat_runtime.decoding.translator import PlannedSentence, SentenceTranslation, Translator
from dynhat_runtime.decoding_progress import DecodingProgress, WorkInHand
from dynhat_runtime.errors import EngineStoppedError
from dynhat_runtime.governor.request_choice import MAX_BATCH_SENTENCES
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.threads import move_threads_to, use_decoding_threads
from dynhat_runtime.observation import Observation
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.prepared_texts import PreparedTexts
from dynhat_runtime.queue_load import Priority, QueueLimits, QueueLoad
from dynhat_runtime.request_queue import RequestQueue
from dynhat_runtime.second_attempt import second_point
from dynhat_runtime.served_points import LoadedModel, ServedPoints
from dynhat_runtime.tally import EngineTallies
from dynhat_runtime.text.sentences import Cuts
from dynhat_runtime.translation_request import ActivePoint, OnSentence, TextTranslation, TranslationRequest

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
        points: ServedPoints,
        languages: tuple[str, str],
        *,
        search: BeamOptions | None = None,
        queue_limits: QueueLimits | None = None,
        on_finished: Observer | None = None,
        tallies: EngineTallies | None = None,
    ) -> None:
        """Join the parts; nothing runs before `start`.

        Args:
            translator: Tokenizer and length limits.
            points: What is served; the best is active first.
            languages: Codes of source and target.
            search: How to search; its beam is for requests that name none. Without it as `BeamOptions` says.
            queue_limits: What may wait before `submit` refuses.
            on_finished: Hears of every batch, on the worker's thread; its failure harms no request.
            tallies: Counted on in; an engine that takes over from another goes on with that one's.
        """
        self.src_lang, self.tgt_lang = languages
        self.tallies = tallies or EngineTallies()
        self._translator = translator
        self._points = points
        self._active = points.best
        self._search_options = search or BeamOptions()
        self._on_finished = on_finished
        self._observer_complained = False
        self._lock = threading.Condition()
        self._queue = RequestQueue(queue_limits or QueueLimits())
        self._work = WorkInHand()
        self._canary_waits = False
        self._stopping = False
        self._aborting = False
        self._thread: threading.Thread | None = None

    @classmethod
    def load(
        cls,
        source: Bundle | LoadedModel,
        table: OperatingPointTable,
        *,
        beam_size: int = 4,
        queue_limits: QueueLimits | None = None,
        on_finished: Observer | None = None,
        tallies: EngineTallies | None = None,
    ) -> TranslationEngine:
        """An engine for the points of `table`, cut out of a bundle's weights or of what is loaded of them already.

        Raises:
            BundleError: A file of the bundle does not hold what it should, or every point was refused.
            DesignSpaceError: A point lies outside the design space.
        """
        model = source if isinstance(source, LoadedModel) else LoadedModel.of_bundle(source)
        return cls(
            model.translator,
            model.points(table),
            model.languages,
            search=replace(model.search, beam_size=beam_size),
            queue_limits=queue_limits,
            on_finished=on_finished,
            tallies=tallies,
        )

    # --- the operating point --------------------------------------------------------------------------------

    @property
    def table(self) -> OperatingPointTable:
        """What was measured of the points served."""
        return self._points.table

    @property
    def refused(self) -> Mapping[str, str]:
        """Points of the table that are not served, each with the reason."""
        return self._points.refused

    @property
    def active_point_id(self) -> str:
        """The point that translations starting now will use."""
        return self._active.id

    def switch_to(self, point_id: str) -> None:
        """Make `point_id` the active point; a request that has begun keeps its own.

        Raises:
            UnknownOperatingPointError: No such point; nothing changed.
        """
        self._active = self._points[point_id]

    def follow_cpus(self, cpus: tuple[int, ...]) -> None:
        """Compute on these CPUs."""
        move_threads_to(cpus)

    # --- requests -------------------------------------------------------------------------------------------

    @property
    def queue_depth(self) -> int:
        """Sentences waiting."""
        return self._queue.num_waiting

    @property
    def queue_load(self) -> QueueLoad:
        """What waits, and what may."""
        with self._lock:
            return self._queue.load

    @property
    def guard_retries(self) -> Mapping[str, int]:
        """Requests translated once more because their output was degenerate, by its fault."""
        return {fault: self.tallies.guard_retries[fault] for fault in FAULTS}

    @property
    def progress(self) -> DecodingProgress:
        """What the worker is at, and when it last got on. Waits for no lock: it is asked when something is stuck."""
        return self._work.progress(is_busy=bool(self._queue))

    def check_room(self) -> None:
        """Refuse before a request is looked at, if there is no room for any.

        Raises:
            EngineOverloadedError: The queue is full.
            EngineStoppedError: The engine is stopping.
        """
        with self._lock:
            self._check_open()
            self._queue.check_room()

    def prepare(self, texts: Sequence[str], cuts: Cuts = "lines") -> PreparedTexts:
        """What `submit` would have decoded for these texts, which it takes in their place."""
        return PreparedTexts.of(texts, self._translator, self.src_lang, cuts)

    def submit(
        self,
        texts: Sequence[str] | PreparedTexts,
        *,
        beam_size: int | None = None,
        point_id: str | None = None,
        retry_within_ms: float | None = None,
        priority: Priority = "interactive",
        request_id: str | None = None,
        on_sentence: OnSentence | None = None,
        num_alternatives: int = 0,
        cuts: Cuts = "lines",
        timeout_s: float = math.inf,
    ) -> Future[list[TextTranslation]]:
        """Queue texts for translation.

        Args:
            texts: Any text; sentences are translated; white space, what has no letters and what is protected
                (placeholders, addresses, emoji) is kept as it is. Or what `prepare` made of them.
            beam_size: Overrides the engine's.
            point_id: Translates this request on that point; None takes the active one.
            retry_within_ms: Should the output be degenerate, a second attempt is made only if it can be expected
                to be done this long after submission; None sets no limit, 0 forbids it.
            priority: The class of requests that it waits in.
            request_id: The name that log lines about it carry.
            on_sentence: Hears of each sentence as soon as it is done, on the engine's thread; the request is then
                translated sentence by sentence, in order, and there is no second attempt.
            num_alternatives: Other translations wanted of each text; there are never more than beams.
            cuts: What ends a sentence of texts that are not prepared.
            timeout_s: How long somebody waits for it: who waits less long is translated first.

        Returns:
            One translation per text. Cancelling the future drops what is not done, also what has begun.

        Raises:
            EngineOverloadedError: The queue is full.
            EngineStoppedError: The engine is stopping.
            UnknownOperatingPointError: There is no point `point_id`.
        """
        self.check_room()
        own_point = None if point_id is None else self._points[point_id]
        submitted_s = time.monotonic()
        prepared = texts if isinstance(texts, PreparedTexts) else self.prepare(texts, cuts)
        request = TranslationRequest(
            prepared=prepared,
            beam_size=beam_size or self._search_options.beam_size,
            submitted_s=submitted_s,
            future=Future(),
            own_point=own_point,
            retry_within_ms=retry_within_ms if on_sentence is None else 0.0,
            priority=priority,
            request_id=request_id,
            on_sentence=on_sentence,
            max_batch_sentences=MAX_BATCH_SENTENCES if on_sentence is None else 1,
            num_alternatives=num_alternatives,
            deadline_s=submitted_s + timeout_s,
        )
        with self._lock:
            self._check_open()
            if not self._queue:
                self._work.advance()
            self._queue.add(request)
            self._lock.notify()
        request.future.add_done_callback(lambda _: self._withdraw(request))
        return request.future

    def _check_open(self) -> None:
        """Raise EngineStoppedError once the engine stops."""
        if self._stopping:
            raise EngineStoppedError("the engine is stopping")

    def _withdraw(self, request: TranslationRequest) -> None:
        """A request is done with: if its caller cancelled it, what of it waits makes room at once."""
        if not request.future.cancelled():
            return
        with self._lock:
            self.tallies.cancelled += 1
            if request in self._queue:
                self._queue.remove(request)

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
        note_waits(batch, self.tallies)
        try:
            outputs, observation = self._search(
                first.point,
                planned_in(batch),
                first.beam_size,
                lambda: self._aborting or is_abandoned(batch),
                max(request.num_alternatives for request, _ in batch),
            )
        except SearchCancelledError:
            # Of those nobody waits for any more there is nothing left in the queue to fail.
            self._fail(batch, EngineStoppedError("the engine stopped before this was done"))
            return
        except Exception as error:  # the worker must outlive any one batch
            logger.exception(
                "translation failed on operating point %s",
                first.point.id,
                extra={"request_ids": request_ids_of(batch)},
            )
            self._fail(batch, error)
            return
        tell_sentences(batch, outputs)
        self._note_work(batch, outputs, observation)
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

    def _note_work(
        self, batch: Batch, outputs: Sequence[SentenceTranslation], observation: Observation
    ) -> None:
        """Tally what a batch was, and what it took."""
        elapsed_s = observation.elapsed_ms / 1e3
        num_src_tokens = sum(output.num_src_tokens for output in outputs)
        num_tgt_tokens = sum(output.num_tgt_tokens for output in outputs)
        self.tallies.batch_done(observation.point_id, len(batch), num_src_tokens, num_tgt_tokens, elapsed_s)
        with self._lock:
            self._queue.note_pace(num_src_tokens, elapsed_s)

    def _translate_canary(self) -> None:
        """Translate the canary sentence for its time alone, unless a request comes."""
        point, canary = self._active, self._translator.plan(CANARIES[self.src_lang][-1])
        try:
            _, observation = self._search(
                point,
                [canary],
                self._search_options.beam_size,
                lambda: self._stopping or bool(self._queue),
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
        self,
        point: ActivePoint,
        planned: Sequence[PlannedSentence],
        beam_size: int,
        is_cancelled: Callable[[], bool],
        num_alternatives: int = 0,
    ) -> tuple[list[SentenceTranslation], Observation]:
        """Translate one batch, and time it."""
        options = replace(self._search_options, beam_size=beam_size)
        began_s = time.monotonic()
        lengths = tuple(length for sentence in planned for length in sentence.part_lengths)
        with self._work.on(point.id, lengths):
            outputs = self._translator.translate_planned(
                point.sub,
                planned,
                options,
                num_alternatives=num_alternatives,
                is_cancelled=self._work.advancing(is_cancelled),
            )
        ended_s = time.monotonic()
        parts = [part for output in outputs for part in output.parts]
        return outputs, Observation(
            monotonic_s=ended_s,
            point_id=point.id,
            num_sentences=len(parts),
            num_src_tokens=max(lengths),
            num_tgt_tokens=max(part.num_tgt_tokens for part in parts),
            beam_size=beam_size,
            elapsed_ms=(ended_s - began_s) * 1e3,
        )

    def _try_again(self, request: TranslationRequest, now_s: float) -> bool:
        """Begin a second attempt if there should be one. Holds the lock."""
        larger_id = second_point(request, now_s, self.table, self._points.larger)
        fault = request.attempt().first_fault
        if larger_id is None or fault is None:
            return False
        self._queue.begin_again(request, self._points[larger_id], now_s)
        self.tallies.guard_retries[fault] += 1
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
