"""How long a switch of the operating point takes while the engine translates.

Not part of it: when the next request begins on the new point, which is a matter of the queue.
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager

from benchmarks.figures import Aim, BenchmarkError, Check, Figure, Result, Summary, Task
from benchmarks.sentences import SENTENCES
from dynhat_runtime.engine import TextTranslation, TranslationEngine
from dynhat_runtime.model.checkpoint import Bundle

NUM_SWITCHES, NUM_SWITCHES_QUICK = 10_000, 500
NUM_CLIENTS = 4
LONGEST_PAUSE_S = 0.002
PATIENCE_S = 120.0
SEED = 1
FIXED_SENTENCE = "The old man told the children a story about the sea."


class Client:
    """Submits one sentence after the other, on a thread of its own, and keeps what came back."""

    def __init__(self, engine: TranslationEngine, first: int) -> None:
        self.answers: list[TextTranslation] = []
        self.errors: list[Exception] = []
        self.running: Future[list[TextTranslation]] | None = None
        self._engine = engine
        self._first = first
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"client-{first}", daemon=True)
        self._thread.start()

    @property
    def is_being_served(self) -> bool:
        """Its sentence waits or is being translated at this moment."""
        future = self.running
        return future is not None and not future.done()

    def stop(self) -> None:
        """Let the sentence under way finish; submit no more."""
        self._is_over.set()

    def join(self) -> None:
        """Wait for it."""
        self._thread.join(PATIENCE_S)

    def _run(self) -> None:
        for sentence in itertools.islice(itertools.cycle(SENTENCES), self._first, None):
            if self._is_over.is_set():
                return
            try:
                self.running = self._engine.submit([sentence])
                self.answers += self.running.result(PATIENCE_S)
            except Exception as error:  # whatever it was is the benchmark's finding
                self.errors.append(error)
                return


def measure(task: Task) -> Result:
    """Switch at random under load; the time of each switch, and whether translations suffered.

    Raises:
        DynhatError: The bundle cannot be used.
    """
    num_switches = NUM_SWITCHES_QUICK if task.is_quick else NUM_SWITCHES
    bundle = Bundle.open(task.bundle)
    table = bundle.table()
    engine = TranslationEngine.load(bundle, table, beam_size=table.device.beam_size)
    ids = [point.id for point in table]
    engine.start()
    try:
        before = _say_on_each(engine, ids)
        with _clients(engine) as clients:
            task.tell(f"{num_switches} switches between {len(ids)} points, {NUM_CLIENTS} clients")
            switch_ms, late_ms, num_busy = _switch_at_random(engine, ids, clients, num_switches)
        after = _say_on_each(engine, ids)
    finally:
        engine.stop(PATIENCE_S)
    answers = [answer for client in clients for answer in client.answers]
    errors = [error for client in clients for error in client.errors]
    used = {answer.operating_point for answer in answers}
    return Result(
        name="switching",
        title="Switching the operating point under load",
        how=(
            f"{num_switches} random switches (seed {SEED}), each to another of {len(ids)} points and 0 to "
            f"{LONGEST_PAUSE_S * 1e3:g} ms after the last, while {NUM_CLIENTS} clients keep the engine busy at beam "
            f"{table.device.beam_size}: {len(answers)} translations meanwhile, on {len(used)} points. A translation "
            f"was waiting or running at {num_busy / num_switches:.1%} of the switches. "
            f"Python's thread switch interval is the daemon's, {sys.getswitchinterval() * 1e3:g} ms."
        ),
        figures=(
            Figure("`engine.switch_to`", "ms", Summary.of(switch_ms), (Aim("median", 0.1), Aim("p99", 1.0))),
            Figure("from the moment a switch was due until it was made", "ms", Summary.of(late_ms)),
        ),
        checks=(
            Check(
                f"no translation failed ({len(answers)} succeeded)"
                if not errors
                else f"translations failed: {errors[0]!r}",
                bool(answers) and not errors,
            ),
            Check("every answer names a point of the table", used <= set(ids)),
            Check("a fixed sentence says the same on every point before and after", before == after),
        ),
        notes=(
            'Paper\'s figure for a switch: "< 1 s" (reported by the paper, on its hardware; not measured here).',
            "`engine.switch_to` is timed by the thread that calls it, which holds the interpreter lock as it begins; "
            "the second row also holds the timer, the scheduler and the wait for that lock.",
        ),
    )


def _switch_at_random(
    engine: TranslationEngine, ids: list[str], clients: list[Client], num_switches: int
) -> tuple[list[float], list[float], int]:
    """Milliseconds of each switch, milliseconds from due to done, and at how many the engine had something to do."""
    chance = random.Random(SEED)
    switch_ms, late_ms, num_busy = [], [], 0
    for _ in range(num_switches):
        active = engine.active_point_id
        point_id = chance.choice([other for other in ids if other != active] or ids)
        pause_s = chance.uniform(0.0, LONGEST_PAUSE_S)
        due_ns = time.perf_counter_ns() + int(pause_s * 1e9)
        time.sleep(pause_s)
        num_busy += any(client.is_being_served for client in clients)
        began_ns = time.perf_counter_ns()
        engine.switch_to(point_id)
        ended_ns = time.perf_counter_ns()
        switch_ms.append((ended_ns - began_ns) / 1e6)
        late_ms.append((ended_ns - due_ns) / 1e6)
    return switch_ms, late_ms, num_busy


def _say_on_each(engine: TranslationEngine, ids: list[str]) -> dict[str, str]:
    """The fixed sentence's translation on every point, nothing else running."""
    said = {}
    for point_id in ids:
        engine.switch_to(point_id)
        (answer,) = engine.submit([FIXED_SENTENCE]).result(PATIENCE_S)
        said[answer.operating_point] = answer.text
    return said


@contextmanager
def _clients(engine: TranslationEngine) -> Iterator[list[Client]]:
    """Load for the engine; on the way out the last answers have come back."""
    clients = [Client(engine, first=7 * number) for number in range(NUM_CLIENTS)]
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while not any(client.is_being_served or client.errors for client in clients):
            if time.monotonic() > deadline_s:
                raise BenchmarkError(f"no translation began within {PATIENCE_S:g} s")
            time.sleep(0.01)
        yield clients
    finally:
        for client in clients:
            client.stop()
        for client in clients:
            client.join()
