"""The simulated Jetson Nano: the paper's figures under caps and load, and the governor's calm on it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import pytest

from benchmarks import simulated_nano
from benchmarks.virtual_nano import (
    MAX_GPU_HZ,
    MODES,
    Disturbance,
    VirtualNano,
    draw_disturbances,
    nano_table,
)
from dynhat_runtime.governor.forecast import clock_slow_down
from dynhat_runtime.governor.reasons import place
from dynhat_runtime.observation import Observation
from dynhat_runtime.offline.paper_figures import TABLE_II_GPU
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from dynhat_runtime.trace import Event, TracedDecision
from tests.hand_made import three_points
from tests.trace_files import RULES

FIVE_WATTS = MODES[1]


def run(*disturbances: Disturbance, seconds: float = 60.0, budget_ms: float = 1500.0) -> list[Event]:
    """What happens under these disturbances."""
    rules = replace(RULES, latency_budget_ms=budget_ms)
    return list(VirtualNano(nano_table(), rules, disturbances, seed=1).run(seconds))


def translations(events: list[Event], point_id: str | None = None) -> list[Observation]:
    """The client's, canaries left out."""
    found = [each for each in events if isinstance(each, Observation) and not each.is_canary]
    return [each for each in found if point_id in (None, each.point_id)]


def switches(events: list[Event], from_s: float = 0.5) -> list[TracedDecision]:
    """From then on; the very first decision leaves the largest point."""
    return [
        each
        for each in events
        if isinstance(each, TracedDecision) and each.changed and each.monotonic_s > from_s
    ]


# --- the board --------------------------------------------------------------------------------------------------


def test_the_points_are_the_papers() -> None:
    """Latency, BLEU and loss of every point are those of Table II, and the table says whose they are."""
    table = nano_table()
    figures = [(point.latencies[0].total_ms, point.bleu, point.dev_loss) for point in table]
    assert figures == [(row.latency_ms, row.bleu, row.dev_loss) for row in TABLE_II_GPU]
    assert "paper's" in table.device.name
    assert "paper's" in table.device.measured_at


def test_caps_and_load_slow_it_down() -> None:
    """Under 5 W a sentence takes 921.6 / 640 of its time; under other load as much longer as that costs."""
    table = nano_table()
    slow = Disturbance(kind="power mode", began_s=0.0, ended_s=60.0, mode=FIVE_WATTS)
    loaded = Disturbance(kind="other load", began_s=0.0, ended_s=60.0, load_factor=2.0)
    for disturbance, factor in ((slow, 1.44), (loaded, 2.0)):
        found = translations(run(disturbance))[3:]
        ratios = [each.elapsed_ms / table[each.point_id].latencies[0].total_ms for each in found]
        assert fmean(ratios) == pytest.approx(factor, rel=0.02)


def test_a_change_counts_from_when_it_comes() -> None:
    """A sentence half done when its speed halves takes one and a half times as long."""
    half = Disturbance(kind="other load", began_s=0.6, ended_s=60.0, load_factor=2.0)
    before = translations(run(seconds=5.0))[0]
    during = translations(run(half, seconds=5.0))[0]
    assert during.elapsed_ms == pytest.approx(600 + 2 * (before.elapsed_ms - 600))


def test_the_same_seed_is_the_same_device() -> None:
    """A seed gives the same disturbances and events every time, another one others."""
    assert draw_disturbances(1, 600.0) == draw_disturbances(1, 600.0) != draw_disturbances(2, 600.0)
    assert run(*draw_disturbances(1, 60.0)) == run(*draw_disturbances(1, 60.0))


def test_disturbances_come_one_at_a_time() -> None:
    """They do not overlap, and end within the time."""
    drawn = draw_disturbances(5, 600.0)
    assert len(drawn) > 5
    assert all(first.ended_s < second.began_s for first, second in pairwise(drawn))
    assert drawn[-1].ended_s < 600.0


# --- the GPU's cap counts on a GPU ------------------------------------------------------------------------------


def gpu_snapshot(gpu_hz: float | None, cpu_hz: float = 1479e6) -> ResourceSnapshot:
    """A reading of a board with a GPU."""
    return ResourceSnapshot(
        monotonic_s=0.0,
        source="jetson",
        usable_cpus=(0,),
        gpu_max_frequency_hz=gpu_hz,
        cpu_max_frequency_hz=cpu_hz,
    )


def test_the_gpus_cap_counts_for_points_measured_on_it() -> None:
    """Half the GPU's clock doubles what points measured on the GPU take, a lower CPU clock does nothing; and the
    reverse for points measured on the CPUs."""
    on_gpu, on_cpu = nano_table(), three_points(cpu_max_frequency_hz=1479e6)
    halves = gpu_snapshot(MAX_GPU_HZ / 2), gpu_snapshot(MAX_GPU_HZ, 1479e6 / 2)
    assert [clock_slow_down(each, on_gpu) for each in halves] == [2.0, 1.0]
    assert [clock_slow_down(each, on_cpu) for each in halves] == [1.0, 2.0]


def test_an_unknown_or_higher_cap_promises_nothing() -> None:
    """Without a reading of the GPU's cap, and with a higher one, the figures stand as measured."""
    assert clock_slow_down(gpu_snapshot(None), nano_table()) == 1.0
    assert clock_slow_down(gpu_snapshot(2 * MAX_GPU_HZ), nano_table()) == 1.0


def test_words_say_which_clock() -> None:
    """The reason names the GPU's cap for points measured on it, and no CPUs."""
    assert place(gpu_snapshot(640e6), nano_table()) == "on the GPU capped at 0.64 of 0.92 GHz"
    assert place(gpu_snapshot(MAX_GPU_HZ), nano_table()) == "on the GPU"


# --- the governor on it -----------------------------------------------------------------------------------------


def test_a_power_mode_moves_the_point_at_once_and_back() -> None:
    """5 W makes the next decision step down, before any translation tells; afterwards the best point returns."""
    events = run(Disturbance(kind="power mode", began_s=20.0, ended_s=50.0, mode=FIVE_WATTS), seconds=110.0)
    first, *_, last = switches(events)
    assert first.monotonic_s - 20.0 <= 0.25
    assert (first.active_id, last.point_id) == ("L5", "L5")


def test_an_idle_gap_moves_nothing() -> None:
    """Half a minute without a request, under the same caps, moves the point neither then nor when requests return."""
    pause = Disturbance(kind="no traffic", began_s=20.0, ended_s=50.0, has_traffic=False)
    events = run(pause, seconds=80.0)
    # The one under way at 20 s is the last before the pause.
    assert not [each for each in translations(events) if 22.0 < each.monotonic_s < 50.0]
    assert switches(events) == []


@pytest.mark.parametrize("seed", range(1, 11))
def test_ten_minutes_at_random(seed: int) -> None:
    """Under ten minutes of random disturbances: at most two switches per change, no flap, at most 5 % over the
    budget from 2 s after each change, BLEU within 3 % of the oracle's."""
    _, _, figures = simulated_nano.run_arm(simulated_nano.ARMS[0], seed, 600.0)
    assert figures.num_changes >= 16
    assert figures.most_switches_per_change <= 2
    assert figures.num_flaps == 0
    assert figures.settled_over_budget_fraction <= 0.05
    assert figures.mean_bleu >= 0.97 * figures.oracle_bleu


def test_the_static_arms_fail_in_their_ways() -> None:
    """The largest point misses most budgets, the smallest costs quality: the disturbances are no child's play."""
    _, _, largest = simulated_nano.run_arm(simulated_nano.ARMS[2], 1, 300.0)
    _, _, smallest = simulated_nano.run_arm(simulated_nano.ARMS[3], 1, 300.0)
    assert largest.over_budget_fraction > 0.5
    assert smallest.mean_bleu < 0.95 * smallest.oracle_bleu


def test_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Report and plot are written, say that nothing was measured, and are the same the next time."""
    written = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        arguments = [
            "--seeds",
            "1",
            "--minutes",
            "1.5",
            "--out",
            str(folder),
            "--trace",
            str(folder / "trace"),
        ]
        assert simulated_nano.main(arguments) == 0
        written.append({path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()})
    assert written[0] == written[1]
    assert sorted(name.rpartition(".")[2] for name in written[0]) == ["md", "png"]
    assert "**Simulated, not measured.**" in capsys.readouterr().out
    assert (tmp_path / "a/trace/trace.jsonl").exists()
