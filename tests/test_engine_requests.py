"""The engine on behalf of single requests: a point of their own, a second attempt, canaries, and what is observed."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from dynhat_runtime.decoding.canary import CANARIES
from dynhat_runtime.decoding.output_guard import Fault
from dynhat_runtime.decoding.search import BeamOptions
from dynhat_runtime.decoding.tokenizer import SentencePieceTokenizer
from dynhat_runtime.decoding.translator import LengthLimits, PlannedSentence, SentenceTranslation, Translator
from dynhat_runtime.engine import ActivePoint, TranslationEngine
from dynhat_runtime.errors import UnknownOperatingPointError
from dynhat_runtime.model.checkpoint import SENTENCEPIECE_MODEL, Bundle
from dynhat_runtime.model.sub_transformer import SubTransformer
from dynhat_runtime.observation import Observation
from dynhat_runtime.served_points import ServedPoints
from tests.planned_sentences import texts_of
from tests.tiny_bundle import POINT_IDS, SENTENCES

PATIENCE_S = 30.0
CANARY = CANARIES["en"][-1]

FaultOf = Callable[[str, str], Fault | None]
"""(point, sentence) -> what the guard is made to say of its translation."""


class JudgedTranslator(Translator):
    """The real translator with verdicts of our own; notes each batch, and waits at a gate before it begins one."""

    def __init__(self, tokenizer: SentencePieceTokenizer, fault_of: FaultOf) -> None:
        super().__init__(tokenizer, LengthLimits(max_src_tokens=24))
        self.names: dict[int, str] = {}
        self.fault_of = fault_of
        self.batches: list[tuple[str, tuple[str, ...]]] = []
        self.failing: set[str] = set()
        self.gate: threading.Semaphore | None = None
        self.began = threading.Semaphore(0)

    def translate_planned(
        self, sub: SubTransformer, planned: Sequence[PlannedSentence], options: BeamOptions, **more: Any
    ) -> list[SentenceTranslation]:
        """Note, wait, translate, judge."""
        sentences = texts_of(planned)
        name = self.names[id(sub)]
        self.batches.append((name, tuple(sentences)))
        self.began.release()
        if self.gate is not None:
            assert self.gate.acquire(timeout=PATIENCE_S)
        if name in self.failing:
            raise RuntimeError("broken batch")
        outputs = super().translate_planned(sub, planned, options, **more)
        return [
            replace(
                output,
                parts=tuple(replace(part, fault=self.fault_of(name, sentence)) for part in output.parts),
            )
            for sentence, output in zip(sentences, outputs, strict=True)
        ]


class Bench:
    """A running engine on the tiny bundle, all points guarded, its translator and what it observed."""

    def __init__(self, bundle: Bundle, fault_of: FaultOf = lambda _point, _sentence: None) -> None:
        super_transformer, table = bundle.super_transformer(), bundle.table()
        self.translator = JudgedTranslator(
            SentencePieceTokenizer(bundle.text_file(SENTENCEPIECE_MODEL)), fault_of
        )
        points = [ActivePoint(point.id, super_transformer.extract(point.config)) for point in table]
        self.translator.names = {id(point.sub): point.id for point in points}
        self.observations: list[Observation] = []
        self.observe: Callable[[Observation], None] = self.observations.append
        self.engine = TranslationEngine(
            self.translator,
            ServedPoints.of(points, table, POINT_IDS),
            ("en", "de"),
            search=BeamOptions(2),
            on_finished=lambda observation: self.observe(observation),
        )
        self.engine.start()

    def translate(self, text: str, **options: Any) -> Any:
        """One text's translation."""
        return self.engine.submit([text], **options).result(PATIENCE_S)[0]

    def until(self, probe: Callable[[], bool]) -> None:
        """Return when it is true."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not probe():
            assert time.monotonic() < deadline_s, "it never happened"
            time.sleep(0.002)

    def until_observed(self, number: int) -> None:
        """Return when so many batches were observed."""
        self.until(lambda: len(self.observations) >= number)


@pytest.fixture
def make(tiny_bundle: Bundle) -> Iterator[Callable[..., Bench]]:
    """Makes benches and sees to their end."""
    benches: list[Bench] = []

    def make(*arguments: Any) -> Bench:
        benches.append(Bench(tiny_bundle, *arguments))
        return benches[-1]

    yield make
    for bench in benches:
        gate, bench.translator.gate = bench.translator.gate, None
        if gate is not None:
            gate.release(100)
        bench.engine.stop(PATIENCE_S)


@pytest.fixture
def bench(make: Callable[..., Bench]) -> Bench:
    """One where the guard has nothing to say."""
    return make()


# --- a point of its own ---


def test_a_request_with_a_point(bench: Bench) -> None:
    """A request that names a point is translated on it, and the active point stays for the others."""
    assert bench.translate(SENTENCES[0], point_id="small").operating_point == "small"
    assert bench.translate(SENTENCES[0]).operating_point == "large"
    assert bench.engine.active_point_id == "large"


def test_a_point_there_is_not(bench: Bench) -> None:
    """An unknown point is refused at once, naming those there are."""
    with pytest.raises(UnknownOperatingPointError, match=r"'huge'.*small, middle, large"):
        bench.engine.submit([SENTENCES[0]], point_id="huge")


def test_points_never_share_a_batch(bench: Bench) -> None:
    """Requests that wait together are batched by point, whoever chose it; the order within a point stays."""
    bench.translator.gate = threading.Semaphore(0)
    first = bench.engine.submit([SENTENCES[0]])
    assert bench.translator.began.acquire(timeout=PATIENCE_S)
    wanted = [None, "small", "large", "small", None]
    others = [
        bench.engine.submit([sentence], point_id=point_id)
        for sentence, point_id in zip(SENTENCES[1:], wanted, strict=False)
    ]
    bench.translator.gate.release(10)
    answered = [future.result(PATIENCE_S)[0].operating_point for future in [first, *others]]
    assert answered == ["large", "large", "small", "large", "small", "large"]
    assert bench.translator.batches[1:] == [
        ("large", (SENTENCES[1], SENTENCES[3], SENTENCES[5])),
        ("small", (SENTENCES[2], SENTENCES[4])),
    ]


def test_a_thousand_switches_harm_nobody(bench: Bench) -> None:
    """While the active point switches 1,000 times, none of the requests with and without a point fails, none sees
    two points, and each says what its point says."""
    text = SENTENCES[0]
    expected = {point_id: bench.translate(text, point_id=point_id).text for point_id in POINT_IDS}
    assert len(set(expected.values())) == 3
    rng = random.Random(5)
    done = threading.Event()
    switches: list[str] = []

    def switch() -> None:
        while not done.is_set():
            switches.append(rng.choice(POINT_IDS))
            bench.engine.switch_to(switches[-1])
            time.sleep(0.0005)

    switcher = threading.Thread(target=switch)
    switcher.start()
    answers: list[tuple[str | None, Any]] = []
    while len(switches) < 1000 or len(answers) < 60:
        own = [None, *POINT_IDS][len(answers) % 4]
        futures = [bench.engine.submit([text, text], point_id=point_id) for point_id in (None, own, None)]
        answers += [
            (point_id, future.result(PATIENCE_S))
            for point_id, future in zip((None, own, None), futures, strict=True)
        ]
    done.set()
    switcher.join()
    assert {first.operating_point for own, (first, _) in answers if own is None} == set(POINT_IDS)
    for own, (first, second) in answers:
        assert first.operating_point == second.operating_point
        assert own in (None, first.operating_point)
        assert first.text == second.text == expected[first.operating_point]


# --- sizes ---


def test_tokens_are_counted_as_they_are_decoded(bench: Bench) -> None:
    """The lengths counted beforehand are those translated: per sentence, parts of an over-long one apart."""
    long = ", ".join(["the old book"] * 30)
    texts = [f"{SENTENCES[0]} {SENTENCES[1]}", "42", "", long]
    counted = [bench.engine.prepare([text]).part_lengths for text in texts]
    translated = bench.engine.submit(texts).result(PATIENCE_S)
    assert [sum(lengths) for lengths in counted] == [text.num_src_tokens for text in translated]
    assert [len(lengths) for lengths in counted[:3]] == [2, 0, 0]
    assert len(counted[3]) > 1
    assert max(counted[3]) <= 24
    assert all(text.num_tgt_tokens > 0 for text in translated if text.num_sentences)


# --- what is observed ---


def test_every_batch_is_observed(bench: Bench) -> None:
    """After a batch the observer hears its point, its rows, its longest source and output, beam and time."""
    before_s = time.monotonic()
    translated = bench.engine.submit(list(SENTENCES[:3]), beam_size=1, point_id="middle").result(PATIENCE_S)
    bench.until_observed(1)
    (observation,) = bench.observations
    assert (observation.point_id, observation.num_sentences, observation.beam_size) == ("middle", 3, 1)
    assert observation.num_src_tokens == max(text.num_src_tokens for text in translated)
    assert observation.num_tgt_tokens == max(text.num_tgt_tokens for text in translated)
    assert before_s < observation.monotonic_s <= time.monotonic()
    assert 0 < observation.elapsed_ms <= min(text.elapsed_ms for text in translated)
    assert not observation.is_canary


def test_parts_count_as_rows(bench: Bench) -> None:
    """An over-long sentence is observed as the rows it was decoded in."""
    long = ", ".join(["the old book"] * 30)
    bench.translate(long)
    bench.until_observed(1)
    lengths = bench.engine.prepare([long]).part_lengths
    assert bench.observations[0].num_sentences == len(lengths)
    assert bench.observations[0].num_src_tokens == max(lengths)


def test_a_failing_observer_harms_nobody(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """An observer that raises fails no request, and is complained of once."""

    def fail(observation: Observation) -> None:
        bench.observations.append(observation)
        raise RuntimeError("deaf")

    bench.observe = fail
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert bench.translate(SENTENCES[0]).text
        bench.until_observed(3)
        bench.engine.stop(PATIENCE_S)
    assert [record.getMessage() for record in caplog.records] == [
        "observer of finished batches failed; this is logged once"
    ]


# --- canaries ---


def test_canary(bench: Bench) -> None:
    """On an idle engine a canary is translated on the active point and observed as one."""
    bench.engine.switch_to("small")
    assert bench.engine.run_canary()
    bench.until_observed(1)
    assert bench.translator.batches == [("small", (CANARY,))]
    assert bench.observations[0].is_canary
    assert bench.engine.queue_depth == 0
    assert bench.translate(SENTENCES[0]).text


def test_no_canary_beside_requests(bench: Bench) -> None:
    """While a request is translated, or another canary is, none is taken."""
    bench.translator.gate = threading.Semaphore(0)
    future = bench.engine.submit([SENTENCES[0]])
    assert bench.translator.began.acquire(timeout=PATIENCE_S)
    assert not bench.engine.run_canary()
    bench.translator.gate.release()
    future.result(PATIENCE_S)
    bench.until_observed(1)
    assert bench.engine.run_canary()
    assert not bench.engine.run_canary()
    bench.translator.gate.release()
    bench.until_observed(2)
    assert [sentences for _, sentences in bench.translator.batches] == [(SENTENCES[0],), (CANARY,)]


def test_a_request_breaks_a_canary_off(bench: Bench) -> None:
    """A request that arrives during a canary goes first: the canary is dropped and not observed."""
    bench.translator.gate = threading.Semaphore(0)
    assert bench.engine.run_canary()
    assert bench.translator.began.acquire(timeout=PATIENCE_S)
    future = bench.engine.submit([SENTENCES[0]])
    bench.translator.gate.release(2)
    assert future.result(PATIENCE_S)[0].text
    bench.until_observed(1)
    assert [observation.is_canary for observation in bench.observations] == [False]
    bench.translator.gate.release(1)
    assert bench.engine.run_canary()
    bench.until_observed(2)


def test_a_broken_canary(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A canary that fails is logged, and the engine goes on."""
    bench.translator.failing = {"large"}
    with caplog.at_level(logging.ERROR):
        assert bench.engine.run_canary()
        bench.until(lambda: bool(caplog.records))
    assert "canary sentence failed on operating point large" in caplog.text
    assert bench.translate(SENTENCES[0], point_id="small").text
    bench.engine.switch_to("small")
    bench.until(bench.engine.run_canary)
    bench.until_observed(2)


def test_no_canary_in_a_stopped_engine(bench: Bench) -> None:
    """An engine that stops takes none, and a canary does not hold the stop up."""
    bench.engine.stop(PATIENCE_S)
    assert not bench.engine.run_canary()


# --- the guard ---


def test_degenerate_output_is_tried_again(make: Callable[..., Bench]) -> None:
    """A request with a degenerate sentence is translated again, all of it, on the next larger point, and says so."""
    bench = make(
        lambda point, sentence: "repetition" if (point, sentence) == ("small", SENTENCES[1]) else None
    )
    texts = [SENTENCES[0], f"{SENTENCES[1]} {SENTENCES[2]}"]
    answers = bench.engine.submit(texts, point_id="small").result(PATIENCE_S)
    expected = [bench.translate(text, point_id="middle").text for text in texts]
    assert [answer.operating_point for answer in answers] == ["middle", "middle"]
    assert [answer.text for answer in answers] == expected
    assert [answer.num_guard_retries for answer in answers] == [1, 1]
    assert [answer.num_sentences for answer in answers] == [1, 2]
    assert bench.engine.guard_retries["repetition"] == 1
    assert sum(bench.engine.guard_retries.values()) == 1
    assert bench.engine.queue_depth == 0


def test_only_one_retry(make: Callable[..., Bench]) -> None:
    """When the second attempt is as bad, it is kept and there is no third."""
    bench = make(lambda _point, _sentence: "too_long")
    answer = bench.translate(SENTENCES[0], point_id="small")
    assert (answer.operating_point, answer.num_guard_retries) == ("middle", 1)
    assert [name for name, _ in bench.translator.batches] == ["small", "middle"]


def test_the_less_bad_is_kept(make: Callable[..., Bench]) -> None:
    """When the second attempt has more degenerate sentences than the first, the first is the answer."""
    bench = make(lambda point, sentence: "copied" if point == "middle" or sentence == SENTENCES[0] else None)
    text = " ".join(SENTENCES[:3])
    answer = bench.translate(text, point_id="small")
    assert (answer.operating_point, answer.num_guard_retries) == ("small", 1)
    assert answer.text == bench.translate(text, point_id="small", retry_within_ms=0).text


def test_the_best_point_is_not_retried(make: Callable[..., Bench]) -> None:
    """Where there is no larger point there is no second attempt."""
    bench = make(lambda _point, _sentence: "empty")
    assert bench.translate(SENTENCES[0]).num_guard_retries == 0
    assert sum(bench.engine.guard_retries.values()) == 0


def test_no_retry_beyond_the_budget(make: Callable[..., Bench]) -> None:
    """A second attempt that would be late is not made; one with time enough is."""
    bench = make(lambda point, _sentence: "copied" if point == "small" else None)
    for budget_ms, num_retries in ((0, 0), (0.01, 0), (60_000, 1)):
        answer = bench.translate(SENTENCES[0], point_id="small", retry_within_ms=budget_ms)
        assert answer.num_guard_retries == num_retries
    assert bench.engine.guard_retries["copied"] == 1


def test_a_retry_that_breaks(make: Callable[..., Bench]) -> None:
    """When the second attempt fails, the first is the answer: the guard never makes a request fail."""
    bench = make(lambda _point, _sentence: "repetition")
    bench.translator.failing = {"middle"}
    answer = bench.translate(SENTENCES[0], point_id="small")
    assert (answer.operating_point, answer.num_guard_retries) == ("small", 1)
    assert bench.engine.queue_depth == 0


def test_neighbours_of_a_retry(make: Callable[..., Bench]) -> None:
    """Requests that shared the degenerate one's batch are answered from it, and are not translated again."""
    bench = make(
        lambda point, sentence: "repetition" if (point, sentence) == ("small", SENTENCES[1]) else None
    )
    bench.engine.switch_to("small")
    bench.translator.gate = threading.Semaphore(0)
    first = bench.engine.submit([SENTENCES[0]])
    assert bench.translator.began.acquire(timeout=PATIENCE_S)
    bad, good = bench.engine.submit([SENTENCES[1]]), bench.engine.submit([SENTENCES[2]])
    bench.translator.gate.release(10)
    answers = [future.result(PATIENCE_S)[0] for future in (first, bad, good)]
    assert [answer.operating_point for answer in answers] == ["small", "middle", "small"]
    assert bench.translator.batches[1:] == [
        ("small", (SENTENCES[1], SENTENCES[2])),
        ("middle", (SENTENCES[1],)),
    ]


# --- giving up, listening, what is counted ---


def test_a_request_given_up_while_it_is_translated(bench: Bench) -> None:
    """Decoding stops between two steps once nobody waits for the batch; the engine goes on with the next request."""
    steps: list[bool] = []
    original = bench.translator.translate_planned

    def translate_slowly(*arguments: Any, is_cancelled: Callable[[], bool], **more: Any) -> Any:
        def ask() -> bool:
            steps.append(is_cancelled())
            if len(steps) == 2:
                future.cancel()
            return steps[-1]

        return original(*arguments, is_cancelled=ask, **more)

    bench.translator.translate_planned = translate_slowly  # type: ignore[method-assign]
    bench.translator.gate = threading.Semaphore(0)
    future = bench.engine.submit([SENTENCES[0]])
    bench.translator.gate.release(10)
    bench.until(lambda: len(steps) >= 3)
    bench.translator.translate_planned = original  # type: ignore[method-assign]
    assert bench.translate(SENTENCES[1]).text
    assert steps == [False, False, True]
    assert future.cancelled()
    assert (bench.engine.queue_load.requests, bench.engine.tallies.cancelled) == (0, 1)
    bench.until_observed(1)
    assert len(bench.observations) == 1


def test_others_in_the_batch_are_not_given_up(bench: Bench) -> None:
    """A request that shares its batch with one that was given up is answered."""
    bench.translator.gate = threading.Semaphore(0)
    first = bench.engine.submit([SENTENCES[0]])
    assert bench.translator.began.acquire(timeout=PATIENCE_S)
    left, kept = bench.engine.submit([SENTENCES[1]]), bench.engine.submit([SENTENCES[2]])
    bench.translator.gate.release(1)
    first.result(PATIENCE_S)
    assert bench.translator.began.acquire(timeout=PATIENCE_S)
    assert left.cancel()
    bench.translator.gate.release(10)
    assert kept.result(PATIENCE_S)[0].text
    assert bench.translator.batches[1] == ("large", (SENTENCES[1], SENTENCES[2]))
    assert bench.engine.queue_load.requests == 0


def test_giving_up_makes_room_at_once(bench: Bench) -> None:
    """A waiting request that is given up leaves the queue before its turn."""
    bench.translator.gate = threading.Semaphore(0)
    bench.engine.submit([SENTENCES[0]])
    assert bench.translator.began.acquire(timeout=PATIENCE_S)
    waiting = bench.engine.submit(list(SENTENCES[1:4]))
    assert bench.engine.queue_load.sentences == 3
    assert bench.engine.queue_load.tokens > 9
    waiting.cancel()
    assert (bench.engine.queue_load.sentences, bench.engine.queue_load.tokens) == (0, 0)


def test_who_listens_hears_each_sentence(bench: Bench) -> None:
    """A listener hears sentence after sentence, each before the next begins; all pieces are the translation."""
    heard: list[tuple[int, str, int]] = []

    def listen(number: int, piece: str) -> None:
        heard.append((number, piece, len(bench.translator.batches)))

    texts = [f"{SENTENCES[0]}  {SENTENCES[1]}\n", "42", SENTENCES[2]]
    answer = bench.engine.submit(texts, on_sentence=listen).result(PATIENCE_S)
    assert [(number, num_batches) for number, _, num_batches in heard] == [(0, 1), (0, 2), (2, 3)]
    assert "".join(piece for number, piece, _ in heard if number == 0) == answer[0].text
    assert heard[2][1] == answer[2].text
    assert [each.text for each in answer] == [bench.translate(text).text for text in texts]


def test_a_listener_that_fails(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """A listener that raises loses its request; nobody else is harmed."""

    def fail(_number: int, _piece: str) -> None:
        raise RuntimeError("deaf")

    with caplog.at_level(logging.ERROR):
        future = bench.engine.submit([f"{SENTENCES[0]} {SENTENCES[1]}"], on_sentence=fail, request_id="r1")
        bench.until(future.cancelled)
        assert bench.translate(SENTENCES[2]).text
    assert "request r1" in caplog.text


def test_what_is_tallied(bench: Bench) -> None:
    """Batches, tokens, waits by class and times by point are counted as they were."""
    answers = bench.engine.submit(list(SENTENCES[:3]), point_id="middle", priority="batch").result(PATIENCE_S)
    bench.translate(SENTENCES[3])
    tallies = bench.engine.tallies
    assert tallies.tokens["source"] > sum(answer.num_src_tokens for answer in answers)
    assert tallies.tokens["target"] > sum(answer.num_tgt_tokens for answer in answers)
    assert (tallies.batch_sentences.copy().number, tallies.batch_sentences.copy().total) == (2, 4)
    assert {name: tally.copy().number for name, tally in tallies.queue_wait_s.items()} == {
        "interactive": 1,
        "batch": 1,
    }
    assert {name: tally.copy().number for name, tally in tallies.inference_s.items()} == {
        "middle": 1,
        "large": 1,
    }
    assert bench.engine.queue_load.expected_wait_s == 0
