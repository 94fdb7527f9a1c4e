"""A Jetson Nano that there is not: the paper's operating points under power modes, throttling and other load.

Latencies are the figures that the paper's authors published, scaled by the caps and by chance; nothing here was
measured. The governor that drives it is the one that serves, in virtual time. Writes no file.

    true latency = Table II x 921.6 MHz / the GPU's cap x what other load costs x noise
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Literal

from dynhat_runtime import __version__
from dynhat_runtime.governor.governor import Governor
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.observation import Observation
from dynhat_runtime.offline.paper_points import DEFAULT_SOURCE, PaperPoints
from dynhat_runtime.operating_point import (
    DeviceDescription,
    LatencyMeasurement,
    OperatingPoint,
    OperatingPointTable,
)
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from dynhat_runtime.trace import Event, TableIdentity, TraceHeader
from dynhat_runtime.trace_ring import traced

ROOT = Path(__file__).resolve().parent.parent
POINTS = ROOT / "operating_points/wmt14-en-de/paper_points.json"
LATENCIES = ROOT / "tests/data/latency/wmt14ende_jetson_nano_gpu.csv"
DEVICE = "simulated Jetson Nano, GPU (latencies: the paper's)"
NUM_TOKENS = 30
"""Of every sentence, as in the paper's measurements."""
MAX_GPU_HZ = 921.6e6

TICK_S = 0.25
THINK_S = 0.1
"""From an answer to the next request."""
CANARY_INTERVAL_S, QUIET_S = 2.0, 1.0
"""As the control loop has them."""

Kind = Literal["power mode", "throttling", "other load", "no traffic"]


@dataclass(frozen=True, slots=True)
class PowerMode:
    """What a Nano's nvpmodel allows."""

    name: str
    num_cpus: int
    cpu_max_hz: float
    gpu_max_hz: float


MAXN = PowerMode("MAXN", 4, 1479e6, MAX_GPU_HZ)
MODES = (PowerMode("10W", 3, 1224e6, 768e6), PowerMode("5W", 2, 918e6, 640e6))


@dataclass(frozen=True, slots=True, kw_only=True)
class Disturbance:
    """Something that begins and ends."""

    kind: Kind
    began_s: float
    ended_s: float
    mode: PowerMode = MAXN
    gpu_max_hz: float = MAX_GPU_HZ
    """By throttling, whatever the mode."""
    load_factor: float = 1.0
    """How much longer other load makes a translation; no sensor tells."""
    has_traffic: bool = True

    @property
    def gpu_cap_hz(self) -> float:
        """The lower of mode and throttling."""
        return min(self.mode.gpu_max_hz, self.gpu_max_hz)

    @property
    def slow_down(self) -> float:
        """Of the truth against the table."""
        return MAX_GPU_HZ / self.gpu_cap_hz * self.load_factor

    @property
    def words(self) -> str:
        """For people."""
        detail = {
            "power mode": self.mode.name,
            "throttling": f"GPU at {self.gpu_max_hz / 1e6:.0f} MHz",
            "other load": f"{self.load_factor:.2f} times slower",
            "no traffic": f"power mode {self.mode.name}",
        }[self.kind]
        return f"{self.kind}: {detail}"


def nano_table() -> OperatingPointTable:
    """The six points of the paper's Table II (GPU), with the encoder's share from the authors' latency dataset."""
    published = PaperPoints.load(POINTS)
    points = [point for point in published.of_device("jetson-nano-gpu") if point.source == DEFAULT_SOURCE]
    authors = _authors_latencies()
    rows: list[OperatingPoint] = []
    for point in points:
        assert point.latency_ms is not None
        total_ms = point.latency_ms.value
        encoder_ms, noise = authors[point.config.num_decoder_layers]
        latency = LatencyMeasurement(
            # The GPU computes, and one CPU feeds it: more of them are taken to make no difference.
            num_cpus=1,
            num_src_tokens=NUM_TOKENS,
            num_tgt_tokens=NUM_TOKENS,
            encoder_ms=encoder_ms,
            decoder_ms=total_ms - encoder_ms,
            total_ms=total_ms,
            std_ms=total_ms * noise,
            num_runs=1,
        )
        rows.append(
            OperatingPoint(
                id=f"L{point.config.num_decoder_layers}",
                config=point.config,
                num_parameters=1,
                latencies=(latency,),
                dev_loss=None if point.validation_loss is None else point.validation_loss.value,
                bleu=None if point.bleu is None else point.bleu.value,
                bleu_signature="the paper's, Table II",
            )
        )
    device = DeviceDescription(
        name=DEVICE,
        machine="aarch64",
        num_cpus=4,
        cpu_max_frequency_hz=MAXN.cpu_max_hz,
        gpu_max_frequency_hz=MAX_GPU_HZ,
        torch_version="the paper's",
        beam_size=1,
        measured_at="the paper's, Table II",
    )
    return OperatingPointTable(
        device=device,
        design_space=published.design_space,
        weights_sha256="the paper's",
        reference_num_tokens=NUM_TOKENS,
        default_latency_budget_ms=1500.0,
        points=tuple(rows),
    )


def _authors_latencies() -> dict[int, tuple[float, float]]:
    """Encoder's ms and the decoder's relative noise, by decoder layers: medians of the authors' measurements."""
    with LATENCIES.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        layers: (
            median(float(row["latency_mean_encoder"]) for row in of_layers),
            median(
                float(row["latency_std_decoder"]) / float(row["latency_mean_decoder"]) for row in of_layers
            ),
        )
        for layers in range(1, 7)
        if (of_layers := [row for row in rows if int(float(row["decoder_layer_num"])) == layers])
    }


def draw_disturbances(seed: int, seconds: float) -> list[Disturbance]:
    """Disturbances at random, one at a time, each followed by a while of nothing."""
    chance = random.Random(seed)
    drawn: list[Disturbance] = []
    now_s = chance.uniform(10, 25)
    while (ended_s := now_s + chance.uniform(12, 45)) < seconds:
        drawn.append(_one(chance, now_s, ended_s))
        now_s = ended_s + chance.uniform(12, 35)
    return drawn


def _one(chance: random.Random, began_s: float, ended_s: float) -> Disturbance:
    kind = chance.choice(("power mode", "power mode", "throttling", "other load", "other load", "no traffic"))
    if kind == "throttling":
        gpu_max_hz = chance.choice((844.8e6, 768e6, 691.2e6, 614.4e6, 537.6e6))
        return Disturbance(kind="throttling", began_s=began_s, ended_s=ended_s, gpu_max_hz=gpu_max_hz)
    if kind == "other load":
        return Disturbance(
            kind="other load", began_s=began_s, ended_s=ended_s, load_factor=chance.uniform(1.15, 2.4)
        )
    mode = chance.choice(MODES)
    if kind == "power mode":
        return Disturbance(kind="power mode", began_s=began_s, ended_s=ended_s, mode=mode)
    return Disturbance(kind="no traffic", began_s=began_s, ended_s=ended_s, mode=mode, has_traffic=False)


@dataclass(frozen=True, slots=True)
class _Running:
    """A translation under way."""

    point_id: str
    began_s: float
    ends_s: float
    is_canary: bool


class VirtualNano:
    """The board, the client that asks for one sentence after another, and the governor, in virtual time."""

    def __init__(
        self, table: OperatingPointTable, rules: GovernorRules, disturbances: Sequence[Disturbance], seed: int
    ) -> None:
        self._table = table
        self._rules = rules
        self._disturbances = tuple(disturbances)
        self._chance = random.Random(f"noise {seed}")
        self._governor = Governor(table, rules)
        self._running: _Running | None = None
        self._observed: list[Observation] = []
        self._request_s = 0.0
        self._last_observed_s = -math.inf
        self._last_canary_s = -math.inf

    def header(self) -> TraceHeader:
        """Of the recording that `run` makes."""
        return TraceHeader(
            dynhat_version=__version__,
            started_at="virtual",
            device=DEVICE,
            table=TableIdentity.of(self._table),
            rules=asdict(self._rules),
        )

    def run(self, seconds: float) -> Iterator[Event]:
        """What a recorder would be told, in order."""
        tick_s = 0.0
        while tick_s < seconds:
            finished_s = math.inf if self._running is None else self._running.ends_s
            starts_s = self._request_s if self._running is None else math.inf
            now_s = min(tick_s, finished_s, starts_s)
            if now_s == finished_s:
                # A missed budget brings the next pass about at once.
                tick_s = now_s if self._finish() else tick_s
            elif now_s == starts_s:
                self._ask(now_s)
            else:
                yield from self._pass(now_s)
                tick_s = now_s + TICK_S

    def _at(self, now_s: float) -> Disturbance | None:
        return next((each for each in self._disturbances if each.began_s <= now_s < each.ended_s), None)

    def _pass(self, now_s: float) -> Iterator[Event]:
        """As the control loop does it: learn, read, decide, switch, and maybe a canary."""
        for observation in self._observed:
            yield observation
            self._governor.observe(observation)
        self._observed.clear()
        snapshot = self._snapshot(now_s)
        yield snapshot
        decision = self._governor.decide(snapshot)
        if decision.changed:
            self._governor.became_active(decision.point_id, now_s)
        yield traced(decision)
        if (
            decision.wants_canary
            and self._running is None
            and now_s - self._last_observed_s >= QUIET_S
            and now_s - self._last_canary_s >= CANARY_INTERVAL_S
        ):
            self._last_canary_s = now_s
            self._start(now_s, is_canary=True)

    def _snapshot(self, now_s: float) -> ResourceSnapshot:
        disturbance = self._at(now_s)
        mode = MAXN if disturbance is None else disturbance.mode
        cpus = tuple(range(mode.num_cpus))
        return ResourceSnapshot(
            monotonic_s=now_s,
            source="simulated",
            usable_cpus=cpus,
            online_cpus=cpus,
            cpu_max_frequency_hz=mode.cpu_max_hz,
            gpu_max_frequency_hz=MAX_GPU_HZ if disturbance is None else disturbance.gpu_cap_hz,
            power_mode=mode.name,
        )

    def _ask(self, now_s: float) -> None:
        """The client's next request, unless it pauses."""
        disturbance = self._at(now_s)
        if disturbance is not None and not disturbance.has_traffic:
            self._request_s = disturbance.ended_s
        else:
            self._start(now_s, is_canary=False)

    def _start(self, now_s: float, *, is_canary: bool) -> None:
        row = self._table[self._governor.active_id].latencies[0]
        noise = self._chance.gauss(0.0, math.log1p(row.std_ms / row.total_ms))
        work_s = row.total_ms * math.exp(noise) / 1e3
        ends_s = self._ends_s(now_s, work_s)
        self._running = _Running(self._governor.active_id, now_s, ends_s, is_canary)

    def _ends_s(self, now_s: float, work_s: float) -> float:
        """When so much work at full speed is done, begun now: what changes meanwhile counts from then on."""
        changes_s = sorted(at_s for each in self._disturbances for at_s in (each.began_s, each.ended_s))
        for change_s in (*(at_s for at_s in changes_s if at_s > now_s), math.inf):
            disturbance = self._at(now_s)
            slow_down = 1.0 if disturbance is None else disturbance.slow_down
            if now_s + work_s * slow_down <= change_s:
                return now_s + work_s * slow_down
            work_s -= (change_s - now_s) / slow_down
            now_s = change_s
        raise AssertionError("time does not end")

    def _finish(self) -> bool:
        """The translation under way is done; True if it took longer than the budget."""
        running = self._running
        assert running is not None
        self._running, self._last_observed_s = None, running.ends_s
        if not running.is_canary:
            self._request_s = running.ends_s + THINK_S
        elapsed_ms = (running.ends_s - running.began_s) * 1e3
        self._observed.append(
            Observation(
                monotonic_s=running.ends_s,
                point_id=running.point_id,
                num_sentences=1,
                num_src_tokens=NUM_TOKENS,
                num_tgt_tokens=NUM_TOKENS,
                beam_size=self._table.device.beam_size,
                elapsed_ms=elapsed_ms,
                is_canary=running.is_canary,
            )
        )
        return elapsed_ms > self._rules.latency_budget_ms
