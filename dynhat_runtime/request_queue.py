"""Requests that wait for the engine, bounded in requests, sentences and tokens, and what of them is translated next.

An engine that is free takes what there is: nobody is kept waiting for company.
Locks nothing: the engine holds its lock around every call.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Sequence

from dynhat_runtime.batch import Batch
from dynhat_runtime.errors import EngineOverloadedError
from dynhat_runtime.governor.request_choice import MAX_BATCH_SENTENCES
from dynhat_runtime.prepared_texts import Place
from dynhat_runtime.queue_load import Priority, QueueLimits, QueueLoad
from dynhat_runtime.translation_request import ActivePoint, TranslationRequest

MAX_BATCH_TOKENS = 512
"""Bound on the source tokens that share a batch, beside the number of sentences: keeps the wait of a short request
behind a long one short."""

MAX_TIMES_PASSED_OVER = 4
"""Batches that interactive requests may lead in a row while a batch request waits."""

PACE_MEMORY = 0.8
"""Weight of the earlier batches in the pace that the expected wait is told by."""


class RequestQueue:
    """Requests from their submission until they are answered."""

    def __init__(self, limits: QueueLimits) -> None:
        self.num_waiting = 0
        """Sentences not yet in a batch."""
        self._num_waiting_of: Counter[Priority] = Counter()
        self._num_waiting_tokens = 0
        self._limits = limits
        self._requests: deque[TranslationRequest] = deque()
        self._num_times_passed_over = 0
        self._s_per_token: float | None = None

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, request: TranslationRequest) -> bool:
        return request in self._requests

    @property
    def load(self) -> QueueLoad:
        """What waits now."""
        pace = self._s_per_token
        return QueueLoad(
            requests=len(self._requests),
            sentences=self.num_waiting,
            of_batch_requests=self._num_waiting_of["batch"],
            tokens=self._num_waiting_tokens,
            limits=self._limits,
            expected_wait_s=None if pace is None else self._num_waiting_tokens * pace,
        )

    def note_pace(self, num_tokens: int, elapsed_s: float) -> None:
        """A batch of so many source tokens took so long."""
        pace, earlier = elapsed_s / num_tokens, self._s_per_token
        self._s_per_token = pace if earlier is None else PACE_MEMORY * earlier + (1 - PACE_MEMORY) * pace

    def check_room(self) -> None:
        """Refuse before the work of looking at a request is done, if there is no room for any.

        Raises:
            EngineOverloadedError: As many requests, sentences or tokens wait as may.
        """
        load = self.load
        for what in ("requests", "sentences", "tokens"):
            if getattr(load, what) >= getattr(self._limits, what):
                raise _overloaded(load, what)

    def add(self, request: TranslationRequest) -> None:
        """Let a request wait.

        Raises:
            EngineOverloadedError: There is no room for it.
        """
        load = self.load
        room_for = {
            "requests": 1,
            "sentences": len(request.waiting),
            "tokens": request.num_waiting_tokens,
        }
        for what, num_new in room_for.items():
            num_there = getattr(load, what)
            # A request larger than the whole queue is taken when nothing waits: else it would never be.
            if num_there and num_there + num_new > getattr(self._limits, what):
                raise _overloaded(load, what, num_new)
        self._count_waiting(request, 1)
        self._requests.append(request)

    def begin_again(self, request: TranslationRequest, larger: ActivePoint, now_s: float) -> None:
        """Let a request, at its place in the queue, wait for a second attempt."""
        request.begin_again(larger, now_s)
        self._count_waiting(request, 1)

    def remove(self, request: TranslationRequest) -> None:
        """Take a request out, with whatever of it still waits."""
        self._requests.remove(request)
        self._count_waiting(request, -1)

    def remove_all(self) -> list[TranslationRequest]:
        """Take out what there is."""
        requests = list(self._requests)
        for request in requests:
            self.remove(request)
        return requests

    # Who leads the next batch, and who may share it:
    #   1  interactive requests go before batch requests; in each class who has to be answered first, which is the
    #      oldest where all wait equally long;
    #   2  but when interactive requests have led so many batches in a row that a batch request has waited through
    #      MAX_TIMES_PASSED_OVER of them, a batch request leads one;
    #   3  a batch that an interactive request leads is shared with interactive requests only;
    #   4  nobody joins a batch that by the present pace would thereby be late for one in it.
    def _in_turn(self) -> Sequence[TranslationRequest]:
        """Those that may share the next batch, its leader first."""
        in_order = sorted(self._requests, key=lambda request: request.deadline_s)
        interactive = [request for request in in_order if request.priority == "interactive"]
        others = [request for request in in_order if request.priority == "batch"]
        if not (interactive and others):
            self._num_times_passed_over = 0
            return interactive or others
        if self._num_times_passed_over < MAX_TIMES_PASSED_OVER:
            self._num_times_passed_over += 1
            return interactive
        self._num_times_passed_over = 0
        return [*others, *interactive]

    def next_batch(self, active: ActivePoint, now_s: float) -> Batch:
        """The sentences of the request whose turn it is, then others' with its point and beam.

        Answers what needs no translating, so that a batch may be empty.

        Args:
            active: The point of requests that have none yet; read once, as a batch has one point.
            now_s: When they begin.
        """
        batch: Batch = []
        num_batch_tokens = 0
        point: ActivePoint | None = None
        beam_size = 0
        time_left_s = math.inf

        def has_room(request: TranslationRequest) -> bool:
            """For its next sentence."""
            num_tokens = num_batch_tokens + request.num_tokens_of(request.waiting[0])
            is_in_time = num_tokens * (self._s_per_token or 0.0) <= time_left_s
            return not batch or (num_tokens <= MAX_BATCH_TOKENS and is_in_time)

        for request in self._in_turn():
            if batch and (request.point_when_active(active), request.beam_size) != (point, beam_size):
                continue
            if request.waiting and not has_room(request):
                break
            if request.point is None and not self._begin(request, active, now_s):
                continue
            point, beam_size = request.point, request.beam_size
            num_left = min(MAX_BATCH_SENTENCES - len(batch), request.max_batch_sentences)
            while request.waiting and num_left and has_room(request):
                num_batch_tokens += request.num_tokens_of(request.waiting[0])
                batch.append((request, self._take(request)))
                num_left -= 1
            time_left_s = min(time_left_s, request.deadline_s - now_s)
            if len(batch) == MAX_BATCH_SENTENCES:
                break
        return batch

    def _take(self, request: TranslationRequest) -> Place:
        """A request's next sentence."""
        place = request.waiting.popleft()
        request.num_running += 1
        self._count_one(request, place, -1)
        return place

    def _count_waiting(self, request: TranslationRequest, sign: int) -> None:
        """Add what waits of a request to the sums, or take it off."""
        for place in request.waiting:
            self._count_one(request, place, sign)

    def _count_one(self, request: TranslationRequest, place: Place, sign: int) -> None:
        self.num_waiting += sign
        self._num_waiting_of[request.priority] += sign
        self._num_waiting_tokens += sign * request.num_tokens_of(place)

    def _begin(self, request: TranslationRequest, active: ActivePoint, now_s: float) -> bool:
        """Give a request its point; False when nothing is left to do for it."""
        request.begin(active, now_s)
        if request.is_done:
            self.remove(request)
            request.answer(now_s)
            return False
        return True


def _overloaded(load: QueueLoad, what: str, num_new: int | None = None) -> EngineOverloadedError:
    """The refusal that says which bound was met."""
    limit = getattr(load.limits, what)
    bound = f"the limit is {limit}" if num_new is None else f"{num_new} more exceed the limit of {limit}"
    return EngineOverloadedError(
        f"the queue is full: {getattr(load, what)} {what} wait, {bound}: try again in {load.retry_after_s} s",
        queue=load.as_dict(),
        retry_after_s=load.retry_after_s,
    )
