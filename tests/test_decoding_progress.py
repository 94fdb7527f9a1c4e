"""Tests of dynhat_runtime.decoding_progress, and of what the engine notes there."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from dynhat_runtime.decoding.search import BeamOptions
from dynhat_runtime.decoding.translator import SentenceTranslation, Translator
from dynhat_runtime.decoding_progress import DecodingProgress, stuck_for_s
from dynhat_runtime.engine import TranslationEngine
from dynhat_runtime.model.checkpoint import Bundle

LIMITS = {"factor": 10.0, "shortest_s": 2.0}


def at(advanced_s: float, *, is_busy: bool = True) -> DecodingProgress:
    """Progress that was last made then."""
    return DecodingProgress(is_busy=is_busy, advanced_s=advanced_s)


@pytest.mark.parametrize(
    ("progress", "predicted_ms", "stuck_s"),
    [
        (at(0.0, is_busy=False), 1.0, None),  # rule 1
        (at(94.0), 500.0, 6.0),  # rule 2
        (at(95.5), 500.0, None),
        (at(98.5), 1.0, None),  # rule 3
        (at(97.5), 1.0, 2.5),
        (at(97.5), 0.0, 2.5),  # waits, and nobody takes it
    ],
)
def test_stuck(progress: DecodingProgress, predicted_ms: float, stuck_s: float | None) -> None:
    """Only work is stuck, after its factor of the prediction, and never before the shortest time."""
    assert stuck_for_s(progress, predicted_ms, 100.0, **LIMITS) == stuck_s


class HeldTranslator(Translator):
    """Stops before a batch, and after as many steps of it as are allowed."""

    allowed = threading.Semaphore(0)
    entered = threading.Event()

    def translate_planned(
        self,
        sub: object,
        planned: object,
        options: BeamOptions,
        *,
        is_cancelled: Callable[[], bool] = lambda: False,
        **more: Any,
    ) -> list[SentenceTranslation]:
        """Translate, a step at a time."""

        def ask() -> bool:
            self.entered.set()
            self.allowed.acquire()
            return is_cancelled()

        return super().translate_planned(sub, planned, options, is_cancelled=ask, **more)  # type: ignore[arg-type]


@pytest.fixture
def engine(tiny_bundle: Bundle) -> Iterator[TranslationEngine]:
    """An engine that decodes a step whenever it may."""
    HeldTranslator.allowed, HeldTranslator.entered = threading.Semaphore(0), threading.Event()
    engine = TranslationEngine.load(tiny_bundle, tiny_bundle.table(None), beam_size=1)
    engine._translator = HeldTranslator(engine._translator.tokenizer, engine._translator.limits)
    engine.start()
    yield engine
    HeldTranslator.allowed.release(10_000)
    engine.stop(5.0)


def submitted(engine: TranslationEngine) -> Future[object]:
    """A translation on its way, its decoding begun."""
    future: Future[object] = engine.submit(["The man sees a red house."])  # type: ignore[assignment]
    assert HeldTranslator.entered.wait(10.0)
    return future


def test_idle(engine: TranslationEngine) -> None:
    """An engine without work is not busy."""
    assert not engine.progress.is_busy


def test_at_work(engine: TranslationEngine) -> None:
    """At work it names point and lengths of the batch, as they are predicted by."""
    submitted(engine)
    progress = engine.progress
    assert progress.is_busy
    assert progress.point_id == "large"
    assert progress.num_src_tokens == engine.prepare(["The man sees a red house."]).part_lengths


def test_no_step_no_progress(engine: TranslationEngine) -> None:
    """Time alone is no progress; every step of the decoder is."""
    submitted(engine)
    before_s = engine.progress.advanced_s
    time.sleep(0.05)
    assert engine.progress.advanced_s == before_s
    HeldTranslator.allowed.release()
    give_up_s = time.monotonic() + 10.0
    while engine.progress.advanced_s == before_s:
        assert time.monotonic() < give_up_s, "a step made no progress"


def test_done(engine: TranslationEngine) -> None:
    """After the last sentence it is idle again."""
    future = submitted(engine)
    HeldTranslator.allowed.release(10_000)
    future.result(10.0)
    give_up_s = time.monotonic() + 10.0
    while engine.progress.is_busy:
        assert time.monotonic() < give_up_s, "it never became idle"


def test_long_idle_is_not_held_against_new_work(engine: TranslationEngine) -> None:
    """Work that meets an engine idle for long begins a new time."""
    engine._work.advanced_s = 0.0
    submitted(engine)
    assert time.monotonic() - engine.progress.advanced_s < 10.0
