"""Measuring operating points: how long a sentence is decoded, what the table says, and what is put back."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from dynhat_runtime.design_space_presets import preset
from dynhat_runtime.errors import SettingsError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.laid_out import for_decoding
from dynhat_runtime.model.sub_transformer import EncoderOutput, IncrementalDecoder, SubTransformer
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.model.threads import DECODING_THREADS
from dynhat_runtime.offline import profile
from dynhat_runtime.offline.point_files import points_from_file
from dynhat_runtime.offline.profile import (
    NUM_WARMUP_RUNS,
    PointQuality,
    PointToMeasure,
    ProfileOptions,
    busy_neighbours,
    default_budget_ms,
    measure_once,
    points_of_table,
    profile_points,
)
from dynhat_runtime.operating_point import OperatingPointTable
from tests.toy_bundle import toy_super_transformer, write_toy_bundle

RECIPES = Path(__file__).parent.parent / "recipes"
QUIET = Console(quiet=True)
OPTIONS = ProfileOptions(num_runs=5, beam_size=2, lengths=(10, 30))


@pytest.fixture
def toy() -> SuperTransformer:
    """A tiny SuperTransformer."""
    return toy_super_transformer()


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """A bundle of it without operating points."""
    return write_toy_bundle(tmp_path / "bundle")


def _points(super_transformer: SuperTransformer, *dev_losses: float | None) -> list[PointToMeasure]:
    """large and small, the slower one first."""
    space = super_transformer.spec.design_space
    configs = {"large": space.largest(), "small": space.smallest()}
    losses = dev_losses or (None, None)
    return [
        PointToMeasure(point_id, config, PointQuality(dev_loss=loss))
        for (point_id, config), loss in zip(configs.items(), losses, strict=True)
    ]


# --- one measurement ---


class CountedDecoder:
    """Counts the steps of a decoder."""

    def __init__(self, decoder: IncrementalDecoder) -> None:
        self.decoder, self.num_steps = decoder, 0

    def step(self, tokens_N: torch.Tensor) -> torch.Tensor:
        """Count one, and prefer eos above everything."""
        self.num_steps += 1
        logits_NV = self.decoder.step(tokens_N)
        logits_NV[:, 2] += 100
        return logits_NV

    def reorder(self, rows_N: torch.Tensor) -> None:
        """Pass on."""
        self.decoder.reorder(rows_N)

    def keep_sentences(self, sentences_B: torch.Tensor, rows_N: torch.Tensor) -> None:
        """Pass on."""
        self.decoder.keep_sentences(sentences_B, rows_N)


class CountedSub:
    """A SubTransformer that would rather say nothing, and whose decoder is counted."""

    def __init__(self, sub: SubTransformer) -> None:
        self.sub = sub
        self.decoders: list[CountedDecoder] = []

    def encode(self, src_BS: torch.Tensor) -> EncoderOutput:
        """Pass on."""
        return self.sub.encode(src_BS)

    def start(self, encoded: EncoderOutput, num_beams: int) -> CountedDecoder:
        """Begin to count."""
        self.decoders.append(CountedDecoder(self.sub.start(encoded, num_beams)))
        return self.decoders[-1]


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("num_tgt_tokens", [2, 10, 70])
def test_exactly_the_asked_steps(toy: SuperTransformer, beam_size: int, num_tgt_tokens: int) -> None:
    """The decoder runs as many steps as tokens are asked for, though it would rather end at once."""
    sub: Any = CountedSub(toy.extract(toy.spec.design_space.smallest()))
    measure_once(sub, torch.tensor([[300, 301, 2]]), num_tgt_tokens, beam_size)
    assert [decoder.num_steps for decoder in sub.decoders] == [num_tgt_tokens]


def test_times_are_the_clocks(toy: SuperTransformer) -> None:
    """Encoder and decoder time are the clock's differences, in milliseconds."""
    ticks = iter([1.0, 1.002, 1.009])
    sub = toy.extract(toy.spec.design_space.smallest())
    measured = measure_once(sub, torch.tensor([[300, 2]]), 3, 1, clock=lambda: next(ticks))
    assert measured == pytest.approx((2.0, 7.0))


# --- the table, with times made up ---


class FakeTimes:
    """Stands in for `measure_once`: a decoder layer takes 12 ms, a lost CPU half as long again, a neighbour double."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, int, int]] = []  # decoder layers, length, CPUs, neighbours
        self.num_threads: set[int] = set()
        self.num_neighbours = 0

    def __call__(
        self, sub: SubTransformer, src_BS: torch.Tensor, num_tgt_tokens: int, beam_size: int
    ) -> tuple[float, float]:
        """Note how it was called and say how long it took."""
        assert src_BS.shape == (1, num_tgt_tokens)
        assert src_BS[0, -1] == 2
        num_cpus, layers = len(os.sched_getaffinity(0)), sub.config.num_decoder_layers
        self.calls.append((layers, num_tgt_tokens, num_cpus, self.num_neighbours))
        self.num_threads.add(torch.get_num_threads())
        slow_down = 1.5 ** (len(ALL_CPUS) - num_cpus) * 2**self.num_neighbours
        return slow_down * num_tgt_tokens / 10, slow_down * 12.0 * layers * num_tgt_tokens / 30

    @contextlib.contextmanager
    def neighbours(self, number: int) -> Iterator[None]:
        """Stands in for `busy_neighbours`."""
        self.num_neighbours = number
        yield
        self.num_neighbours = 0


ALL_CPUS = frozenset(os.sched_getaffinity(0))


@pytest.fixture
def fake_times(monkeypatch: pytest.MonkeyPatch) -> FakeTimes:
    """Made-up times."""
    fake = FakeTimes()
    monkeypatch.setattr(profile, "measure_once", fake)
    monkeypatch.setattr(profile, "busy_neighbours", fake.neighbours)
    return fake


@pytest.fixture
def three_threads() -> Iterator[None]:
    """Three threads, so that one can see them put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def _profile(bundle: Bundle, points: list[PointToMeasure]) -> OperatingPointTable:
    return profile_points(bundle, for_decoding(bundle.super_transformer()), points, OPTIONS, QUIET)


@pytest.mark.usefixtures("fake_times")
def test_table_is_fastest_first(bundle: Bundle, toy: SuperTransformer) -> None:
    """Points given slowest first come out fastest first, with their parameter counts."""
    table = _profile(bundle, _points(toy))
    assert [point.id for point in table] == ["small", "large"]
    space = toy.spec.design_space
    assert table["large"].num_parameters == space.num_parameters(space.largest())


@pytest.mark.usefixtures("fake_times")
def test_rows_cover_cpus_neighbours_and_lengths(bundle: Bundle, toy: SuperTransformer) -> None:
    """Every point has a row per number of CPUs, of neighbours, and length, whose figures are those measured."""
    table = _profile(bundle, _points(toy))
    expected = [(n, k, length) for n in range(1, len(ALL_CPUS) + 1) for k in (0, 1) for length in (10, 30)]
    for point in table:
        rows = point.latencies
        assert [(r.num_cpus, r.num_busy_neighbours, r.num_src_tokens) for r in rows] == expected
        assert {row.num_tgt_tokens == row.num_src_tokens for row in rows} == {True}
    row = table["large"].latencies[-3]
    assert (row.encoder_ms, row.decoder_ms, row.total_ms, row.std_ms) == (3.0, 24.0, 27.0, 0.0)
    assert row.num_runs == 5
    assert table["large"].latencies[-1].total_ms == 54.0


def test_lengths_and_points_take_turns(bundle: Bundle, toy: SuperTransformer, fake_times: FakeTimes) -> None:
    """Runs of lengths and points alternate, after warm-up runs, on exactly the CPUs that are counted; and states of
    CPUs and neighbours take turns."""
    _profile(bundle, _points(toy))
    states = [(cpus, busy) for cpus in range(1, len(ALL_CPUS) + 1) for busy in (0, 1)]
    one_turn = [
        (layers, length, cpus, busy)
        for cpus, busy in states
        for _ in range(NUM_WARMUP_RUNS + 1)
        for length in (10, 30)
        for layers in (2, 1)
    ]
    assert fake_times.calls == one_turn * OPTIONS.num_turns


@pytest.mark.usefixtures("fake_times")
@pytest.mark.parametrize("num_runs", [3, 7])
def test_runs_that_turns_do_not_divide(bundle: Bundle, toy: SuperTransformer, num_runs: int) -> None:
    """Every row has the runs asked for, more or fewer than there are turns."""
    options = ProfileOptions(num_runs, 1, (10,))
    table = profile_points(bundle, for_decoding(toy), _points(toy), options, QUIET)
    assert {row.num_runs for point in table for row in point.latencies} == {num_runs}


@pytest.mark.usefixtures("three_threads")
def test_measured_with_the_threads_that_serve(
    bundle: Bundle, toy: SuperTransformer, fake_times: FakeTimes
) -> None:
    """Points are measured with as many threads as the engine decodes with, whatever was set before."""
    _profile(bundle, _points(toy))
    assert fake_times.num_threads == {DECODING_THREADS}


@pytest.mark.parametrize("fails", [False, True])
def test_neighbours_are_busy_and_end(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """As many neighbours run as asked for, while the context lasts, and none after it, failed or not."""
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def popen(*args: Any) -> subprocess.Popen[bytes]:
        started.append(real(*args))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    with contextlib.suppress(RuntimeError), busy_neighbours(2):
        assert [neighbour.poll() for neighbour in started] == [None, None]
        if fails:
            raise RuntimeError
    assert len(started) == 2
    assert None not in [neighbour.poll() for neighbour in started]


@pytest.mark.usefixtures("three_threads", "fake_times")
def test_affinity_and_threads_are_put_back(bundle: Bundle, toy: SuperTransformer) -> None:
    """After measuring, the process may use the CPUs and threads it had before."""
    _profile(bundle, _points(toy))
    assert os.sched_getaffinity(0) == ALL_CPUS
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three_threads")
def test_affinity_and_threads_are_put_back_after_a_failure(
    bundle: Bundle, toy: SuperTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measurement that fails leaves CPUs and threads as they were, of every thread of the process."""

    def fails(*_: object) -> tuple[float, float]:
        raise RuntimeError("too hot")

    monkeypatch.setattr(profile, "measure_once", fails)
    with pytest.raises(RuntimeError, match="too hot"):
        _profile(bundle, _points(toy))
    assert torch.get_num_threads() == 3
    for thread_id in os.listdir("/proc/self/task"):
        assert os.sched_getaffinity(int(thread_id)) == ALL_CPUS


@pytest.mark.usefixtures("fake_times")
def test_table_says_where_it_was_measured(bundle: Bundle, toy: SuperTransformer) -> None:
    """The table names weights, space, beam, torch and number of CPUs, and goes into the bundle as it is."""
    table = _profile(bundle, _points(toy))
    assert table.weights_sha256 == bundle.weights_sha256
    assert table.design_space == "toy"
    assert table.device.torch_version == torch.__version__
    assert table.device.num_cpus == len(ALL_CPUS)
    assert Bundle.open(bundle.with_table(table).path).table() == table


def test_outliers_are_left_out(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, toy: SuperTransformer
) -> None:
    """The slowest and the fastest tenth of the runs do not count."""
    times = itertools.cycle([5.0] * NUM_WARMUP_RUNS + [900.0, *[10.0] * 8, 1.0])
    monkeypatch.setattr(profile, "measure_once", lambda *_: (1.0, next(times)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {min(ALL_CPUS)})
    monkeypatch.setattr(profile, "move_threads_to", lambda _: None)
    monkeypatch.setattr(profile, "busy_neighbours", lambda _: contextlib.nullcontext())
    table = profile_points(
        bundle, for_decoding(toy), _points(toy)[:1], ProfileOptions(10, 1, (30,), 1), QUIET
    )
    for row in table["large"].latencies:
        assert (row.total_ms, row.std_ms, row.num_runs) == (11.0, 0.0, 8)


# --- quality and the default budget ---


@pytest.mark.usefixtures("fake_times")
def test_quality_is_carried_over(bundle: Bundle, toy: SuperTransformer) -> None:
    """Measuring the points of a table again keeps their dev loss, BLEU and signature."""
    quality = PointQuality(dev_loss=3.25, bleu=21.5, bleu_signature="test|beam:4")
    first = _profile(bundle, [replace(point, quality=quality) for point in _points(toy)])
    again = _profile(bundle, points_of_table(first))
    assert [point.id for point in again] == [point.id for point in first]
    for point in again:
        assert (point.dev_loss, point.bleu, point.bleu_signature) == (3.25, 21.5, "test|beam:4")
    assert again["large"].config == first["large"].config


@pytest.mark.parametrize(
    ("whole_ms", "less_ms", "budget_ms"),
    [
        (100, 144, 120),  # half way, in ratio
        (100, 106.1, 103.005),
        (100, 106, 110),  # 6 % is not worth a switch: 10 % above
        (100, 100, 110),
        (100, 90, 110),
    ],
)
def test_default_budget(whole_ms: float, less_ms: float, budget_ms: float) -> None:
    """The budget lies between both latencies where a lost CPU costs more than 6 %, else 10 % above."""
    assert default_budget_ms(whole_ms, less_ms) == pytest.approx(budget_ms, rel=1e-4)


@pytest.mark.parametrize(
    ("dev_losses", "best"),
    [
        ((3.0, 4.0), "large"),
        ((4.0, 3.0), "small"),
        ((3.0, 3.0), "small"),
        ((None, None), "large"),
        ((3.0, None), "large"),
        ((None, 3.0), "large"),
    ],
)
@pytest.mark.usefixtures("fake_times")
def test_budget_is_for_the_best_point(
    bundle: Bundle, toy: SuperTransformer, dev_losses: tuple[float | None, float | None], best: str
) -> None:
    """The default budget is that of the best point: least dev loss where all are measured, else the slowest.

    It is made for the one busy neighbour that the daemon plans for by default.
    """
    table = _profile(bundle, _points(toy, *dev_losses))
    whole_ms = {"large": 54.0, "small": 30.0}[best]
    less_ms = whole_ms * 1.5 if len(ALL_CPUS) > 1 else whole_ms
    assert table.default_latency_budget_ms == pytest.approx(default_budget_ms(whole_ms, less_ms), abs=0.05)


# --- points chosen by hand ---


def test_shipped_points_lie_in_their_space() -> None:
    """The shipped list of points fits the shipped recipe's space, each with its own id."""
    points = points_from_file(RECIPES / "en-de-points.toml", preset("quarter-wmt14-ende"))
    assert len({point.id for point in points}) == len(points) >= 3


POINT: dict[str, Any] = {
    "id": "p1",
    "num_decoder_layers": 1,
    "encoder_embed_dim": 16,
    "encoder_ffn_dim": 24,
    "decoder_embed_dim": 8,
    "decoder_ffn_dim": 16,
    "num_heads": 2,
    "cross_attention_span": 2,
}


def _write_points(path: Path, *points: dict[str, Any]) -> Path:
    lines = []
    for point in points:
        lines += ["[[points]]", *(f"{key} = {value!r}" for key, value in point.items())]
    path.write_text("\n".join(lines))
    return path


def test_listed_point_is_alike_in_every_layer(tmp_path: Path, toy: SuperTransformer) -> None:
    """A listed point has its values in every layer, and the space's encoder depth."""
    (point,) = points_from_file(_write_points(tmp_path / "p.toml", POINT), toy.spec.design_space)
    assert point.id == "p1"
    assert point.config.encoder_ffn_dims == (24, 24)
    assert point.config.encoder_attention_heads == (2, 2)
    assert point.config.decoder_ffn_dims == (16,)
    assert point.config.cross_attention_spans == (2,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder_embed_dim": 12}, r"point 'p2': encoder_embed_dim=12 .*\(16, 8\)"),
        ({"num_decoder_layers": 0}, r"points\.1\.num_decoder_layers: .*greater than 0"),
        ({"id": "has space"}, r"points\.1\.id: "),
        ({"id": "p1"}, r"point id 'p1' repeats"),
        ({"colour": "red"}, r"points\.1\.colour: "),
    ],
)
def test_wrong_list_is_refused_before_measuring(
    tmp_path: Path, toy: SuperTransformer, change: dict[str, Any], message: str
) -> None:
    """A list that could not become a table is refused at once, naming the file and the point."""
    path = _write_points(tmp_path / "p.toml", POINT, {**POINT, "id": "p2", **change})
    with pytest.raises(SettingsError, match=rf"p\.toml: {message}"):
        points_from_file(path, toy.spec.design_space)


# --- for real ---


def test_real_times_are_those_of_a_clock(bundle: Bundle, toy: SuperTransformer) -> None:
    """Measured for real, every time is positive and no part exceeds the whole."""
    table = profile_points(bundle, for_decoding(toy), _points(toy), ProfileOptions(1, 1, (4,)), QUIET)
    for point in table:
        for row in point.latencies:
            assert min(row.encoder_ms, row.decoder_ms) > 0
            assert row.total_ms >= max(row.encoder_ms, row.decoder_ms)
