"""The queue alone: its bounds, whose turn it is, and what it says of itself."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest

from dynhat_runtime.errors import EngineOverloadedError
from dynhat_runtime.prepared_texts import PreparedTexts
from dynhat_runtime.queue_load import Priority, QueueLimits
from dynhat_runtime.request_queue import MAX_BATCH_TOKENS, MAX_TIMES_PASSED_OVER, Batch, RequestQueue
from dynhat_runtime.text.sentences import Segment
from dynhat_runtime.translation_request import ActivePoint, TranslationRequest
from tests.planned_sentences import planned_sentence

NOBODY: Any = None
POINT = ActivePoint("p", NOBODY)


def make_request(
    num_sentences: int = 1, priority: Priority = "interactive", num_tokens: int = 10, **more: Any
) -> TranslationRequest:
    """A request of equal sentences."""
    segments = [Segment("", f"Sentence {number}.", " ") for number in range(num_sentences)]
    planned = {
        (0, number): planned_sentence(segment.sentence, num_tokens) for number, segment in enumerate(segments)
    }
    return TranslationRequest(
        prepared=PreparedTexts([segments], planned),
        submitted_s=0.0,
        future=Future(),
        priority=priority,
        **{"beam_size": 4, **more},
    )


def finish(queue: RequestQueue, batch: Batch) -> list[TranslationRequest]:
    """Take the requests of a batch for done; those that led and shared it, in order."""
    requests = list(dict.fromkeys(request for request, _ in batch))
    for request in requests:
        request.num_running = 0
        if request.is_done:
            queue.remove(request)
    return requests


def next_requests(queue: RequestQueue) -> list[TranslationRequest]:
    """Whose sentences are in the next batch."""
    return finish(queue, queue.next_batch(POINT, 0.0))


@pytest.mark.parametrize(
    ("limits", "num_fit", "words"),
    [
        (QueueLimits(requests=3), 3, "3 requests wait, 1 more exceed the limit of 3"),
        (QueueLimits(sentences=7), 3, "6 sentences wait, 2 more exceed the limit of 7"),
        (QueueLimits(tokens=50), 2, "40 tokens wait, 20 more exceed the limit of 50"),
    ],
)
def test_each_bound_holds(limits: QueueLimits, num_fit: int, words: str) -> None:
    """Requests, sentences and tokens are bounded each; the refusal names the bound and shows the queue."""
    queue = RequestQueue(limits)
    for _ in range(num_fit):
        queue.add(make_request(2))
    with pytest.raises(EngineOverloadedError, match=words) as caught:
        queue.add(make_request(2))
    assert caught.value.queue == queue.load.as_dict()
    assert (queue.load.requests, queue.load.sentences, queue.load.tokens) == (
        num_fit,
        2 * num_fit,
        20 * num_fit,
    )
    next_requests(queue)
    queue.add(make_request(2))


def test_a_full_queue_is_known_beforehand() -> None:
    """A queue with no room at all refuses before anybody looks at the request."""
    queue = RequestQueue(QueueLimits(requests=1))
    queue.check_room()
    queue.add(make_request())
    with pytest.raises(EngineOverloadedError, match="1 requests wait, the limit is 1"):
        queue.check_room()


def test_a_request_larger_than_the_queue() -> None:
    """A request that could never fit is taken when nothing waits, and only then."""
    queue = RequestQueue(QueueLimits(sentences=2, tokens=15))
    queue.add(make_request(5))
    with pytest.raises(EngineOverloadedError):
        queue.add(make_request(1))


def test_what_is_counted_comes_back() -> None:
    """Whatever way requests leave, nothing is left in the sums."""
    queue = RequestQueue(QueueLimits())
    requests = [make_request(20), make_request(3, "batch"), make_request(1)]
    for request in requests:
        queue.add(request)
    assert queue.load.of_batch_requests == 3
    queue.remove(requests[1])
    assert (queue.load.sentences, queue.load.of_batch_requests) == (21, 0)
    next_requests(queue)
    assert queue.remove_all() == [requests[0], requests[2]]
    assert (queue.load.requests, queue.load.sentences, queue.load.tokens) == (0, 0, 0)


def test_interactive_goes_first() -> None:
    """An interactive request overtakes batch requests, also one that has begun, and shares its batch with none."""
    queue = RequestQueue(QueueLimits())
    jobs = make_request(40, "batch")
    queue.add(jobs)
    assert next_requests(queue) == [jobs]
    queue.add(make_request(1, "batch"))
    quick = [make_request(), make_request()]
    for request in quick:
        queue.add(request)
    assert next_requests(queue) == quick
    assert next_requests(queue) == [jobs]


def test_batch_requests_do_not_starve() -> None:
    """However many interactive requests keep coming, a batch request leads one batch in every few."""
    queue = RequestQueue(QueueLimits())
    jobs = make_request(3 * 16, "batch")
    queue.add(jobs)
    turns = []
    for _ in range(3 * (MAX_TIMES_PASSED_OVER + 1)):
        queue.add(make_request(16))
        turns.append(next_requests(queue)[0] is jobs)
    assert turns == ([False] * MAX_TIMES_PASSED_OVER + [True]) * 3


def test_interactive_shares_a_batch_request_s_turn() -> None:
    """A batch that a batch request leads has room for interactive ones."""
    queue = RequestQueue(QueueLimits())
    jobs, quick = make_request(2, "batch"), make_request(16)
    queue.add(jobs)
    for _ in range(MAX_TIMES_PASSED_OVER):
        queue.add(make_request(16))
        next_requests(queue)
    queue.add(quick)
    assert next_requests(queue) == [jobs, quick]


def test_who_has_to_be_answered_first_goes_first() -> None:
    """In each class the nearest deadline leads; of equal ones the oldest."""
    queue = RequestQueue(QueueLimits())
    requests = {
        name: make_request(priority=priority, deadline_s=deadline_s, beam_size=number)
        for number, (name, priority, deadline_s) in enumerate(
            [
                ("batch", "batch", 1.0),
                ("patient", "interactive", 60.0),
                ("as patient, younger", "interactive", 60.0),
                ("hurried", "interactive", 2.0),
            ],
            start=1,
        )
    }
    for request in requests.values():
        queue.add(request)
    order = [next_requests(queue) for _ in requests]
    assert order == [[requests[name]] for name in ("hurried", "patient", "as patient, younger", "batch")]


def test_nobody_joins_who_makes_another_late() -> None:
    """At 10 ms per token a request of 10 tokens with 150 ms left goes alone; with 250 ms left it has company."""
    queue = RequestQueue(QueueLimits())
    queue.note_pace(100, 1.0)
    hurried, patient = make_request(deadline_s=1000.15), make_request()
    queue.add(patient)
    queue.add(hurried)
    assert finish(queue, queue.next_batch(POINT, 1000.0)) == [hurried]
    hurried = make_request(deadline_s=1000.25)
    queue.add(hurried)
    assert finish(queue, queue.next_batch(POINT, 1000.0)) == [hurried, patient]


def test_its_own_sentences_make_nobody_late() -> None:
    """A request that cannot be in time has its sentences in one batch all the same: there is no quicker way."""
    queue = RequestQueue(QueueLimits())
    queue.note_pace(100, 1.0)
    queue.add(make_request(3, deadline_s=1000.15))
    queue.add(make_request())
    assert len(queue.next_batch(POINT, 1000.0)) == 3


def test_a_batch_has_a_token_budget() -> None:
    """Sentences share a batch up to a sum of tokens; one that is longer than that is translated by itself."""
    queue = RequestQueue(QueueLimits())
    short, long, longest, last = (
        make_request(num_tokens=number)
        for number in (12, MAX_BATCH_TOKENS - 12, MAX_BATCH_TOKENS + 1, MAX_BATCH_TOKENS)
    )
    for request in (short, long, longest, last):
        queue.add(request)
    assert [next_requests(queue) for _ in range(3)] == [[short, long], [longest], [last]]


def test_a_stream_goes_sentence_by_sentence() -> None:
    """A request that asks for single sentences has one in each batch, in order; others fill the batch."""
    queue = RequestQueue(QueueLimits())
    stream, other = make_request(3, max_batch_sentences=1), make_request(2)
    queue.add(stream)
    queue.add(other)
    batches = [queue.next_batch(POINT, 0.0) for _ in range(3)]
    assert [[place for request, place in batch if request is stream] for batch in batches] == [
        [(0, 0)],
        [(0, 1)],
        [(0, 2)],
    ]
    assert [len(batch) for batch in batches] == [3, 1, 1]


def test_pieces_are_the_text() -> None:
    """All pieces of a text in order are the text, what is not translated included."""
    segments = [
        Segment("\n", "42", " "),
        Segment("", "One.", "  "),
        Segment("", "!", "\n"),
        Segment("", "Two.", " "),
        Segment("", "7", ""),
    ]
    planned = {(0, position): planned_sentence(segments[position].sentence, 1) for position in (1, 3)}
    request = TranslationRequest(
        prepared=PreparedTexts([segments], planned), beam_size=4, submitted_s=0.0, future=Future()
    )
    pieces = [request.piece((0, 1), "EINS"), request.piece((0, 3), "ZWEI")]
    assert "".join(pieces) == "\n42 EINS  !\nZWEI 7"


def test_the_wait_is_told_by_the_pace() -> None:
    """Before any batch no wait is told; then tokens times the pace of late, and Retry-After within its bounds."""
    queue = RequestQueue(QueueLimits())
    queue.add(make_request(10))
    assert queue.load.expected_wait_s is None
    assert queue.load.retry_after_s == 1
    queue.note_pace(num_tokens=100, elapsed_s=5.0)
    assert queue.load.expected_wait_s == pytest.approx(5.0)
    assert queue.load.retry_after_s == 5
    for _ in range(50):
        queue.note_pace(num_tokens=1, elapsed_s=10.0)
    assert queue.load.retry_after_s == 60
