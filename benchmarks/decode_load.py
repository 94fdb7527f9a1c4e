"""Both engines under load: many clients at once, and busy neighbours on every CPU."""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.decode_engines import COMPUTE_TYPES, LENGTH_PENALTY, PRECISIONS, Absent, Engines
from benchmarks.decode_latency import Effort, take_turns
from benchmarks.decode_shapes import Shape, Shapes
from benchmarks.figures import Aim, BenchmarkError, Figure, Result, Summary, Task
from benchmarks.sentences import SENTENCES, sentences_of_30_words
from dynhat_runtime.decoding.translator import Translator, search_options
from dynhat_runtime.engine import TranslationEngine
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.offline.point_selection import architecture_name
from dynhat_runtime.offline.profile import busy_neighbours
from dynhat_runtime.operating_point import Precision
from dynhat_runtime.served_points import ServedPoints
from dynhat_runtime.translation_request import ActivePoint

NUM_CLIENTS = 8
BATCH_SIZE = 32
"""Sentences that CTranslate2 decodes at once, sorted by length as it does."""
BEAMS = (1, 4)
PATIENCE_S = 300.0
THROUGHPUT = Effort(num_rounds=7, row_s=10.0, num_eager_rounds=0)
THROUGHPUT_QUICK = Effort(num_rounds=2, row_s=4.0, num_eager_rounds=0)
CONTENTION = Effort(num_rounds=15, row_s=12.0, num_eager_rounds=0)
CONTENTION_QUICK = Effort(num_rounds=3, row_s=2.0, num_eager_rounds=0)
NUM_TOKENS = 30
PROBE_SIZE, PROBE_PRODUCTS = 256, 100
PROBE = "a fixed product of matrices, 1 thread"


@dataclass(frozen=True, slots=True)
class Way:
    """How a point computes."""

    precision: Precision
    has_shortlist: bool

    def __str__(self) -> str:
        """As reports call it."""
        return f"{self.precision} with shortlist, as served" if self.has_shortlist else self.precision


# --- throughput ---------------------------------------------------------------------------------------------


def measure_throughput(task: Task) -> Result:
    """Sentences per second of the engine with 8 clients, and of CTranslate2 given all of them at once.

    Raises:
        BenchmarkError: A client got no answer.
    """
    bundle = Bundle.open(task.bundle)
    shapes = Shapes(bundle)
    effort = THROUGHPUT_QUICK if task.is_quick else THROUGHPUT
    sentences = [*SENTENCES, *sentences_of_30_words()[:16]][:: 3 if task.is_quick else 1]
    num_threads = range(1, 2 if task.is_quick else 1 + min(2, len(os.sched_getaffinity(0))))
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="dynhat-decode-") as folder:
        for name in dict.fromkeys((shapes.shipped_names[0], shapes.shipped_names[-1])):
            engines = Engines(shapes[name], Path(folder))
            ways = [Way(precision, has_shortlist=False) for precision in PRECISIONS]
            if engines.shape.stock.shortlist is not None:
                ways.append(Way("int8", has_shortlist=True))
            for beam, threads, way in itertools.product(BEAMS, num_threads, ways):
                task.tell(f"{name}, beam {beam}, {threads} threads, {way}: {len(sentences)} sentences")
                figures += _throughput_of(bundle, engines, (beam, threads, way), sentences, effort)
    return Result(
        name="throughput",
        title=f"Throughput with {NUM_CLIENTS} clients",
        how=(
            f"{len(sentences)} sentences of 4 to 33 words, outputs as long as the model makes them. Ours: the daemon's "
            f"engine, to which {NUM_CLIENTS} clients submit one text after the other, pieces and text included. "
            f"CTranslate2: `translate_batch` given all sentences as pieces at once, {BATCH_SIZE} in a batch. In turns, "
            "after a warm-up of each. As served is int8 with the bundle's vocabulary shortlist; beside it CTranslate2 "
            "at int8 and with a vocabulary map of its own kind that holds the same tokens, and the ratio is to the "
            "faster of the two."
        ),
        figures=tuple(figures),
    )


def _throughput_of(
    bundle: Bundle,
    engines: Engines,
    how: tuple[int, int, Way],
    sentences: Sequence[str],
    effort: Effort,
) -> list[Figure]:
    """Figures of one beam size, number of threads and way; none where our engine lacks it."""
    beam, threads, way = how
    if isinstance(engines.ours(way.precision, threads), Absent):
        return []
    translator = Translator.of_bundle(bundle)
    pieces = translator.tokenizer.src_pieces()
    sources = [[pieces[i] for i in translator.tokenizer.encode(sentence)] for sentence in sentences]
    longest = max(translator.limits.max_tgt_tokens(len(source) + 1) for source in sources)
    with _engine(bundle, engines.shape, translator, how) as engine:
        runs: dict[str, Callable[[], object]] = {
            "ours": lambda: _serve_clients(engine, sentences),
            "CTranslate2": _batch(engines.model_folder(), how, sources, longest, has_map=False),
        }
        if way.has_shortlist:
            runs["CTranslate2 with its map"] = _batch(
                engines.model_folder(), how, sources, longest, has_map=True
            )
        for run in runs.values():
            run()
        times_ms = take_turns(runs, effort, {}, 0.0)
    label = f"{engines.shape.name}, beam {beam}, {threads} threads, {way}"
    per_s = {name: [len(sentences) / ms * 1e3 for ms in samples] for name, samples in times_ms.items()}
    theirs = min(
        (name for name in runs if name != "ours"), key=lambda name: statistics.median(times_ms[name])
    )
    ratio = Summary.ratio(times_ms["ours"], times_ms[theirs])
    return [
        *(Figure(f"{label}: {name}", "sentences/s", Summary.of(rates)) for name, rates in per_s.items()),
        Figure(f"{label}: time of ours / of {theirs}", "x", ratio, (Aim("median", 1.0),)),
    ]


@contextmanager
def _engine(
    bundle: Bundle, shape: Shape, translator: Translator, how: tuple[int, int, Way]
) -> Iterator[TranslationEngine]:
    """The engine as the daemon runs it, with one point."""
    beam, threads, way = how
    table = bundle.table()
    (point, *_) = (point for point in table if architecture_name(point.id) == shape.name)
    served = table.model_copy(update={"points": (point.model_copy(update={"id": shape.name}),)})
    prepared = shape.stock.prepared(way.precision)
    sub = prepared.extract(shape.config, way.precision, threads, has_shortlist=way.has_shortlist)
    engine = TranslationEngine(
        translator,
        ServedPoints.of([ActivePoint(shape.name, sub)], served),
        (bundle.src_lang, bundle.tgt_lang),
        # Without a bound on repeats, as CTranslate2 beside it.
        search=replace(search_options(bundle, beam), no_repeat_size=0),
    )
    engine.start()
    try:
        yield engine
    finally:
        engine.stop(PATIENCE_S)


def _serve_clients(engine: TranslationEngine, sentences: Sequence[str]) -> None:
    """Every client submits its share, one sentence after the other.

    Raises:
        BenchmarkError: One got no answer.
    """
    failures: list[Exception] = []

    def submit(share: Sequence[str]) -> None:
        try:
            for sentence in share:
                engine.submit([sentence]).result(PATIENCE_S)
        except Exception as error:  # whatever it was is the benchmark's finding
            failures.append(error)

    clients = [threading.Thread(target=submit, args=(sentences[i::NUM_CLIENTS],)) for i in range(NUM_CLIENTS)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    if failures:
        raise BenchmarkError(f"a client got no translation: {failures[0]!r}") from failures[0]


def _batch(
    folder: Path, how: tuple[int, int, Way], sources: list[list[str]], longest: int, *, has_map: bool
) -> Callable[[], object]:
    """CTranslate2's batch translation of all sources, with its vocabulary map or without."""
    import ctranslate2

    beam, threads, way = how
    translator: Any = ctranslate2.Translator(
        str(folder), compute_type=COMPUTE_TYPES[way.precision], inter_threads=1, intra_threads=threads
    )
    return lambda: translator.translate_batch(
        sources,
        beam_size=beam,
        length_penalty=LENGTH_PENALTY,
        max_batch_size=BATCH_SIZE,
        max_decoding_length=longest,
        use_vmap=has_map,
    )


# --- contention ---------------------------------------------------------------------------------------------


def measure_contention(task: Task) -> Result:
    """Single sentences alone and beside one busy process per CPU, for both engines at every thread count."""
    shapes = Shapes(Bundle.open(task.bundle))
    effort = CONTENTION_QUICK if task.is_quick else CONTENTION
    num_cpus = len(os.sched_getaffinity(0))
    figures: list[Figure] = []
    names = [shapes.shipped_names[-1], *([] if task.is_quick else [shapes.names[len(shapes.shipped_names)]])]
    with tempfile.TemporaryDirectory(prefix="dynhat-decode-") as folder:
        for name in names:
            engines = Engines(shapes[name], Path(folder))
            for threads in range(1, num_cpus + 1):
                task.tell(f"{name}, {threads} threads: alone and beside {num_cpus} busy neighbours")
                figures += _contention_of(engines, threads, num_cpus, effort)
    return Result(
        name="contention",
        title="Latency under contention",
        how=(
            f"{NUM_TOKENS} tokens to {NUM_TOKENS}, beam 4; alone, then beside {num_cpus} processes that compute "
            "without end, one for every CPU; engines in turns. What the neighbours take is measured in the same "
            f"turns: {PROBE} gets slower by the lost CPU share. An engine's slow-down over the probe's says what it "
            "loses on top."
        ),
        figures=tuple(figures),
        notes=("What our engine does not have (a precision) is left out.",),
    )


def _contention_of(engines: Engines, threads: int, num_neighbours: int, effort: Effort) -> list[Figure]:
    src_ids = engines.shape.source(NUM_TOKENS)
    runs: dict[str, Callable[[], object]] = {PROBE: _probe}
    for precision in PRECISIONS:
        ours = engines.ours(precision, threads)
        decoders = {"CTranslate2": engines.ctranslate2(precision, threads)}
        if not isinstance(ours, Absent):
            decoders = {"ours": ours, **decoders}
        for engine, decoder in decoders.items():
            runs[f"{engine}, {precision}"] = partial(decoder.decode, src_ids, NUM_TOKENS, 4)
    for run in runs.values():
        run()
    alone_ms = take_turns(runs, effort, {}, 0.02)
    with busy_neighbours(num_neighbours):
        beside_ms = take_turns(runs, effort, {}, 0.0)
    lost = statistics.median(beside_ms[PROBE]) / statistics.median(alone_ms[PROBE])
    label = f"{engines.shape.name}, {threads} threads"
    figures = [Figure(f"{label}: {PROBE}: slow-down", "x", Summary.ratio(beside_ms[PROBE], alone_ms[PROBE]))]
    for name in runs:
        if name == PROBE:
            continue
        excess = [ms / statistics.median(alone_ms[name]) / lost for ms in beside_ms[name]]
        aims = (Aim("median", 1.0),) if name.startswith("ours") else ()
        figures += [
            Figure(f"{label}: {name}: alone", "ms", Summary.of(alone_ms[name])),
            Figure(f"{label}: {name}: beside", "ms", Summary.of(beside_ms[name])),
            Figure(f"{label}: {name}: slow-down / the probe's", "x", Summary.of(excess), aims),
        ]
    return figures


def _probe() -> None:
    """Arithmetic of one thread, the same every time."""
    torch.set_num_threads(1)
    matrix = torch.ones(PROBE_SIZE, PROBE_SIZE)
    for _ in range(PROBE_PRODUCTS):
        torch.mm(matrix, matrix)
