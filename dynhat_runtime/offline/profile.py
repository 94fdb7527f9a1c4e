"""`dynhat profile --points`: measure operating points on this device, at several lengths and CPU counts.

Every figure is a whole sentence as it is served: batch 1, the table's beam, the decoder made to run exactly the
target length. Each is measured alone and beside a busy neighbour on the same CPUs, which is what a device that
does other work is like. Points take turns run by run, so that a disturbance hits all of them alike.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import NamedTuple, TypeVar

import torch
from rich.console import Console
from rich.progress import track

from dynhat_runtime.decoding.beam_search import beam_search
from dynhat_runtime.decoding.search import BeamOptions
from dynhat_runtime.decoding.tokenizer import EOS_ID
from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.decodable import Decodable
from dynhat_runtime.model.decodable_super import DecodableSuper
from dynhat_runtime.model.threads import move_threads_to, use_decoding_threads
from dynhat_runtime.monitor.host import HostMonitor
from dynhat_runtime.monitor.identity import device_name
from dynhat_runtime.operating_point import (
    DeviceDescription,
    LatencyMeasurement,
    OperatingPoint,
    OperatingPointTable,
    Precision,
)

T = TypeVar("T")

LENGTHS = (10, 30, 60)
"""Source and target tokens measured at; the paper's is 30."""
REFERENCE_LENGTH = 30
NUM_WARMUP_RUNS = 1
"""Of every turn of every state; not counted."""
TRIM_FRACTION = 0.1
"""Fastest and slowest share of runs left out (the paper's protocol)."""
NUMS_BUSY_NEIGHBOURS = (0, 1)
"""Busy processes on the same CPUs that latency is measured beside."""
PLANNED_BUSY_NEIGHBOURS = 1
"""What the default budget is made for; the daemon's own default."""
MIN_CPU_RATIO = 1.06
"""Below this a lost CPU costs too little to put a default budget between."""


@dataclass(frozen=True, slots=True)
class PointQuality:
    """What a point says, not how fast: independent of the device."""

    dev_loss: float | None = None
    bleu: float | None = None
    bleu_signature: str | None = None
    chrf: float | None = None
    chrf_signature: str | None = None

    @classmethod
    def of(cls, point: OperatingPoint) -> PointQuality:
        """What a table says of a point."""
        return cls(point.dev_loss, point.bleu, point.bleu_signature, point.chrf, point.chrf_signature)


@dataclass(frozen=True, slots=True)
class PointToMeasure:
    """An architecture, how it computes, its name, and its quality as far as it is known."""

    id: str
    config: SubTransformerConfig
    quality: PointQuality
    precision: Precision = "fp32"
    num_threads: int = 1
    has_shortlist: bool = False


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """How to measure."""

    num_runs: int = 30
    beam_size: int = 4
    lengths: tuple[int, ...] = LENGTHS
    num_turns: int = 5
    """Turns of every state of CPUs and neighbours, among which its runs are divided: a device that changes its speed
    meanwhile does so for all rows alike."""


def points_of_table(table: OperatingPointTable) -> list[PointToMeasure]:
    """The points of a table measured elsewhere, with their quality."""
    return [
        PointToMeasure(
            point.id,
            point.config,
            PointQuality.of(point),
            point.precision,
            point.num_threads,
            point.has_shortlist,
        )
        for point in table
    ]


def profile_points(
    bundle: Bundle,
    super_transformer: DecodableSuper,
    points: Sequence[PointToMeasure],
    options: ProfileOptions,
    console: Console,
) -> OperatingPointTable:
    """Measure every point on this device.

    Returns:
        The table, fastest first, with a default budget.
    """
    num_cpus = len(os.sched_getaffinity(0))
    places = [_Place(*place) for place in itertools.product(range(1, num_cpus + 1), NUMS_BUSY_NEIGHBOURS)]
    subs = _cut_out(super_transformer, points)
    rows = _measure_in_turns(subs, places, options.lengths, options, console)
    return _table(bundle, super_transformer.spec.design_space, points, rows, options)


def reference_latencies(
    super_transformer: DecodableSuper,
    points: Sequence[PointToMeasure],
    options: ProfileOptions,
    console: Console,
) -> dict[str, LatencyMeasurement]:
    """Every point's latency at the reference length on the whole device, alone: enough to choose among many."""
    place = _Place(len(os.sched_getaffinity(0)), 0)
    subs = _cut_out(super_transformer, points)
    rows = _measure_in_turns(subs, (place,), (REFERENCE_LENGTH,), options, console)
    return {point_id: row for point_id, (row,) in rows.items()}


def _cut_out(super_transformer: DecodableSuper, points: Sequence[PointToMeasure]) -> dict[str, Decodable]:
    return {point.id: super_transformer.point(point) for point in points}


@contextlib.contextmanager
def busy_neighbours(number: int) -> Iterator[None]:
    """Keep `number` processes busy on this process's CPUs while the context lasts."""
    neighbours = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.wait()


class _Place(NamedTuple):
    """What rows are measured under."""

    num_cpus: int
    num_busy_neighbours: int


@contextlib.contextmanager
def _at(place: _Place, cpus: Sequence[int]) -> Iterator[None]:
    """Have that many of the CPUs, and that many neighbours, while the context lasts; the CPUs stay."""
    move_threads_to(cpus[: place.num_cpus])
    with busy_neighbours(place.num_busy_neighbours):
        yield


def _measure_in_turns(
    subs: dict[str, Decodable],
    places: Sequence[_Place],
    lengths: Sequence[int],
    options: ProfileOptions,
    console: Console,
) -> dict[str, list[LatencyMeasurement]]:
    """Every point's rows, by place and length. Runs of points and lengths alternate, and places take turns."""
    cpus = tuple(sorted(os.sched_getaffinity(0)))
    num_threads = torch.get_num_threads()
    vocab_size = next(iter(subs.values())).src_vocab_size
    sources = {length: source_tokens(vocab_size, length) for length in lengths}
    times = {
        (place, length, point_id): list[tuple[float, float]]()
        for place, length, point_id in itertools.product(places, lengths, subs)
    }
    turns = list(itertools.product(range(options.num_turns), places))
    try:
        use_decoding_threads()
        for turn, place in track(turns, "measuring", console=console, disable=not console.is_terminal):
            before, after = (options.num_runs * n // options.num_turns for n in (turn, turn + 1))
            with _at(place, cpus):
                for run in range(NUM_WARMUP_RUNS + after - before):
                    for length, point_id in itertools.product(lengths, subs):
                        measured = measure_once(subs[point_id], sources[length], length, options.beam_size)
                        if run >= NUM_WARMUP_RUNS:
                            times[place, length, point_id].append(measured)
    finally:
        move_threads_to(cpus)
        torch.set_num_threads(num_threads)
    return {
        point_id: [
            _summary(times[place, length, point_id], place, length)
            for place, length in itertools.product(places, lengths)
        ]
        for point_id in subs
    }


@torch.inference_mode()
def measure_once(
    sub: Decodable,
    src_BS: torch.Tensor,
    num_tgt_tokens: int,
    beam_size: int,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[float, float]:
    """Milliseconds of the encoder and of decoding exactly `num_tgt_tokens` tokens, eos included.

    On a GPU its own events are the clock, since the CPU runs ahead of it.
    """
    options = BeamOptions(beam_size=beam_size, min_length=num_tgt_tokens - 1)
    marks = _CudaMarks() if src_BS.is_cuda else _ClockMarks(clock)
    marks.set()
    encoded = sub.encode(src_BS)
    marks.set()
    max_lengths = [num_tgt_tokens - 1] * src_BS.shape[0]
    beam_search(sub.start(encoded, beam_size), max_lengths, options, device=src_BS.device)
    marks.set()
    encoder_ms, decoder_ms = marks.differences_ms()
    return encoder_ms, decoder_ms


class _ClockMarks:
    """Moments on the CPU's clock, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._moments_s: list[float] = []

    def set(self) -> None:
        self._moments_s.append(self._clock())

    def differences_ms(self) -> list[float]:
        return [(after - before) * 1e3 for before, after in itertools.pairwise(self._moments_s)]


class _CudaMarks:
    """Moments in the order of a GPU's work."""

    def __init__(self) -> None:
        self._events: list[torch.cuda.Event] = []

    def set(self) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch has no types here
        event.record()
        self._events.append(event)

    def differences_ms(self) -> list[float]:
        self._events[-1].synchronize()
        return [before.elapsed_time(after) for before, after in itertools.pairwise(self._events)]


def source_tokens(vocab_size: int, num_tokens: int) -> torch.Tensor:
    """A made-up sentence (1, S): seeded token ids that end in eos."""
    generator = torch.Generator().manual_seed(num_tokens)
    # Beyond the special tokens and the byte pieces, where there are any.
    first_piece_id = 4 + 256 if vocab_size > 4 + 256 else 4
    src_BS = torch.randint(first_piece_id, vocab_size, (1, num_tokens), generator=generator)
    src_BS[0, -1] = EOS_ID
    return src_BS


def trimmed(ascending: Sequence[T]) -> Sequence[T]:
    """Without the fastest and slowest tenth (the paper's protocol)."""
    num_trimmed = int(len(ascending) * TRIM_FRACTION)
    return ascending[num_trimmed : len(ascending) - num_trimmed]


def _summary(measured: list[tuple[float, float]], place: _Place, num_tokens: int) -> LatencyMeasurement:
    """Medians and spread after dropping the fastest and slowest tenth."""
    kept = trimmed(sorted(measured, key=sum))
    totals = [encoder + decoder for encoder, decoder in kept]
    return LatencyMeasurement(
        num_cpus=place.num_cpus,
        num_busy_neighbours=place.num_busy_neighbours,
        num_src_tokens=num_tokens,
        num_tgt_tokens=num_tokens,
        encoder_ms=round(statistics.median(encoder for encoder, _ in kept), 3),
        decoder_ms=round(statistics.median(decoder for _, decoder in kept), 3),
        total_ms=round(statistics.median(totals), 3),
        std_ms=round(statistics.pstdev(totals), 3),
        num_runs=len(kept),
    )


def _table(
    bundle: Bundle,
    space: DesignSpace,
    points: Sequence[PointToMeasure],
    rows: dict[str, list[LatencyMeasurement]],
    options: ProfileOptions,
) -> OperatingPointTable:
    most_cpus = max(row.num_cpus for row in rows[points[0].id])

    def reference_ms(point_id: str, num_cpus: int, num_busy_neighbours: int) -> float:
        alike = [
            row
            for row in rows[point_id]
            if (row.num_cpus, row.num_busy_neighbours) == (num_cpus, num_busy_neighbours)
        ]
        return min(alike, key=lambda row: abs(row.num_src_tokens - REFERENCE_LENGTH)).total_ms

    ordered = sorted(points, key=lambda point: reference_ms(point.id, most_cpus, 0))
    snapshot = HostMonitor().read()
    table = OperatingPointTable(
        device=DeviceDescription(
            name=device_name(),
            machine=platform.machine(),
            num_cpus=most_cpus,
            cpu_max_frequency_hz=snapshot.cpu_max_frequency_hz,
            torch_version=torch.__version__,
            beam_size=options.beam_size,
            measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        ),
        design_space=space.name,
        weights_sha256=bundle.weights_sha256,
        shortlist_sha256=bundle.shortlist_sha256 if any(p.has_shortlist for p in points) else None,
        reference_num_tokens=REFERENCE_LENGTH,
        default_latency_budget_ms=reference_ms(ordered[-1].id, most_cpus, 0),
        points=tuple(
            OperatingPoint(
                id=point.id,
                config=point.config,
                precision=point.precision,
                num_threads=point.num_threads,
                has_shortlist=point.has_shortlist,
                num_parameters=space.num_parameters(point.config),
                latencies=tuple(rows[point.id]),
                **asdict(point.quality),
            )
            for point in ordered
        ),
    )
    best_id = table.best.id
    budget_ms = default_budget_ms(
        reference_ms(best_id, most_cpus, PLANNED_BUSY_NEIGHBOURS),
        reference_ms(best_id, max(1, most_cpus - 1), PLANNED_BUSY_NEIGHBOURS),
    )
    return table.model_copy(update={"default_latency_budget_ms": round(budget_ms, 1)})


def default_budget_ms(best_point_ms: float, best_point_one_cpu_less_ms: float) -> float:
    """A budget for operators who name none: the best point meets it while the device is whole.

    Rules: (1) where a lost CPU slows the best point by more than 6 %, the budget lies half way (in ratio)
    between both latencies, so that losing one CPU is answered by a faster point. (2) Otherwise 10 % above the
    best point's latency.
    """
    if best_point_one_cpu_less_ms > MIN_CPU_RATIO * best_point_ms:
        return math.sqrt(best_point_ms * best_point_one_cpu_less_ms)
    return 1.1 * best_point_ms
