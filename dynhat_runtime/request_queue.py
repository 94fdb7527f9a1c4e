"""Requests that wait for the engine, bounded in sentences, and what of them is translated next.

Locks nothing: the engine holds its lock around every call.
"""

from __future__ import annotations

from collections import deque

from dynhat_runtime.errors import EngineOverloadedError
from dynhat_runtime.governor.request_choice import MAX_BATCH_SENTENCES
from dynhat_runtime.translation_request import ActivePoint, Place, TranslationRequest

MAX_BATCH_CHARACTERS = 2000
"""Bound on the sentences that share a batch, beside their number: keeps the wait of a short request behind a long
one short."""

Batch = list[tuple[TranslationRequest, Place]]
"""Sentences, each with its request, all of which have one point and one beam size."""


class RequestQueue:
    """Requests from their submission until they are answered, oldest first."""

    def __init__(self, limit_sentences: int) -> None:
        self.num_waiting = 0
        """Sentences not yet in a batch."""
        self._limit_sentences = limit_sentences
        self._requests: deque[TranslationRequest] = deque()

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request: TranslationRequest) -> bool:
        return request in self._requests

    def add(self, request: TranslationRequest) -> None:
        """Let a request wait.

        Raises:
            EngineOverloadedError: There is no room for it.
        """
        num_new = len(request.waiting)
        # A request larger than the whole queue is taken when nothing waits: else it would never be.
        if self.num_waiting and self.num_waiting + num_new > self._limit_sentences:
            raise EngineOverloadedError(
                f"{self.num_waiting} sentences wait, {num_new} more exceed the limit of {self._limit_sentences}"
            )
        self.num_waiting += num_new
        self._requests.append(request)

    def begin_again(self, request: TranslationRequest, larger: ActivePoint, now_s: float) -> None:
        """Let a request, at its place in the queue, wait for a second attempt."""
        request.begin_again(larger, now_s)
        self.num_waiting += len(request.waiting)

    def remove(self, request: TranslationRequest) -> None:
        """Take a request out, with whatever of it still waits."""
        self._requests.remove(request)
        self.num_waiting -= len(request.waiting)

    def remove_all(self) -> list[TranslationRequest]:
        """Take out what there is."""
        requests = list(self._requests)
        for request in requests:
            self.remove(request)
        return requests

    def next_batch(self, active: ActivePoint, now_s: float) -> Batch:
        """The oldest request's sentences, then others' with its point and beam.

        Answers what needs no translating and drops what was cancelled, so that a batch may be empty.

        Args:
            active: The point of requests that have none yet; read once, as a batch has one point.
            now_s: When they begin.
        """
        batch: Batch = []
        num_characters = 0
        point: ActivePoint | None = None
        beam_size = 0
        for request in list(self._requests):
            if batch and (request.point_when_active(active), request.beam_size) != (point, beam_size):
                continue
            if request.point is None and not self._begin(request, active, now_s):
                continue
            point, beam_size = request.point, request.beam_size
            while request.waiting and len(batch) < MAX_BATCH_SENTENCES:
                text, segment = request.waiting[0]
                num_characters += len(request.texts[text][segment].sentence)
                if batch and num_characters > MAX_BATCH_CHARACTERS:
                    return batch
                batch.append((request, request.waiting.popleft()))
                request.num_running += 1
                self.num_waiting -= 1
            if len(batch) == MAX_BATCH_SENTENCES:
                break
        return batch

    def _begin(self, request: TranslationRequest, active: ActivePoint, now_s: float) -> bool:
        """Give a request its point; False when nothing is left to do for it."""
        if not request.future.set_running_or_notify_cancel():
            self.remove(request)
            return False
        request.begin(active, now_s)
        if request.is_done:
            self.remove(request)
            request.answer(now_s)
            return False
        return True
