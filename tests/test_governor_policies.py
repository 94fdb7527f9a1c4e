"""Tests of the named policies and of the limits beside latency, rule by rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dynhat_runtime.errors import SettingsError
from dynhat_runtime.governor.decision import Decision
from dynhat_runtime.governor.governor import Governor
from dynhat_runtime.governor.latency_model import LatencyModel
from dynhat_runtime.governor.policy import decide
from dynhat_runtime.governor.rules import POLICIES, GovernorRules
from dynhat_runtime.governor.situation import GovernorState
from dynhat_runtime.governor.slow_down import SlowDown
from dynhat_runtime.operating_point import LatencyMeasurement, OperatingPointTable
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from tests.hand_made import point, row, table, three_points

RULES = GovernorRules(latency_budget_ms=35.0)
FOUR_CPUS = ResourceSnapshot(monotonic_s=100.0, source="test", usable_cpus=(0, 1, 2, 3))
ONE_CPU = replace(FOUR_CPUS, usable_cpus=(0,))


def scored_points() -> OperatingPointTable:
    """p1, p3 and p6 of 10, 20 and 30 ms, with BLEU 20, 25 and 28."""
    return table(
        [
            point(f"p{layers}", [row(4, 30, 30, 1.0, time_ms - 1.0)], num_decoder_layers=layers, bleu=bleu)
            for layers, time_ms, bleu in ((1, 10.0, 20.0), (3, 20.0, 25.0), (6, 30.0, 28.0))
        ]
    )


def decide_from(
    active_id: str,
    snapshot: ResourceSnapshot = FOUR_CPUS,
    points: OperatingPointTable | None = None,
    state: GovernorState | None = None,
    **rules: object,
) -> Decision:
    """The decision with `active_id` active for long, under `RULES` with these changed."""
    state = state or GovernorState(active_id=active_id, since_monotonic_s=0.0)
    changed = replace(RULES, **rules)  # type: ignore[arg-type]
    return decide(
        snapshot, state, changed, LatencyModel(points or three_points(), changed.num_busy_neighbours)
    )


def learned(factor: float, number: int, std: float = 0.02) -> GovernorState:
    """p1 active for long, and this known of the slow-down."""
    belief = SlowDown(log_mean=0.0, log_variance=std**2, noise_variance=0.05**2, num_observed=number)
    return GovernorState(
        active_id="p1",
        since_monotonic_s=0.0,
        slow_down=replace(belief, log_mean=SlowDown.planned(factor, 0.1).log_mean),
    )


# --- names ------------------------------------------------------------------------------------------------------


def test_an_unknown_policy_is_refused() -> None:
    """The error names the policy and lists those there are."""
    with pytest.raises(
        SettingsError, match=r"policy='best' is unknown: choose one of fixed, ladder, predictive"
    ):
        replace(RULES, policy="best")  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", POLICIES)
def test_a_pin_goes_before_every_policy(policy: str) -> None:
    """Under any policy a pinned point runs."""
    state = GovernorState(active_id="p6", since_monotonic_s=0.0, pinned_id="p1")
    decision = decide_from("p6", state=state, policy=policy)
    assert (decision.point_id, decision.mode, decision.policy) == ("p1", "pinned", policy)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("confidence", 0.4),
        ("confidence", 1.0),
        ("confidence", float("nan")),
        ("max_step_ups_per_minute", 0),
        ("beam_size", 0),
        ("min_quality", -1.0),
        ("temperature_limit_celsius", float("nan")),
        ("power_limit_mw", 0.0),
        ("memory_floor_mib", float("inf")),
    ],
)
def test_impossible_limits_are_refused(field: str, value: float) -> None:
    """Each rule outside its range is an error that names it."""
    with pytest.raises(SettingsError, match=field):
        replace(RULES, **{field: value})  # type: ignore[arg-type]


# --- fixed ------------------------------------------------------------------------------------------------------


def test_fixed_runs_the_best_point_whatever_it_takes() -> None:
    """Over budget, hot and on an empty battery, `fixed` runs the best point, and says that it is over."""
    snapshot = replace(ONE_CPU, temperature_celsius=99.0, battery_fraction=0.01, on_battery=True)
    limits = {"temperature_limit_celsius": 80.0, "battery_saver_fraction": 0.2}
    decision = decide_from("p1", snapshot, policy="fixed", **limits)
    assert (decision.point_id, decision.reason_code) == ("p6", "fixed")
    assert "over the budget" in decision.reason


# --- ladder -----------------------------------------------------------------------------------------------------


def test_ladder_learns_nothing() -> None:
    """What translations showed does not move `ladder`; caps do."""
    assert decide_from("p1", state=learned(9.0, 50), policy="ladder").point_id == "p6"
    assert decide_from("p6", ONE_CPU, policy="ladder").point_id == "p1"


# --- predictive -------------------------------------------------------------------------------------------------


def beside(measured: LatencyMeasurement, num_busy_neighbours: int) -> LatencyMeasurement:
    """The measurement as made beside neighbours."""
    return measured.model_copy(update={"num_busy_neighbours": num_busy_neighbours})


def test_unseen_caps_are_planned_with_neighbours_and_seen_ones_are_not() -> None:
    """Before two observations the figures beside neighbours decide; then those without, times the factor."""
    points = table([point("p1", [row(1, 30, 30, 1, 9), beside(row(1, 30, 30, 1, 24), 1)], dev_loss=2.0)])
    plan = decide_from("p1", ONE_CPU, points)
    assert (plan.slow_down_factor, plan.candidates[0].predicted_ms) == pytest.approx((2.5, 25.0))
    assert decide_from("p1", ONE_CPU, points, learned(1.0, 1)).slow_down_factor == pytest.approx(2.5)
    assert decide_from("p1", ONE_CPU, points, learned(1.1, 2)).candidates[0].predicted_ms == pytest.approx(
        11.0
    )
    assert decide_from("p1", ONE_CPU, points, num_busy_neighbours=0).slow_down_factor == pytest.approx(1.0)


def test_a_plan_that_just_fits_is_met_with_the_wanted_confidence() -> None:
    """A planned latency equal to the budget has the wanted confidence as its probability."""
    decision = decide_from("p6", latency_budget_ms=30.0, confidence=0.9)
    assert decision.candidates[2].fits
    assert decision.candidates[2].probability_met == pytest.approx(0.9)
    assert decision.candidates[0].probability_met > 0.99


@pytest.mark.parametrize(("confidence", "point_id"), [(0.5, "p6"), (0.8, "p6"), (0.995, "p3")])
def test_the_confidence_asked_for_decides(confidence: float, point_id: str) -> None:
    """With more confidence asked for, a point further from the budget is chosen."""
    assert decide_from("p1", state=learned(1.0, 50), confidence=confidence).point_id == point_id


@pytest.mark.parametrize(("number", "code"), [(4, "unsettled"), (5, "step_up")])
def test_a_step_up_rests_on_five_observations(number: int, code: str) -> None:
    """With fewer that agree, the step up waits."""
    assert decide_from("p1", state=learned(0.5, number)).reason_code == code


def test_a_point_in_doubt_is_kept_until_five_agree() -> None:
    """A point expected to fit, but not certain to, is left at the fifth observation, not before."""
    few = replace(learned(1.1, 3), active_id="p6")
    decision = decide_from("p6", state=few)
    assert (decision.point_id, decision.reason_code) == ("p6", "unsettled")
    assert decide_from("p6", state=replace(learned(1.1, 5), active_id="p6")).reason_code == "over_budget"


def test_what_is_not_known_widens_the_dead_band() -> None:
    """The same mean and the same probability of a single sentence, but a less certain mean, holds a step up back."""
    assert decide_from("p1", state=learned(0.95, 50, std=0.01)).point_id == "p6"
    assert decide_from("p1", state=learned(0.95, 50, std=0.05)).point_id == "p3"


@pytest.mark.parametrize(("ages_s", "point_id"), [((59, 30, 1), "p1"), ((61, 30, 1), "p6"), ((30, 1), "p6")])
def test_the_switching_rate_is_bounded(ages_s: tuple[float, ...], point_id: str) -> None:
    """After as many steps up within a minute as may be, the next waits until the oldest is a minute old."""
    state = GovernorState(
        active_id="p1", since_monotonic_s=0.0, step_ups_monotonic_s=tuple(100.0 - age_s for age_s in ages_s)
    )
    decision = decide_from("p1", state=state, max_step_ups_per_minute=3)
    assert decision.point_id == point_id
    if point_id == "p1":
        assert (decision.reason_code, decision.dwell_s) == ("switching_rate", pytest.approx(1.0))
        assert "3 steps up within a minute" in decision.reason


def test_the_switching_rate_holds_no_step_down() -> None:
    """Over budget, a step down is taken whatever was stepped up before."""
    state = GovernorState(
        active_id="p6", since_monotonic_s=100.0, step_ups_monotonic_s=(97.0, 98.0, 99.0, 100.0)
    )
    assert decide_from("p6", ONE_CPU, state=state, max_step_ups_per_minute=1).point_id == "p1"


def test_a_step_up_held_back_says_for_how_long() -> None:
    """What is left of the hold is in the decision."""
    state = GovernorState(active_id="p1", since_monotonic_s=96.0, hold_s=5.0)
    decision = decide_from("p1", state=state)
    assert (decision.reason_code, decision.dwell_s) == ("dwell", pytest.approx(1.0))
    assert "stays until it has been active for 5 s" in decision.reason


def test_the_rate_counts_steps_up_of_its_own() -> None:
    """A governor that was moved up and down by caps may not step up a third time within the minute."""
    governor = Governor(three_points(), replace(RULES, max_step_ups_per_minute=2))
    chosen = []
    for number in range(6):
        snapshot = replace(FOUR_CPUS if number % 2 else ONE_CPU, monotonic_s=100.0 + number)
        decision = governor.decide(snapshot)
        governor.became_active(decision.point_id, snapshot.monotonic_s)
        chosen.append(decision.point_id)
    assert chosen == ["p1", "p6", "p1", "p6", "p1", "p1"]


# --- energy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("min_quality", "point_id"), [(None, "p1"), (20.0, "p1"), (24.0, "p3"), (28.0, "p6"), (40.0, "p6")]
)
def test_energy_runs_the_fastest_point_that_is_good_enough(min_quality: float | None, point_id: str) -> None:
    """The fastest with the quality asked for; if none has it, the best there is."""
    decision = decide_from("p3", points=scored_points(), policy="energy", min_quality=min_quality)
    assert (decision.point_id, decision.reason_code) == (point_id, "energy")
    assert ("no operating point has BLEU 40" in decision.reason) == (min_quality == 40.0)


@pytest.mark.parametrize(
    ("battery_fraction", "on_battery", "policy"),
    [
        (0.1, True, "energy"),
        (0.1, False, "predictive"),
        (0.3, True, "predictive"),
        (None, None, "predictive"),
        (0.1, None, "predictive"),
    ],
)
def test_a_low_battery_saves_energy(
    battery_fraction: float | None, on_battery: bool | None, policy: str
) -> None:
    """On battery below the limit, and only then, the policy is `energy`."""
    snapshot = replace(FOUR_CPUS, battery_fraction=battery_fraction, on_battery=on_battery)
    assert decide_from("p6", snapshot, battery_saver_fraction=0.2).policy == policy
    assert decide_from("p6", snapshot).policy == "predictive"


# --- limits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reading", "limit"),
    [
        ({"temperature_celsius": 80.0}, {"temperature_limit_celsius": 80.0}),
        ({"cooling_state_fraction": 0.6}, {"cooling_limit_fraction": 0.5}),
        ({"power_mw": 11_000.0}, {"power_limit_mw": 10_000.0}),
    ],
)
def test_a_limit_reached_steps_down_by_one(reading: dict[str, float], limit: dict[str, float]) -> None:
    """At a limit the next faster point takes over, with the reading in the reason; without the limit nothing moves."""
    snapshot = replace(FOUR_CPUS, **reading)  # type: ignore[arg-type]
    decision = decide_from("p6", snapshot, **limit)
    assert (decision.point_id, decision.reason_code) == ("p3", "headroom")
    assert "the limit of" in decision.reason
    assert decide_from("p6", snapshot).point_id == "p6"


def test_steps_for_a_limit_are_ten_seconds_apart() -> None:
    """Heat follows slowly: the next step waits, and the reason still says why."""
    hot = replace(FOUR_CPUS, temperature_celsius=80.0)
    for age_s, point_id in ((9.0, "p6"), (10.0, "p3")):
        state = GovernorState(active_id="p6", since_monotonic_s=100.0 - age_s)
        decision = decide_from("p6", hot, state=state, temperature_limit_celsius=80.0)
        assert (decision.point_id, decision.reason_code) == (point_id, "headroom")


def test_the_fastest_stays_at_a_limit() -> None:
    """With no faster point to give way to, the active one stays."""
    hot = replace(FOUR_CPUS, temperature_celsius=90.0)
    decision = decide_from("p1", hot, temperature_limit_celsius=80.0)
    assert (decision.point_id, decision.changed) == ("p1", False)


@pytest.mark.parametrize(
    ("reading", "limit", "moves"),
    [
        ({"temperature_celsius": 75.0}, {"temperature_limit_celsius": 80.0}, False),
        ({"temperature_celsius": 74.9}, {"temperature_limit_celsius": 80.0}, True),
        ({"power_mw": 9_500.0}, {"power_limit_mw": 10_000.0}, False),
        ({"power_mw": 8_900.0}, {"power_limit_mw": 10_000.0}, True),
        ({"memory_available_mib": 99.0}, {"memory_floor_mib": 100.0}, False),
        ({"memory_available_mib": 101.0}, {"memory_floor_mib": 100.0}, True),
        ({}, {"temperature_limit_celsius": 80.0, "power_limit_mw": 1.0, "memory_floor_mib": 1.0}, True),
    ],
)
def test_near_a_limit_no_step_up(reading: dict[str, float], limit: dict[str, float], moves: bool) -> None:
    """Near a limit, or short of memory, the active point stays; with room, or without a reading, it steps up."""
    decision = decide_from("p1", replace(FOUR_CPUS, **reading), **limit)  # type: ignore[arg-type]
    assert decision.point_id == ("p6" if moves else "p1")
    assert decision.reason_code == ("step_up" if moves else "no_headroom")


def test_little_memory_steps_nothing_down() -> None:
    """Points share their weights: a step down would free next to nothing, and is not taken."""
    assert (
        decide_from("p6", replace(FOUR_CPUS, memory_available_mib=1.0), memory_floor_mib=100.0).point_id
        == "p6"
    )


@pytest.mark.parametrize("active_id", ["p1", "p3", "p6"])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_point_passed_over_has_a_reason(policy: str, active_id: str) -> None:
    """Each candidate but a chosen one that fits says what speaks against it."""
    for snapshot in (FOUR_CPUS, ONE_CPU, replace(FOUR_CPUS, temperature_celsius=79.0)):
        decision = decide_from(active_id, snapshot, policy=policy, temperature_limit_celsius=80.0)
        for candidate in decision.candidates:
            is_fine = candidate.point_id == decision.point_id and candidate.fits
            assert (candidate.why_not is None) == is_fine


def test_after_a_step_down_a_step_up_waits_unless_the_slow_down_jumped() -> None:
    """Five seconds, as the load may be back; a jump of the slow-down since then says that it has gone."""
    calm = learned(0.5, 5)
    state = replace(calm, since_monotonic_s=96.0, came_down=True)
    decision = decide_from("p1", state=state)
    assert (decision.reason_code, decision.dwell_s) == ("dwell", pytest.approx(1.0))
    assert decide_from("p1", state=replace(state, since_monotonic_s=95.0)).reason_code == "step_up"
    assert calm.slow_down is not None
    jumped = replace(calm.slow_down, jumped_monotonic_s=98.0)
    assert decide_from("p1", state=replace(state, slow_down=jumped)).reason_code == "step_up"


@pytest.mark.parametrize(("losses", "code"), [((3.0, 2.91), "dwell"), ((3.0, 2.89), "step_up")])
def test_a_step_up_for_next_to_nothing_is_in_no_hurry(losses: tuple[float, float], code: str) -> None:
    """Less than a tenth of what the best point is better than the worst: it waits for 15 s."""
    points = table(
        [
            point("small", [row(1, 30, 30, 1, 9)], dev_loss=losses[0]),
            point("little-better", [row(1, 30, 30, 1, 20)], dev_loss=losses[1]),
            point("too-slow", [row(1, 30, 30, 1, 900)], dev_loss=2.0),
        ]
    )
    state = replace(learned(1.0, 50), active_id="small", since_monotonic_s=90.0)
    decision = decide_from("small", ONE_CPU, points, state)
    assert decision.reason_code == code
    if code == "dwell":
        assert decision.dwell_s == pytest.approx(5.0)
        assert "until it has been active for 15 s" in decision.reason


@pytest.mark.parametrize(
    ("came_down", "num_switches", "stays_s"),
    [(False, 0, 6.0), (False, 1, 6.0), (True, 1, 10.0), (True, 2, 15.0), (False, 3, 15.0)],
)
@pytest.mark.parametrize(("more_s", "code"), [(-0.1, "unsettled"), (0.0, "over_budget")])
def test_what_is_only_unsure_is_left_in_its_time(
    came_down: bool, num_switches: int, stays_s: float, more_s: float, code: str
) -> None:
    """After 6 s, after 10 s where it was stepped down to, after 15 s as the third switch of a disturbance: a staircase
    has few steps."""
    since_s = 100.0 - stays_s - more_s
    state = replace(learned(1.1, 50), active_id="p6", since_monotonic_s=since_s, came_down=came_down)
    state = replace(state, num_switches=num_switches)
    assert decide_from("p6", state=state).reason_code == code
