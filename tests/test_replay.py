"""Replay: the governor over a recording decides as it did, and the same files come out byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.virtual_nano import nano_table
from dynhat_runtime.errors import SettingsError, TraceError, UnknownOperatingPointError
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.observation import Observation
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.replay.replayer import Decided, Observed, Replayer, Step
from dynhat_runtime.replay.run import replay_trace
from dynhat_runtime.replay.summary import SwitchCount, Tally, summary_lines
from dynhat_runtime.replay.tables import find_table, rules_of
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from dynhat_runtime.trace import Event, Gap, TableIdentity, TracedDecision, TraceHeader, as_line, parse_line
from dynhat_runtime.trace_file import TraceFile
from tests.hand_made import three_points
from tests.test_trace import HEADER
from tests.trace_files import RULES, simulated, write

PATIENCE_S = 120.0
LADDER = GovernorRules(latency_budget_ms=35.0, policy="ladder", num_busy_neighbours=0)


def snapshot(monotonic_s: float, num_cpus: int = 4) -> ResourceSnapshot:
    """A reading of a hand-made device; `three_points` takes half as long on 4 CPUs as on 1."""
    return ResourceSnapshot(monotonic_s=monotonic_s, source="host", usable_cpus=tuple(range(num_cpus)))


def decided(
    monotonic_s: float, active_id: str, point_id: str, *, is_pinned: bool = False, code: str = "over_budget"
) -> TracedDecision:
    """What was recorded of a decision."""
    return TracedDecision(
        monotonic_s=monotonic_s,
        active_id=active_id,
        point_id=point_id,
        mode="pinned" if is_pinned else "auto",
        policy="ladder",
        reason_code=code,
        predicted_ms=1.0,
        slow_down_factor=1.0,
        slow_down_std=0.1,
    )


def translated(
    monotonic_s: float, point_id: str, elapsed_ms: float, *, is_canary: bool = False
) -> Observation:
    """One sentence of 30 tokens."""
    return Observation(
        monotonic_s=monotonic_s,
        point_id=point_id,
        num_sentences=1,
        num_src_tokens=30,
        num_tgt_tokens=30,
        beam_size=1,
        elapsed_ms=elapsed_ms,
        is_canary=is_canary,
    )


def steps(events: Sequence[Event], rules: GovernorRules = LADDER) -> list[Step]:
    """A replay on the hand-made points."""
    return list(Replayer(three_points(), rules).steps(events))


def decisions(found: Sequence[Step]) -> list[str]:
    """The points decided for."""
    return [step.decision.point_id for step in found if isinstance(step, Decided)]


# --- the governor over a recording ------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["predictive", "ladder", "energy", "fixed"])
def test_a_recording_replays_to_the_same_decisions(policy: Any) -> None:
    """By the rules of the recording, every decision is the recorded one, and every latency the recorded one."""
    rules = replace(RULES, policy=policy)
    _, events = simulated(rules=rules)
    found = list(Replayer(nano_table(), rules).steps(events))
    for step in found:
        if isinstance(step, Decided):
            assert step.recorded is not None
            assert (step.decision.active_id, step.decision.point_id, step.decision.reason_code) == (
                step.recorded.active_id,
                step.recorded.point_id,
                step.recorded.reason_code,
            )
            assert step.decision.slow_down_factor == step.recorded.slow_down_factor
        elif isinstance(step, Observed):
            assert step.replayed == step.recorded
    switches = [each for each in events if isinstance(each, TracedDecision) and each.changed]
    assert len(switches) >= {"predictive": 5, "ladder": 1, "energy": 1, "fixed": 0}[policy]


def test_other_rules_decide_otherwise() -> None:
    """Under a smaller budget the same snapshots lead to a faster point."""
    events = [snapshot(0.0), decided(0.0, "p6", "p6"), snapshot(1.0), decided(1.0, "p6", "p6")]
    assert decisions(steps(events)) == ["p6", "p6"]
    assert decisions(steps(events, replace(LADDER, latency_budget_ms=15.0))) == ["p1", "p1"]


def test_a_translation_on_another_point_is_as_slow_against_the_table() -> None:
    """A sentence that took 1.5 times the table's 30 ms on p6 is taken to need 1.5 times the 10 ms of p1."""
    events = [snapshot(0.0), decided(0.0, "p6", "p6"), translated(1.0, "p6", 45.0)]
    moved = steps(events, replace(LADDER, latency_budget_ms=15.0))[-1]
    assert isinstance(moved, Observed)
    assert moved.recorded == events[-1]
    assert (moved.replayed.point_id, moved.replayed.elapsed_ms) == ("p1", pytest.approx(15.0))


def test_a_translation_with_a_point_of_its_own_keeps_it() -> None:
    """A request that was translated on another point than the active one stays on that point."""
    events = [snapshot(0.0), decided(0.0, "p6", "p6"), translated(1.0, "p3", 25.0)]
    kept = steps(events, replace(LADDER, latency_budget_ms=15.0))[-1]
    assert isinstance(kept, Observed)
    assert kept.replayed == kept.recorded


def test_a_translation_belongs_to_the_point_it_began_on() -> None:
    """One that ends after a switch, and began before it, is moved as one of the point before."""
    events = [
        snapshot(0.0),
        decided(0.0, "p6", "p6"),
        snapshot(9.99),
        decided(9.99, "p6", "p3"),
        translated(10.0, "p6", 30.0),
    ]
    moved = steps(events, replace(LADDER, latency_budget_ms=15.0))[-1]
    assert isinstance(moved, Observed)
    assert (moved.replayed.point_id, moved.replayed.elapsed_ms) == ("p1", pytest.approx(10.0))


def test_what_a_person_pinned_is_pinned_again() -> None:
    """From a pinned decision on the replay stays on that point, and decides again when the recording did."""
    events = [
        snapshot(0.0), decided(0.0, "p6", "p6"),
        snapshot(1.0), decided(1.0, "p6", "p1", is_pinned=True),
        snapshot(2.0), decided(2.0, "p1", "p1", is_pinned=True),
        snapshot(3.0), decided(3.0, "p1", "p6", code="step_up"),
    ]  # fmt: skip
    assert decisions(steps(events)) == ["p6", "p1", "p1", "p6"]


def test_it_begins_on_the_recorded_point() -> None:
    """The replay starts from the point that was active then, not from the best one."""
    events = [snapshot(0.0), decided(0.0, "p3", "p6", code="step_up")]
    first = steps(events)[0]
    assert isinstance(first, Decided)
    assert first.decision.active_id == "p3"


def test_a_recording_without_decisions() -> None:
    """Snapshots and translations alone can be replayed; translations count as ones of the active point."""
    found = steps([translated(0.5, "p6", 33.0), snapshot(1.0, 1), translated(2.0, "p6", 66.0)])
    assert decisions(found) == ["p1"]
    last = found[-1]
    assert isinstance(last, Observed)
    assert (last.replayed.point_id, last.replayed.elapsed_ms) == ("p1", pytest.approx(22.0))


def test_a_point_that_there_is_not() -> None:
    """A translation or a decision on an unknown point ends the replay with the point's name."""
    for event in (translated(1.0, "p9", 1.0), decided(0.0, "p9", "p6")):
        with pytest.raises(UnknownOperatingPointError, match="'p9'"):
            steps([snapshot(0.0), event])


# --- figures ----------------------------------------------------------------------------------------------------


def test_figures_in_the_head() -> None:
    """Time per point, switches, share over budget and mean quality are those of a small recording."""
    events: list[Event] = [
        snapshot(0.0), decided(0.0, "p6", "p6"),
        translated(1.0, "p6", 30.0), translated(1.1, "p6", 36.0), translated(1.2, "p6", 99.0, is_canary=True),
        snapshot(4.0, 1), decided(4.0, "p6", "p1"),
        translated(5.0, "p1", 20.0), translated(5.1, "p1", 30.0),
        snapshot(6.0, 1), decided(6.0, "p1", "p1"),
        Gap(num_lost=7),
        snapshot(100.0, 4), decided(100.0, "p1", "p6", code="step_up"),
        snapshot(101.0, 4), decided(101.0, "p6", "p6"),
    ]  # fmt: skip
    tally = Tally(three_points(), LADDER)
    for step in steps(events):
        tally.add(step)
    summary = tally.summary()
    side = summary.recorded
    assert (summary.duration_s, summary.num_lost, summary.num_decisions) == (7.0, 7, 5)
    assert (summary.num_translations, summary.num_canaries) == (4, 1)
    assert side.time_s == {"p1": 2.0, "p3": 0.0, "p6": 5.0}
    assert side.switches == (
        SwitchCount(from_point="p1", to_point="p6", reason_code="step_up", count=1),
        SwitchCount(from_point="p6", to_point="p1", reason_code="over_budget", count=1),
    )
    assert (side.num_translations_over_budget, side.over_budget_fraction) == (1, 0.25)
    assert side.mean_dev_loss == pytest.approx((3.2 + 3.2 + 4.0 + 4.0) / 4)
    assert side.mean_bleu is None
    assert summary.replayed == side
    # Errors of the plan: 0, 30/36 - 1, 30/99 - 1, 0, 20/30 - 1.
    assert summary.median_absolute_error_fraction == pytest.approx(1 - 30 / 36)


def test_both_sides_are_judged_by_the_replays_budget() -> None:
    """Under another budget, the share over it as recorded and as replayed are told side by side."""
    events = [snapshot(0.0), decided(0.0, "p6", "p6"), translated(1.0, "p6", 30.0)]
    rules = replace(LADDER, latency_budget_ms=15.0)
    tally = Tally(three_points(), rules)
    for step in steps(events, rules):
        tally.add(step)
    summary = tally.summary()
    assert (summary.recorded.over_budget_fraction, summary.replayed.over_budget_fraction) == (1.0, 0.0)
    text = "\n".join(summary_lines(summary, rules))
    assert "budget 15 ms" in text
    assert "100.0%" in text


def test_nothing_translated() -> None:
    """Where nothing was translated no share and no quality is made up."""
    tally = Tally(three_points(), LADDER)
    for step in steps([snapshot(0.0)]):
        tally.add(step)
    summary = tally.summary()
    assert summary.replayed.over_budget_fraction is None
    assert summary.replayed.mean_dev_loss is None
    assert summary.median_absolute_error_fraction is None
    assert any("over budget" in line and "-" in line for line in summary_lines(summary, LADDER))


# --- files ------------------------------------------------------------------------------------------------------


def command(*arguments: str, hash_seed: str = "0") -> subprocess.CompletedProcess[str]:
    """`dynhat replay` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "dynhat_runtime", "replay", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A trace of the simulated Nano, and its table."""
    folder = tmp_path_factory.mktemp("nano")
    header, events = simulated()
    nano_table().save(folder / "table.json")
    return write(folder / "trace.jsonl", header, events), folder / "table.json"


def test_the_same_bytes_in_every_process(nano: tuple[Path, Path], tmp_path: Path) -> None:
    """Two processes with other hash seeds write the same summary, decisions and picture, byte for byte."""
    trace, table = map(str, nano)
    outputs = []
    for hash_seed in ("1", "4242"):
        out = tmp_path / hash_seed
        done = command(trace, "--table", table, "--out", str(out), "--json", hash_seed=hash_seed)
        assert done.returncode == 0, done.stderr
        files = {file.name: file.read_bytes() for file in out.iterdir()}
        assert set(files) == {"summary.json", "decisions.jsonl", "replay.png"}
        outputs.append((done.stdout, done.stderr, files))
    assert outputs[0] == outputs[1]
    assert outputs[0][2]["replay.png"].startswith(b"\x89PNG")
    answer = json.loads(outputs[0][0])
    assert answer == json.loads(outputs[0][2]["summary.json"])
    assert answer["recorded"] == answer["replayed"]


def test_decisions_are_a_readable_log(nano: tuple[Path, Path], tmp_path: Path) -> None:
    """Every decision is one line with its reason in words."""
    trace = TraceFile(nano[0])
    replay_trace(trace, nano_table(), RULES, tmp_path)
    lines = (tmp_path / "decisions.jsonl").read_text().splitlines()
    recorded = [each for each in trace.events() if isinstance(each, TracedDecision)]
    assert [json.loads(line)["point_id"] for line in lines] == [each.point_id for each in recorded]
    assert all("budget of 1500.0 ms" in json.loads(line)["reason"] for line in lines)


def test_options_take_the_place_of_the_recorded_rules(nano: tuple[Path, Path]) -> None:
    """Policy and budget of the command line hold, everything else is as recorded."""
    trace, table = map(str, nano)
    done = command(trace, "--table", table, "--policy", "fixed", "--latency-budget-ms", "900", "--json")
    answer = json.loads(done.stdout)
    assert (answer["rules"]["policy"], answer["rules"]["latency_budget_ms"]) == ("fixed", 900.0)
    assert answer["rules"]["confidence"] == RULES.confidence
    assert answer["trace"]["rules"]["policy"] == "predictive"
    assert answer["replayed"]["switches"] == []
    assert answer["recorded"]["switches"] != []


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--policy", "clever", "policy='clever' is unknown: choose one of fixed, ladder, predictive, energy"),
        ("--latency-budget-ms", "0", "latency_budget_ms=0.0"),
        ("--latency-budget-ms", "-5", "latency_budget_ms=-5.0"),
        ("--latency-budget-ms", "nan", "latency_budget_ms=nan"),
        ("--latency-budget-ms", "inf", "latency_budget_ms=inf"),
    ],
)
def test_bad_options(nano: tuple[Path, Path], option: str, value: str, complaint: str) -> None:
    """An unknown policy or an impossible budget ends with status 2 and one line that says what would do."""
    done = command(str(nano[0]), "--table", str(nano[1]), option, value)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_broken_lines_are_named_and_the_rest_is_replayed(nano: tuple[Path, Path], tmp_path: Path) -> None:
    """Lines that were spoilt are named by number on standard error; the figures are those of the rest."""
    lines = nano[0].read_text().splitlines()
    spoilt = [*lines[:9], "{broken", *lines[9:20], lines[20].replace("1", "NaN"), *lines[21:]]
    path = tmp_path / "spoilt.jsonl"
    path.write_text("\n".join(spoilt))
    done = command(str(path), "--table", str(nano[1]), "--json")
    assert done.returncode == 0
    assert f"{path}: line 10: is no JSON" in done.stderr
    assert "line 22: is no JSON (NaN" in done.stderr
    assert "2 lines are broken and were left out" in done.stderr
    assert json.loads(done.stdout)["flaws"]["num_broken"] == 2


def test_nothing_to_decide_on(tmp_path: Path) -> None:
    """A trace all of whose lines are broken is refused, with the first of them."""
    path = write(tmp_path / "t", HEADER, [])
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(TraceError, match=r"no snapshot to decide on \(1 broken lines, first line 2: "):
        replay_trace(TraceFile(path), three_points(), LADDER)


def test_the_folder_cannot_be_written(nano: tuple[Path, Path], tmp_path: Path) -> None:
    """An --out that is a file is refused by name."""
    (tmp_path / "file").touch()
    with pytest.raises(TraceError, match=r"file: cannot be written \(File exists\)"):
        replay_trace(TraceFile(nano[0]), nano_table(), RULES, tmp_path / "file")


# --- tables -----------------------------------------------------------------------------------------------------


def saved(folder: Path, table: OperatingPointTable) -> Path:
    """The table's file."""
    table.save(folder / "table.json")
    return folder / "table.json"


def test_a_table_of_another_device_is_refused(tmp_path: Path) -> None:
    """A profile of another device is refused; the message names both devices and the remedy."""
    table = three_points()
    other = table.model_copy(update={"device": table.device.model_copy(update={"name": "Another Board"})})
    with pytest.raises(TraceError, match=r"of Another Board, but .* with those of hand-made: give --table"):
        find_table(HEADER, saved(tmp_path, other))


def test_a_table_of_other_weights_is_refused(tmp_path: Path) -> None:
    """So is one of another SuperTransformer."""
    other = three_points().model_copy(update={"weights_sha256": "1"})
    with pytest.raises(TraceError, match="other weights"):
        find_table(HEADER, saved(tmp_path, other))


def test_a_table_without_a_served_point_is_refused(tmp_path: Path) -> None:
    """And one that lacks a point that was served, by the point's name."""
    table = three_points()
    fewer = table.model_copy(update={"points": table.points[:2]})
    with pytest.raises(TraceError, match="no operating point 'p6'"):
        find_table(HEADER, saved(tmp_path, fewer))


def test_a_table_measured_again_is_taken_and_told(tmp_path: Path) -> None:
    """Other figures of the same device are used, and it is said that they are others."""
    table = three_points()
    again = table.model_copy(update={"default_latency_budget_ms": 36.0})
    assert find_table(HEADER, saved(tmp_path, table)).is_as_recorded
    found = find_table(HEADER, saved(tmp_path, again))
    assert found.table == again
    assert not found.is_as_recorded


def test_points_that_were_not_served_are_left_out(tmp_path: Path) -> None:
    """A point that the daemon refused is not chosen in the replay either."""
    table = three_points()
    header = replace(HEADER, table=TableIdentity.of(table, ("p1", "p3")))
    found = find_table(header, saved(tmp_path, table))
    assert [point.id for point in found.table] == ["p1", "p3"]
    assert found.is_as_recorded


def test_the_bundles_table_is_found(tiny_bundle: Any) -> None:
    """Without a file, the bundle's table of the recording's device is taken; without one that fits, it says so."""
    table = tiny_bundle.table()
    header = replace(HEADER, table=TableIdentity.of(table))
    assert find_table(header, bundle=tiny_bundle.path).table == table
    with pytest.raises(TraceError, match=r"of made up, but .* with those of hand-made"):
        find_table(HEADER, bundle=tiny_bundle.path)


def test_rules_of_a_later_version() -> None:
    """A rule that this version does not know is refused by name, as it would change what is decided."""
    header = replace(HEADER, rules={"latency_budget_ms": 35.0, "mood": "sunny"})
    with pytest.raises(TraceError, match="rule 'mood'"):
        rules_of(header)


@pytest.mark.parametrize(
    ("rules", "error", "complaint"),
    [
        ({}, TraceError, "latency_budget_ms"),
        ({"latency_budget_ms": "35"}, TraceError, "latency_budget_ms"),
        ({"latency_budget_ms": -1.0}, SettingsError, "latency_budget_ms=-1.0"),
        ({"latency_budget_ms": 35.0, "policy": "clever"}, TraceError, "policy"),
    ],
)
def test_rules_that_cannot_work(rules: dict[str, Any], error: type[Exception], complaint: str) -> None:
    """Rules that are none are refused by the rule's name."""
    with pytest.raises(error, match=complaint):
        rules_of(replace(HEADER, rules=rules))


def test_the_header_keeps_the_rules() -> None:
    """The rules in a header, written and read, are those that the recording was made by."""
    header, _ = simulated(1.0)
    read = parse_line(as_line(header))
    assert isinstance(read, TraceHeader)
    assert rules_of(read) == RULES
