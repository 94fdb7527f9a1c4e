"""Ten virtual minutes of a simulated Jetson Nano under disturbances drawn at random: does the governor flap?

    python -m benchmarks.simulated_nano [--seed 1] [--seeds 10] [--minutes 10] [--out docs/benchmarks] [--trace DIR]

Writes a dated report and its plot. Nothing is measured: see `virtual_nano.py` for what stands in for the board. The
same seed and code give the same figures on any machine.
"""

from __future__ import annotations

import argparse
import bisect
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist, fmean

from benchmarks.virtual_nano import ROOT, Disturbance, VirtualNano, draw_disturbances, nano_table
from dynhat_runtime.governor.rules import GovernorRules, PolicyName
from dynhat_runtime.observation import Observation
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.replay.run import PLOT, replay_trace
from dynhat_runtime.replay.tables import rules_of
from dynhat_runtime.trace import Event, TracedDecision, as_line
from dynhat_runtime.trace_file import TraceFile

BUDGET_MS = 1500.0
SETTLING_S = 2.0
"""After every change, what the issue's aim leaves out."""
FLAP_S = 10.0
"""A step taken back within so long, with nothing changed meanwhile, is a flap."""
ARMS: tuple[tuple[str, PolicyName, str | None], ...] = (
    # name, policy, the only point there is
    ("predictive", "predictive", None),
    ("ladder", "ladder", None),
    ("static largest", "fixed", None),
    ("static smallest", "fixed", "L1"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmFigures:
    """One arm under one draw of disturbances."""

    name: str
    num_changes: int
    """Beginnings and ends of disturbances."""
    num_translations: int
    over_budget_fraction: float
    settled_over_budget_fraction: float
    """Of the translations that began 2 s after a change or later."""
    mean_bleu: float
    """Of the active point, over the time."""
    oracle_bleu: float
    mean_dev_loss: float
    oracle_dev_loss: float
    num_switches: int
    most_switches_per_change: int
    num_flaps: int


def simulate(
    name: str, table: OperatingPointTable, rules: GovernorRules, seed: int, seconds: float
) -> tuple[VirtualNano, list[Event], ArmFigures]:
    """One run, and its figures."""
    disturbances = draw_disturbances(seed, seconds)
    nano = VirtualNano(table, rules, disturbances, seed)
    events = list(nano.run(seconds))
    return nano, events, _figures(name, events, disturbances, nano_table())


def _figures(
    name: str, events: Sequence[Event], disturbances: Sequence[Disturbance], table: OperatingPointTable
) -> ArmFigures:
    changes_s = sorted(at_s for each in disturbances for at_s in (each.began_s, each.ended_s))
    translations = [each for each in events if isinstance(each, Observation) and not each.is_canary]
    decisions = [each for each in events if isinstance(each, TracedDecision)]
    switches = [each for each in decisions if each.changed]
    over = [each.elapsed_ms > BUDGET_MS for each in translations]
    settled = [
        is_over
        for each, is_over in zip(translations, over, strict=True)
        if _since_change_s(each.monotonic_s - each.elapsed_ms / 1e3, changes_s) >= SETTLING_S
    ]
    per_change = Counter(bisect.bisect_right(changes_s, each.monotonic_s) for each in switches)
    oracle = [_oracle_id(each.monotonic_s, disturbances, table) for each in decisions]
    bleu = {point.id: point.bleu or 0.0 for point in table}
    loss = {point.id: point.dev_loss or 0.0 for point in table}
    return ArmFigures(
        name=name,
        num_changes=len(changes_s),
        num_translations=len(translations),
        over_budget_fraction=fmean(over),
        settled_over_budget_fraction=fmean(settled),
        # Decisions are evenly spaced but for the few that a missed budget brings about.
        mean_bleu=fmean(bleu[each.point_id] for each in decisions),
        oracle_bleu=fmean(bleu[point_id] for point_id in oracle),
        mean_dev_loss=fmean(loss[each.point_id] for each in decisions),
        oracle_dev_loss=fmean(loss[point_id] for point_id in oracle),
        num_switches=len(switches),
        most_switches_per_change=max(per_change.values(), default=0),
        num_flaps=_num_flaps(switches, changes_s),
    )


def _since_change_s(at_s: float, changes_s: Sequence[float]) -> float:
    number = bisect.bisect_right(changes_s, at_s)
    return at_s - changes_s[number - 1] if number else at_s


def _oracle_id(at_s: float, disturbances: Sequence[Disturbance], table: OperatingPointTable) -> str:
    """The best point that truly meets the budget 95 times in 100; the fastest if none does."""
    slow_down = next((each.slow_down for each in disturbances if each.began_s <= at_s < each.ended_s), 1.0)
    wanted_stds = NormalDist().inv_cdf(0.95)
    fitting = [
        point.id
        for point in table
        if slow_down * (point.latencies[0].total_ms + wanted_stds * point.latencies[0].std_ms) <= BUDGET_MS
    ]
    return max(fitting, key=table.quality_by_id().__getitem__) if fitting else table.points[0].id


def _num_flaps(switches: Sequence[TracedDecision], changes_s: Sequence[float]) -> int:
    return sum(
        later.point_id == earlier.active_id
        and later.monotonic_s - earlier.monotonic_s < FLAP_S
        and bisect.bisect_right(changes_s, later.monotonic_s)
        == bisect.bisect_right(changes_s, earlier.monotonic_s)
        for earlier, later in pairwise(switches)
    )


def run_arm(
    arm: tuple[str, PolicyName, str | None], seed: int, seconds: float
) -> tuple[VirtualNano, list[Event], ArmFigures]:
    """One of `ARMS` under the disturbances of a seed."""
    name, policy, only_id = arm
    table = nano_table()
    if only_id is not None:
        table = table.model_copy(update={"points": (table[only_id],)})
    rules = GovernorRules(latency_budget_ms=BUDGET_MS, policy=policy, num_busy_neighbours=0)
    return simulate(name, table, rules, seed, seconds)


def main(arguments: Sequence[str]) -> int:
    """Simulate and report; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulated_nano",
        description="Run the governor on a simulated Jetson Nano (the paper's latencies) and write a dated report.",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the run that is shown in full (1)")
    parser.add_argument(
        "--seeds", type=int, default=10, help="how many seeds, from 1, the last table has (10)"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="virtual time of every run (10)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks", help="folder of the report")
    parser.add_argument("--trace", type=Path, help="folder for trace.jsonl and table.json, to replay")
    asked = parser.parse_args(arguments)
    seconds = asked.minutes * 60
    runs = [run_arm(arm, asked.seed, seconds) for arm in ARMS]
    many = [run_arm(ARMS[0], seed, seconds)[2] for seed in range(1, asked.seeds + 1)]
    date = datetime.now(timezone.utc).date().isoformat()
    plot = asked.out / f"{date}-simulated-nano.png"
    asked.out.mkdir(parents=True, exist_ok=True)
    nano, events, _ = runs[0]
    if asked.trace is None:
        with tempfile.TemporaryDirectory() as folder:
            _draw(nano, events, Path(folder), plot)
    else:
        _draw(nano, events, asked.trace, plot)
    report = _report(date, asked, [figures for _, _, figures in runs], many)
    (asked.out / f"{date}-simulated-nano.md").write_text(report, encoding="utf-8")
    print(report)
    return 0


def _draw(nano: VirtualNano, events: Sequence[Event], folder: Path, plot: Path) -> None:
    """Write the run as a trace, replay it, and keep the plot."""
    folder.mkdir(parents=True, exist_ok=True)
    trace, table = folder / "trace.jsonl", nano_table()
    trace.write_text("".join(f"{as_line(each)}\n" for each in (nano.header(), *events)), encoding="ascii")
    table.save(folder / "table.json")
    opened = TraceFile(trace)
    replay_trace(opened, table, rules_of(opened.header), folder / "replay")
    plot.write_bytes((folder / "replay" / PLOT).read_bytes())


def _report(
    date: str, asked: argparse.Namespace, arms: Sequence[ArmFigures], many: Sequence[ArmFigures]
) -> str:
    disturbances = draw_disturbances(asked.seed, asked.minutes * 60)
    lines = [
        f"# Simulated Jetson Nano, {date}",
        "",
        "**Simulated, not measured.** Latencies and quality are the paper's (Table II, Jetson Nano GPU; noise and the",
        "encoder's share from its authors' latency dataset), scaled by the GPU's clock cap and by other load. The",
        "governor is the one that serves, in virtual time: the figures depend on the code and the seed alone.",
        "",
        f"- One client, one sentence of 30 tokens after another, budget {BUDGET_MS:g} ms, {asked.minutes:g} minutes.",
        f"- Disturbances, one at a time, drawn with seed {asked.seed}: {len(disturbances)}. Power modes and throttling",
        "  show as caps; other load shows only in what translations take.",
        "- A change is the beginning or the end of a disturbance. A flap is a step taken back within "
        f"{FLAP_S:g} s without a change.",
        "- The oracle knows the truth: at every moment the best point that meets the budget 95 times in 100.",
        "",
        f"Reproduce with:\n\n    python -m benchmarks.simulated_nano --seed {asked.seed} --seeds {asked.seeds} "
        f"--minutes {asked.minutes:g}",
        "",
        "| arm | translations | over budget | from 2 s after a change | mean BLEU (oracle) | mean dev loss (oracle) "
        "| switches | most per change | flaps |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
        *(_row(figures.name, figures) for figures in arms),
        "",
        f"![The active point, latencies, the slow-down and the caps over time]({date}-simulated-nano.png)",
        "",
        f"## Policy predictive, seeds 1 to {len(many)}",
        "",
        "| seed (changes) | translations | over budget | from 2 s after a change | mean BLEU (oracle) "
        "| mean dev loss (oracle) | switches | most per change | flaps |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
        *(_row(f"{seed} ({figures.num_changes})", figures) for seed, figures in enumerate(many, start=1)),
        "",
        "## The disturbances of the run shown",
        "",
        *(f"- {each.began_s:.0f} s to {each.ended_s:.0f} s: {each.words}" for each in disturbances),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, figures: ArmFigures) -> str:
    cells = [
        name,
        str(figures.num_translations),
        f"{figures.over_budget_fraction:.1%}",
        f"{figures.settled_over_budget_fraction:.1%}",
        f"{figures.mean_bleu:.2f} ({figures.oracle_bleu:.2f})",
        f"{figures.mean_dev_loss:.3f} ({figures.oracle_dev_loss:.3f})",
        str(figures.num_switches),
        str(figures.most_switches_per_change),
        str(figures.num_flaps),
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
