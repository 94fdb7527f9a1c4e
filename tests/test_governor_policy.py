"""Tests of dynhat_runtime.governor.policy."""

from __future__ import annotations

import ast
import math
from dataclasses import replace
from pathlib import Path

import pytest

import dynhat_runtime.governor
from dynhat_runtime.errors import SettingsError, UnknownOperatingPointError
from dynhat_runtime.governor.latency_model import LatencyModel
from dynhat_runtime.governor.policy import Decision, GovernorRules, GovernorState, decide
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from tests.hand_made import point, row, table, three_points

RULES = GovernorRules(latency_budget_ms=35.0)
FOUR_CPUS = ResourceSnapshot(monotonic_s=100.0, source="test", usable_cpus=(0, 1, 2, 3))
ONE_CPU = replace(FOUR_CPUS, usable_cpus=(0,))


def decide_from(
    active_id: str,
    snapshot: ResourceSnapshot,
    rules: GovernorRules = RULES,
    *,
    since_monotonic_s: float = 0.0,
    pinned_id: str | None = None,
    points: OperatingPointTable | None = None,
) -> Decision:
    """The decision with `active_id` running, on the three hand-made points unless others are given."""
    state = GovernorState(active_id=active_id, since_monotonic_s=since_monotonic_s, pinned_id=pinned_id)
    return decide(snapshot, state, rules, LatencyModel(points or three_points()))


# --- rule 1: pinned ---------------------------------------------------------------------------------------


def test_a_pinned_point_runs_though_it_is_over_budget() -> None:
    """A pin stands against the budget, and the reason owns up to it."""
    decision = decide_from("p1", ONE_CPU, pinned_id="p6")
    assert (decision.point_id, decision.changed, decision.mode) == ("p6", True, "pinned")
    assert decision.reason_code == "pinned"
    assert "60.0 ms on 1 CPU, over the budget of 35.0 ms" in decision.reason


def test_a_pinned_point_runs_though_a_better_one_fits() -> None:
    """A pin stands against better points, too."""
    decision = decide_from("p1", FOUR_CPUS, pinned_id="p1")
    assert (decision.point_id, decision.changed) == ("p1", False)
    assert [candidate.why_not for candidate in decision.candidates] == [None, "p1 is pinned", "p1 is pinned"]


def test_an_unknown_pin_is_refused() -> None:
    """A pin that the table lacks is an error, not a silent auto."""
    with pytest.raises(UnknownOperatingPointError, match="p9"):
        decide_from("p1", FOUR_CPUS, pinned_id="p9")


# --- rule 2: over budget ----------------------------------------------------------------------------------


def test_over_budget_steps_down_at_once() -> None:
    """An active point over the budget gives way though the dwell has not passed."""
    decision = decide_from("p6", ONE_CPU, since_monotonic_s=ONE_CPU.monotonic_s)
    assert (decision.point_id, decision.changed, decision.reason_code) == ("p1", True, "over_budget")


def test_over_budget_takes_the_best_that_fits() -> None:
    """Stepping down stops at the best point that fits, not at the fastest, and may use the dead band."""
    decision = decide_from("p6", ONE_CPU, GovernorRules(latency_budget_ms=40.0, dead_band_fraction=0.5))
    assert decision.point_id == "p3"


def test_over_budget_says_both_times_and_the_place() -> None:
    """The reason is one sentence with the old time, the CPUs, the budget and the new time."""
    decision = decide_from("p6", ONE_CPU)
    assert decision.reason == (
        "p6 (6 decoder layers) needs 60.0 ms on 1 CPU, over the budget of 35.0 ms; "
        "p1 (1 decoder layer) needs 20.0 ms"
    )


def test_when_nothing_fits_the_fastest_runs_and_the_reason_says_so() -> None:
    """With no point within the budget the fastest is taken, and that is not passed off as fitting."""
    decision = decide_from("p6", replace(ONE_CPU, cpu_quota_cpus=0.1))
    assert (decision.point_id, decision.reason_code) == ("p1", "nothing_fits")
    assert "no operating point fits the budget of 35.0 ms on 0.1 CPUs" in decision.reason
    assert "p1 (1 decoder layer) needs 110.0 ms" in decision.reason
    assert not any(candidate.fits for candidate in decision.candidates)
    assert all("over the budget" in (candidate.why_not or "") for candidate in decision.candidates)


def test_the_fastest_stays_when_nothing_fits() -> None:
    """The fastest point does not count as changed when it was active already."""
    assert not decide_from("p1", replace(ONE_CPU, cpu_quota_cpus=0.1)).changed


# --- rule 3: step up --------------------------------------------------------------------------------------


def test_a_better_point_that_fits_is_stepped_up_to() -> None:
    """With room in the budget the best point runs, in one step."""
    decision = decide_from("p1", FOUR_CPUS)
    assert (decision.point_id, decision.changed, decision.reason_code) == ("p6", True, "step_up")
    assert "30.0 ms on 4 CPUs, within the budget of 35.0 ms" in decision.reason


def test_a_step_up_stops_at_the_best_with_margin() -> None:
    """A point inside the dead band is passed over for the best one outside it."""
    decision = decide_from("p1", FOUR_CPUS, GovernorRules(latency_budget_ms=30.5))
    assert decision.point_id == "p3"
    assert decision.candidates[2].fits
    assert "too close to the budget of 30.5 ms" in (decision.candidates[2].why_not or "")


@pytest.mark.parametrize(("age_s", "point_id"), [(0.49, "p1"), (0.5, "p6")])
def test_a_step_up_waits_for_the_dwell(age_s: float, point_id: str) -> None:
    """A better point has to wait until the active one has stayed for the dwell, and no longer."""
    decision = decide_from("p1", FOUR_CPUS, since_monotonic_s=FOUR_CPUS.monotonic_s - age_s)
    assert decision.point_id == point_id
    assert decision.reason_code == ("step_up" if point_id == "p6" else "dwell")


def test_waiting_for_the_dwell_names_the_point_that_waits() -> None:
    """While the dwell runs, the reason and the candidate say what comes after it."""
    decision = decide_from("p1", FOUR_CPUS, since_monotonic_s=FOUR_CPUS.monotonic_s)
    assert decision.reason.startswith("p6 (6 decoder layers) needs 30.0 ms on 4 CPUs")
    assert decision.candidates[2].why_not == "waits until p1 has been active for 0.5 s"


def test_a_point_inside_the_dead_band_is_not_the_one_that_waits() -> None:
    """While the dwell runs, the reason names the best point with margin, not a better one without."""
    rules = GovernorRules(latency_budget_ms=30.5)
    decision = decide_from("p1", FOUR_CPUS, rules, since_monotonic_s=FOUR_CPUS.monotonic_s)
    assert decision.reason.startswith("p3 (3 decoder layers) needs 20.0 ms")


# --- rule 4: stay -----------------------------------------------------------------------------------------


def test_inside_the_dead_band_nothing_moves() -> None:
    """A better point that fits by less than the dead band does not displace the active one."""
    decision = decide_from("p3", FOUR_CPUS, GovernorRules(latency_budget_ms=30.5))
    assert (decision.point_id, decision.changed, decision.reason_code) == ("p3", False, "dead_band")
    assert "29.6 ms or less" in decision.reason


def test_an_active_point_inside_the_dead_band_stays() -> None:
    """The dead band is for stepping up; a point already running may use the whole budget."""
    assert decide_from("p6", FOUR_CPUS, GovernorRules(latency_budget_ms=30.0)).point_id == "p6"


def test_the_best_fitting_point_stays() -> None:
    """With nothing better to run, the active point stays and the others are explained."""
    decision = decide_from("p6", FOUR_CPUS)
    assert (decision.point_id, decision.changed, decision.reason_code) == ("p6", False, "best_fits")
    assert [candidate.why_not for candidate in decision.candidates] == [
        "translates no better than p6",
        "translates no better than p6",
        None,
    ]


def test_a_fixed_device_settles_after_one_move() -> None:
    """From any point, under any of these caps, the second decision changes nothing."""
    for num_cpus in (0.3, 0.5, 1.0, 1.4, 2.0, 3.0, 4.0):
        snapshot = replace(FOUR_CPUS, cpu_quota_cpus=num_cpus)
        for active_id in ("p1", "p3", "p6"):
            first = decide_from(active_id, snapshot)
            assert not decide_from(first.point_id, snapshot).changed


# --- caps, and only caps ----------------------------------------------------------------------------------


def test_an_idle_gap_moves_nothing() -> None:
    """Clocks, load, pressure and heat of the moment leave the decision as it was."""
    hz = 1.5e9
    working = replace(FOUR_CPUS, cpu_max_frequency_hz=hz, cpu_current_frequency_hz=hz, cpu_load_fraction=1.0)
    idle = replace(
        working,
        cpu_current_frequency_hz=0.1e9,
        cpu_load_fraction=0.0,
        cpu_pressure_fraction=0.9,
        temperature_celsius=95.0,
        gpu_current_frequency_hz=1.0,
        gpu_load_fraction=0.0,
        memory_available_mib=1.0,
    )
    for active_id in ("p1", "p3", "p6"):
        before = decide_from(active_id, working, points=three_points(hz))
        after = decide_from(active_id, idle, points=three_points(hz))
        assert replace(after, snapshot=working) == before


def test_half_the_clock_cap_doubles_the_latency() -> None:
    """A cap at half the clock of the measurement is judged as twice the time, and said so."""
    capped = replace(FOUR_CPUS, cpu_max_frequency_hz=0.75e9)
    decision = decide_from("p6", capped, points=three_points(1.5e9))
    assert [candidate.predicted_ms for candidate in decision.candidates] == pytest.approx([20.0, 40.0, 60.0])
    assert decision.point_id == "p1"
    assert "on 4 CPUs capped at 0.75 of 1.50 GHz" in decision.reason


@pytest.mark.parametrize(("measured_hz", "capped_hz"), [(None, 0.75e9), (1.5e9, None), (1.5e9, 3.0e9)])
def test_unknown_or_higher_clock_caps_change_nothing(
    measured_hz: float | None, capped_hz: float | None
) -> None:
    """Without both clocks, or with a higher cap than measured, the measured latency stands."""
    snapshot = replace(FOUR_CPUS, cpu_max_frequency_hz=capped_hz)
    decision = decide_from("p6", snapshot, points=three_points(measured_hz))
    assert decision.candidates[2].predicted_ms == pytest.approx(30.0)
    assert "GHz" not in decision.reason


def test_the_quota_bounds_the_affinity() -> None:
    """One CPU's worth of quota on four CPUs is judged as one CPU."""
    by_quota = decide_from("p6", replace(FOUR_CPUS, cpu_quota_cpus=1.0))
    by_affinity = decide_from("p6", ONE_CPU)
    assert by_quota.candidates == by_affinity.candidates


def test_without_any_cap_known_the_largest_measured_stands() -> None:
    """A monitor that knows no CPUs gets the figures of the full device."""
    decision = decide_from("p6", ResourceSnapshot(monotonic_s=1.0, source="test"))
    assert decision.candidates[2].predicted_ms == pytest.approx(30.0)
    assert "on all CPUs" in decision.reason


# --- quality and length -----------------------------------------------------------------------------------


def quality_table(dev_losses: list[float | None], bleus: list[float | None]) -> OperatingPointTable:
    """Points a, b, c of rising latency with these figures."""
    return table(
        [
            point(point_id, [row(4, 30, 30, 1.0, 4.0 + position)], dev_loss=dev_loss, bleu=bleu)
            for position, (point_id, dev_loss, bleu) in enumerate(zip("abc", dev_losses, bleus, strict=True))
        ]
    )


@pytest.mark.parametrize(
    ("dev_losses", "bleus", "best"),
    [
        ([3.0, 2.0, 2.5], [30.0, 10.0, 20.0], "b"),  # loss goes before BLEU
        ([None, 2.0, 2.5], [30.0, 10.0, 20.0], "a"),  # a loss that one point lacks compares nothing
        ([None, None, None], [10.0, 30.0, 20.0], "b"),
        ([None, None, None], [10.0, None, 20.0], "c"),  # neither is complete: the table's order
    ],
)
def test_quality_is_loss_then_bleu_then_order(
    dev_losses: list[float | None], bleus: list[float | None], best: str
) -> None:
    """The best point has the lowest dev loss; else the highest BLEU; else it comes last in the table."""
    points = quality_table(dev_losses, bleus)
    reached = {decide_from(active_id, FOUR_CPUS, points=points).point_id for active_id in "abc"}
    assert reached == {best}


def test_equal_quality_is_no_reason_to_move() -> None:
    """A point that is only as good is not stepped up to."""
    points = quality_table([2.0, 2.0, 2.0], [None, None, None])
    assert not decide_from("a", FOUR_CPUS, points=points).changed


def test_the_length_judged_at_can_be_set() -> None:
    """num_tokens replaces the table's reference length."""
    decision = decide_from("p6", FOUR_CPUS, replace(RULES, num_tokens=60))
    assert decision.candidates[2].predicted_ms == pytest.approx(60.0)


# --- the value itself -------------------------------------------------------------------------------------


def test_a_decision_carries_what_it_saw() -> None:
    """The snapshot, its time and every point in the table's order are in the decision."""
    decision = decide_from("p6", FOUR_CPUS)
    assert decision.snapshot is FOUR_CPUS
    assert decision.decided_monotonic_s == FOUR_CPUS.monotonic_s
    assert [candidate.point_id for candidate in decision.candidates] == ["p1", "p3", "p6"]
    assert [candidate.fits for candidate in decision.candidates] == [True, True, True]


@pytest.mark.parametrize("budget_ms", [0.0, -1.0, math.inf, math.nan])
def test_an_impossible_budget_is_refused(budget_ms: float) -> None:
    """A budget must be positive and finite."""
    with pytest.raises(SettingsError, match="latency_budget_ms"):
        GovernorRules(latency_budget_ms=budget_ms)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dead_band_fraction", -0.1),
        ("dead_band_fraction", 1.0),
        ("dead_band_fraction", math.nan),
        ("dwell_s", -1.0),
        ("dwell_s", math.nan),
        ("dwell_s", math.inf),
        ("num_tokens", 0),
    ],
)
def test_impossible_rules_are_refused(field: str, value: float) -> None:
    """Each rule outside its range is an error that names it."""
    with pytest.raises(SettingsError, match=field):
        replace(RULES, **{field: value})


def test_the_governor_imports_no_clock_and_no_torch() -> None:
    """No module of the governor imports torch, time, datetime, asyncio or threading."""
    for file in Path(dynhat_runtime.governor.__path__[0]).glob("*.py"):
        imported: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported.update(alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").split(".")[0])
        assert not imported & {"torch", "time", "datetime", "asyncio", "threading"}, file
