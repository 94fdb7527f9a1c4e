"""The engine: batches, bounded queue, and a switch that disturbs nobody."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from dynhat_runtime.decoding.search import BeamOptions
from dynhat_runtime.decoding.tokenizer import SentencePieceTokenizer
from dynhat_runtime.decoding.translator import LengthLimits, PlannedSentence, SentenceTranslation, Translator
from dynhat_runtime.engine import ActivePoint, TranslationEngine
from dynhat_runtime.errors import EngineOverloadedError, EngineStoppedError, UnknownOperatingPointError
from dynhat_runtime.governor.request_choice import MAX_BATCH_SENTENCES
from dynhat_runtime.model.checkpoint import SENTENCEPIECE_MODEL, Bundle
from dynhat_runtime.model.decodable import Decodable
from dynhat_runtime.model.sub_transformer import SubTransformer
from dynhat_runtime.queue_load import QueueLimits
from dynhat_runtime.served_points import ServedPoints
from tests.planned_sentences import texts_of
from tests.tiny_bundle import POINT_IDS, SENTENCES

PATIENCE_S = 30.0


class WatchedTranslator(Translator):
    """The real translator; notes each batch, and waits at a gate before it begins one."""

    def __init__(self, tokenizer: SentencePieceTokenizer, limits: LengthLimits) -> None:
        super().__init__(tokenizer, limits)
        self.batches: list[tuple[SubTransformer, tuple[str, ...]]] = []
        self.gate = threading.Semaphore(0)
        self.is_gated = False
        self.began = threading.Semaphore(0)

    def translate_planned(
        self, sub: SubTransformer, planned: Sequence[PlannedSentence], options: BeamOptions, **more: Any
    ) -> list[SentenceTranslation]:
        """Note, wait, translate."""
        sentences = texts_of(planned)
        self.batches.append((sub, tuple(sentences)))
        self.began.release()
        if self.is_gated:
            assert self.gate.acquire(timeout=PATIENCE_S)
        if "fail" in " ".join(sentences):
            raise RuntimeError("broken batch")
        return super().translate_planned(sub, planned, options, **more)


def _engine(bundle: Bundle, **options: Any) -> tuple[TranslationEngine, WatchedTranslator]:
    super_transformer, table = bundle.super_transformer(), bundle.table()
    translator = WatchedTranslator(
        SentencePieceTokenizer(bundle.text_file(SENTENCEPIECE_MODEL)), LengthLimits(max_src_tokens=24)
    )
    points = [ActivePoint(point.id, super_transformer.extract(point.config)) for point in table]
    served = ServedPoints.of(points, table)
    return TranslationEngine(translator, served, ("en", "de"), search=BeamOptions(2), **options), translator


@pytest.fixture
def engine(tiny_bundle: Bundle) -> Iterator[tuple[TranslationEngine, WatchedTranslator]]:
    """A running engine that takes 40 waiting sentences."""
    made, translator = _engine(tiny_bundle, queue_limits=QueueLimits(sentences=40))
    made.start()
    yield made, translator
    translator.is_gated = False
    for _ in range(100):
        translator.gate.release()
    made.stop(PATIENCE_S)


Running = tuple[TranslationEngine, WatchedTranslator]


def test_best_point_is_active_first(engine: Running) -> None:
    """Before any decision the engine serves the best quality."""
    assert engine[0].active_point_id == "large"


def test_every_point_translates(engine: Running, tiny_bundle: Bundle) -> None:
    """After a switch a text comes out as that point alone would say it, and names it."""
    running, translator = engine
    super_transformer = tiny_bundle.super_transformer()
    for point in running.table:
        running.switch_to(point.id)
        (translated,) = running.submit([SENTENCES[0]]).result(PATIENCE_S)
        sub = super_transformer.extract(point.config)
        (alone,) = Translator(translator.tokenizer, translator.limits).translate(
            sub, [SENTENCES[0]], BeamOptions(beam_size=2, length_penalty=0.6)
        )
        assert (translated.text, translated.operating_point) == (alone.text, point.id)


def test_unknown_point(engine: Running) -> None:
    """An unknown id lists the known, and the active point stays."""
    with pytest.raises(UnknownOperatingPointError, match=r"'huge'.*small, middle, large"):
        engine[0].switch_to("huge")
    assert engine[0].active_point_id == "large"


def test_switch_copies_nothing(engine: Running) -> None:
    """Every point's output matrix lies in the same storage."""
    points = engine[0]._points.by_id.values()
    assert len({point.sub.output.weight_OI.untyped_storage().data_ptr() for point in points}) == 1


def test_started_request_keeps_its_point(engine: Running) -> None:
    """A request of several batches that has begun is not moved by a switch; the next one is."""
    running, translator = engine
    translator.is_gated = True
    long = running.submit([" ".join(SENTENCES[:30])])
    assert translator.began.acquire(timeout=PATIENCE_S)
    running.switch_to("small")
    later = running.submit([SENTENCES[0]])
    for _ in range(10):
        translator.gate.release()
    assert long.result(PATIENCE_S)[0].operating_point == "large"
    assert later.result(PATIENCE_S)[0].operating_point == "small"
    large, small = running._points["large"].sub, running._points["small"].sub
    assert [sub is large for sub, _ in translator.batches] == [True, True, False]
    assert translator.batches[-1] == (small, (SENTENCES[0],))


def test_waiting_requests_share_a_batch(engine: Running) -> None:
    """Requests that wait together are translated together, up to the batch's bound."""
    running, translator = engine
    translator.is_gated = True
    first = running.submit([SENTENCES[0]])
    assert translator.began.acquire(timeout=PATIENCE_S)
    others = [running.submit([sentence]) for sentence in SENTENCES[1:19]]
    for _ in range(10):
        translator.gate.release()
    for future in [first, *others]:
        future.result(PATIENCE_S)
    assert [len(sentences) for _, sentences in translator.batches] == [1, MAX_BATCH_SENTENCES, 2]


def test_switch_between_two_requests_of_a_batch(engine: Running) -> None:
    """A switch that comes while a batch is gathered does not bring a second point into it."""
    running, translator = engine
    points = running._points

    class Restless(TranslationEngine):
        """Its active point changes with every look."""

        looks = 0

        @property
        def _active(self) -> ActivePoint:
            Restless.looks += 1
            return points["large" if Restless.looks % 2 else "small"]

        @_active.setter
        def _active(self, _: ActivePoint) -> None:
            """Not listened to."""

    restless = Restless(translator, points, ("en", "de"), search=BeamOptions(2))
    futures = [restless.submit([sentence]) for sentence in SENTENCES[:4]]
    restless.start()
    for future in futures:
        future.result(PATIENCE_S)
    restless.stop(PATIENCE_S)
    told = {future.result()[0].operating_point for future in futures}
    used = {
        point_id
        for point_id, point in points.by_id.items()
        for sub, _ in translator.batches
        if sub is point.sub
    }
    assert len(told) == 1
    assert told == used


def test_white_space_and_what_has_no_letters_stay(engine: Running) -> None:
    """Line breaks, spaces, numbers and emoji come back where they were."""
    (translated,) = engine[0].submit(["  The man sees.\n\n 42 🙂\t\nA woman buys. \n"]).result(PATIENCE_S)
    assert translated.text.startswith("  ")
    assert "\n\n 42 🙂\t\n" in translated.text
    assert translated.text.endswith(" \n")
    assert translated.num_sentences == 2


@pytest.mark.parametrize("text", ["", " \n", "123", "🙂"])
def test_nothing_to_translate(engine: Running, text: str) -> None:
    """Text without a sentence comes back at once and unchanged, named with the active point."""
    (translated,) = engine[0].submit([text]).result(PATIENCE_S)
    assert (translated.text, translated.operating_point) == (text, "large")


def test_queue_is_bounded(engine: Running) -> None:
    """Beyond the limit a request is refused at once; what was taken is finished, and there is room again."""
    running, translator = engine
    translator.is_gated = True
    first = running.submit([SENTENCES[0]])
    assert translator.began.acquire(timeout=PATIENCE_S)
    taken = [running.submit(list(SENTENCES[:20])) for _ in range(2)]
    assert running.queue_depth == 40
    with pytest.raises(EngineOverloadedError, match="40 sentences wait"):
        running.submit([SENTENCES[0]])
    for _ in range(10):
        translator.gate.release()
    assert all(len(future.result(PATIENCE_S)) == 20 for future in taken)
    assert first.done()
    assert running.queue_depth == 0
    translator.is_gated = False
    running.submit([SENTENCES[0]]).result(PATIENCE_S)


def test_cancelled_request_is_dropped(engine: Running) -> None:
    """A request cancelled while it waits costs no translation and leaves the queue."""
    running, translator = engine
    translator.is_gated = True
    first = running.submit([SENTENCES[0]])
    assert translator.began.acquire(timeout=PATIENCE_S)
    dropped, kept = running.submit([SENTENCES[1]]), running.submit([SENTENCES[2]])
    assert dropped.cancel()
    for _ in range(5):
        translator.gate.release()
    first.result(PATIENCE_S)
    kept.result(PATIENCE_S)
    assert [sentences for _, sentences in translator.batches] == [(SENTENCES[0],), (SENTENCES[2],)]
    assert running.queue_depth == 0


def test_broken_batch_fails_its_requests_only(engine: Running) -> None:
    """An error in one batch reaches its requests; the engine goes on."""
    running, _ = engine
    with pytest.raises(RuntimeError, match="broken batch"):
        running.submit(["fail"]).result(PATIENCE_S)
    assert running.submit([SENTENCES[0]]).result(PATIENCE_S)
    assert running.queue_depth == 0


def test_stop_finishes_what_waits(tiny_bundle: Bundle) -> None:
    """What was queued before the stop is translated; what comes after is refused."""
    running, _ = _engine(tiny_bundle)
    running.start()
    futures = [running.submit([sentence]) for sentence in SENTENCES[:40]]
    running.stop(PATIENCE_S)
    assert all(future.result(0) for future in futures)
    with pytest.raises(EngineStoppedError):
        running.submit([SENTENCES[0]])


def test_stop_abandons_what_takes_too_long(tiny_bundle: Bundle) -> None:
    """When time is up nobody is left waiting: every future is done."""
    running, translator = _engine(tiny_bundle)
    translator.is_gated = True
    running.start()
    futures = [running.submit([sentence]) for sentence in SENTENCES[:40]]
    assert translator.began.acquire(timeout=PATIENCE_S)
    threading.Timer(0.3, translator.gate.release).start()
    running.stop(0.1)
    assert all(future.done() for future in futures)
    with pytest.raises(EngineStoppedError):
        futures[0].result(0)


def test_switching_under_load_harms_nobody(engine: Running) -> None:
    """Under random switches every request succeeds, on one point, saying what that point says."""
    running, _ = engine
    text = " ".join(SENTENCES[:3])
    expected = {}
    for point_id in POINT_IDS:
        running.switch_to(point_id)
        expected[point_id] = running.submit([text]).result(PATIENCE_S)[0].text
    assert len(set(expected.values())) == 3
    stop = threading.Event()
    rng = random.Random(3)

    def switch() -> None:
        while not stop.is_set():
            running.switch_to(rng.choice(POINT_IDS))
            time.sleep(0.0005)

    switcher = threading.Thread(target=switch)
    switcher.start()
    try:
        answers = [running.submit([text, text]).result(PATIENCE_S) for _ in range(60)]
    finally:
        stop.set()
        switcher.join()
    for first, second in answers:
        assert first.operating_point == second.operating_point
        assert first.text == second.text == expected[first.operating_point]
    assert len({first.operating_point for first, _ in answers}) > 1


def test_the_bundle_says_how_it_is_searched(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine searches with the manifest's length penalty and bound on repeats, and with the beam asked for."""
    changes = {"length_penalty": 1.5, "no_repeat_size": 3}
    bundle = replace(tiny_bundle, manifest=tiny_bundle.manifest.model_copy(update=changes))
    engine = TranslationEngine.load(bundle, bundle.table(), beam_size=2)
    asked: list[BeamOptions] = []

    def note(sub: Decodable, planned: Any, options: BeamOptions, **more: Any) -> Any:
        asked.append(options)
        return translate(sub, planned, options, **more)

    translate = engine._translator.translate_planned
    monkeypatch.setattr(engine._translator, "translate_planned", note)
    engine.start()
    try:
        engine.submit([SENTENCES[0]]).result(PATIENCE_S)
        engine.submit([SENTENCES[0]], beam_size=3).result(PATIENCE_S)
    finally:
        engine.stop(PATIENCE_S)
    searches = [(each.beam_size, each.length_penalty, each.no_repeat_size) for each in asked]
    assert searches == [(2, 1.5, 3), (3, 1.5, 3)]
