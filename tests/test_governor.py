"""Tests of dynhat_runtime.governor.governor: the governor as the control loop and a replay use it."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from dynhat_runtime.errors import SettingsError, UnknownOperatingPointError
from dynhat_runtime.governor.caps_memory import MAX_REMEMBERED, Caps, CapsMemory
from dynhat_runtime.governor.decision import Decision
from dynhat_runtime.governor.governor import Governor, ObservationResult
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.governor.slow_down import SlowDown
from dynhat_runtime.model.checkpoint import Bundle, shipped_bundle_path
from dynhat_runtime.observation import Observation
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from tests.closed_loop import ONE_CPU as CLOSED_LOOP_ONE_CPU
from tests.closed_loop import TWO_CPUS as CLOSED_LOOP_TWO_CPUS
from tests.closed_loop import ClosedLoop
from tests.hand_made import three_points

FOUR_CPUS = ResourceSnapshot(monotonic_s=100.0, source="test", usable_cpus=(0, 1, 2, 3))
ONE_CPU = replace(FOUR_CPUS, usable_cpus=(0,))
BUDGET_MS = 70.0
BASE_MS = {"p1": 10.0, "p3": 20.0, "p6": 30.0}


@dataclass
class Bench:
    """A governor on a made-up device; its clock runs only as the test says."""

    rules: GovernorRules = field(default_factory=lambda: GovernorRules(latency_budget_ms=BUDGET_MS))
    table: OperatingPointTable = field(default_factory=three_points)
    snapshot: ResourceSnapshot = FOUR_CPUS
    now_s: float = 100.0
    switched_s: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.governor = Governor(self.table, self.rules)

    def decide(self, wait_s: float = 0.25) -> Decision:
        """Let time pass, decide, and carry it out."""
        self.now_s += wait_s
        decision = self.governor.decide(replace(self.snapshot, monotonic_s=self.now_s))
        if decision.changed:
            self.switched_s.append(self.now_s)
            self.governor.became_active(decision.point_id, self.now_s)
        return decision

    def translate(
        self, slow_down: float, *, num_sentences: int = 1, is_canary: bool = False, beam_size: int = 1
    ) -> ObservationResult | None:
        """One batch of 30 to 30 tokens on the active point, `slow_down` times the time on four CPUs."""
        elapsed_ms = BASE_MS[self.governor.active_id] * slow_down
        self.now_s += elapsed_ms / 1e3
        return self.governor.observe(
            Observation(
                monotonic_s=self.now_s,
                point_id=self.governor.active_id,
                num_sentences=num_sentences,
                num_src_tokens=30,
                num_tgt_tokens=30,
                beam_size=beam_size,
                elapsed_ms=elapsed_ms,
                is_canary=is_canary,
            )
        )

    def work(self, slow_down: float, number: int, *, is_canary: bool = False) -> Decision:
        """Translate and decide in turn; the last decision."""
        for _ in range(number):
            self.translate(slow_down, is_canary=is_canary)
            decision = self.decide()
        return decision


@pytest.fixture
def bench() -> Bench:
    """Four CPUs, a budget of 70 ms, p6 running as the table says for a while."""
    bench = Bench()
    bench.decide()
    bench.work(1.0, 20)
    return bench


# --- a slow-down nobody announces -------------------------------------------------------------------------------


def test_a_slow_down_steps_down_within_three_translations(bench: Bench) -> None:
    """Three translations at three times the time are enough to leave a point that no longer fits."""
    decision = bench.work(3.0, 3)
    assert (decision.point_id, bench.governor.active_id) == ("p3", "p3")
    assert decision.slow_down_factor == pytest.approx(3.0, rel=0.05)


def test_what_one_point_shows_holds_for_all(bench: Bench) -> None:
    """After translations on p6 alone, the others' predictions have slowed down, too."""
    bench.work(3.0, 3)
    predicted = {candidate.point_id: candidate.predicted_ms for candidate in bench.decide().candidates}
    assert predicted == pytest.approx({"p1": 30.0, "p3": 60.0, "p6": 90.0}, rel=0.05)


def test_a_single_outlier_does_not_switch(bench: Bench) -> None:
    """One translation at eight times the time moves nothing, nor do ordinary ones after it."""
    assert bench.work(8.0, 1).point_id == "p6"
    assert bench.work(1.0, 10).point_id == "p6"
    assert bench.switched_s == []


def test_the_best_point_comes_back_in_one_step(bench: Bench) -> None:
    """When the slow-down ends, translations bring the best point back, without a stop on the way."""
    bench.work(6.0, 10)
    assert bench.governor.active_id == "p1"
    bench.switched_s.clear()
    bench.work(1.0, 10)
    assert bench.governor.active_id == "p6"
    assert len(bench.switched_s) == 1


def test_a_step_up_waits_until_translations_agree(bench: Bench) -> None:
    """Two good translations are not enough for a step up, and the decision says what it waits for."""
    bench.work(6.0, 10)
    decision = bench.work(1.0, 3)
    assert (decision.point_id, decision.reason_code) == ("p1", "unsettled")
    assert "until more translations agree" in decision.reason


def test_confidence_keeps_a_distance_that_grows_with_the_noise() -> None:
    """At the same mean, a device whose translations spread more gets a faster point."""
    chosen = []
    for noise in (0.02, 0.35):
        bench, rng = Bench(), random.Random(1)
        bench.decide()
        for _ in range(150):
            bench.translate(1.75 * math.exp(rng.gauss(0, noise)))
            bench.decide()
        chosen.append(bench.decide())
    assert [decision.point_id for decision in chosen] == ["p6", "p3"]
    too_close = chosen[1].candidates[2]
    assert too_close.predicted_ms < BUDGET_MS
    assert too_close.probability_met < 0.95
    assert "with a probability of" in (too_close.why_not or "")


@pytest.mark.parametrize("seed", range(6))
def test_lacking_confidence_leads_down_one_step_in_six_seconds(seed: int) -> None:
    """A point expected to meet the budget is not left downwards within 6 s; one expected to miss it is at once."""
    loop, told = ClosedLoop(seed, noise=0.2), []
    loop.run(15.0, CLOSED_LOOP_TWO_CPUS)
    loop.run(25.0, CLOSED_LOOP_ONE_CPU, lambda base_ms: 2.4 * base_ms, told)
    switched_s = -math.inf
    for decision in (each for each in told if each.changed):
        predicted_ms = {each.point_id: each.predicted_ms for each in decision.candidates}
        is_down = predicted_ms[decision.point_id] < predicted_ms[decision.active_id]
        if is_down and predicted_ms[decision.active_id] <= decision.latency_budget_ms:
            assert decision.decided_monotonic_s - switched_s >= 6.0
        switched_s = decision.decided_monotonic_s
    assert switched_s > 0


def test_a_step_up_taken_back_makes_the_next_one_wait_longer(bench: Bench) -> None:
    """A load that returns right after a step up holds the next one back, twice as long each time; other caps do not."""
    bench.work(6.0, 10)
    holds_s = []
    for _ in range(3):
        while bench.governor.active_id == "p1":
            bench.work(1.0, 1)
        bench.work(1.0, 32)  # more than 8 s: what follows is another disturbance
        while bench.governor.active_id != "p1":
            decision = bench.work(6.0, 1)
        assert decision.changed
        holds_s.append(bench.decide(wait_s=0.0).dwell_s)
    assert holds_s == pytest.approx([5.0, 10.0, 20.0])
    bench.snapshot = ONE_CPU
    assert bench.decide(wait_s=0.0).dwell_s <= 0.5


def test_a_disturbance_is_worth_two_switches(bench: Bench) -> None:
    """Down and up again within 8 s, and down: the next step up waits for 15 s; other caps end that."""
    bench.work(6.0, 4)
    while bench.governor.active_id == "p1":
        bench.work(1.0, 1)
    while bench.governor.active_id != "p1":
        bench.work(6.0, 1)
    assert len(bench.switched_s) == 3
    assert bench.switched_s[2] - bench.switched_s[0] < 8.0
    assert bench.decide(wait_s=0.0).dwell_s == pytest.approx(15.0)
    bench.snapshot = ONE_CPU
    assert bench.decide(wait_s=0.0).dwell_s <= 0.5


def beside_hogs(base_ms: float, rng: random.Random) -> float:
    """What a translation takes on CPUs that busy processes share: before each 3 ms of work it may have to wait."""
    own_ms = 1.45 * base_ms * math.exp(rng.gauss(0, 0.1))
    waits = sum(rng.random() < 0.5 for _ in range(int(own_ms / 3.0) + 2))
    return own_ms + sum(3.0 * rng.lognormvariate(-0.6, 1.1) for _ in range(waits))


def test_busy_neighbours_nobody_announces_cost_two_switches_at_most() -> None:
    """Under the same caps, waits of chance are no staircase, and no point comes back at once."""
    num_switches, over = [], []
    for seed in range(16):
        loop, rng = ClosedLoop(seed, noise=0.0, budget_ms=45.0), random.Random(seed)
        loop.run(15.0, CLOSED_LOOP_TWO_CPUS, lambda base_ms: 1.45 * base_ms)
        left = [loop.governor.active_id]
        served = loop.run(13.0, CLOSED_LOOP_TWO_CPUS, lambda base_ms, rng=rng: beside_hogs(base_ms, rng))
        over.append(loop.over_budget_fraction(served))
        num_switches.append(len(loop.switched))
        left += [point_id for _, point_id in loop.switched]
        for number, (back_s, point_id) in enumerate(loop.switched):
            lately = [i for i in range(number) if back_s - loop.switched[i][0] < 5.0]
            assert all(left[i] != point_id for i in lately)
    assert max(num_switches) <= 2
    assert sum(num_switches) <= 24
    assert sum(over) / len(over) <= 0.065


# --- caps -------------------------------------------------------------------------------------------------------


def test_lost_cpus_step_down_though_translations_were_quick() -> None:
    """What was learned on four CPUs is not believed of one: the table's figures for one CPU decide at once."""
    bench = Bench(GovernorRules(latency_budget_ms=35.0))
    bench.decide()
    bench.work(0.2, 20)
    bench.snapshot = ONE_CPU
    decision = bench.decide()
    assert (decision.point_id, decision.slow_down_factor) == ("p1", pytest.approx(1.0))


@pytest.mark.parametrize(
    "less", [{"usable_cpus": (0,)}, {"cpu_quota_cpus": 0.9}, {"cpu_max_frequency_hz": 1e9}]
)
def test_less_is_not_believed_faster(bench: Bench, less: dict[str, object]) -> None:
    """A device that was slow keeps its slow-down when its caps fall, seen before or not; one that rises does not."""
    for _ in range(2):
        bench.snapshot = FOUR_CPUS
        bench.work(6.0, 30)
        assert bench.governor.active_id == "p1"
        bench.snapshot = replace(FOUR_CPUS, **less)  # type: ignore[arg-type]
        fallen = bench.decide()
        assert (fallen.point_id, fallen.changed) == ("p1", False)
        assert fallen.slow_down_factor == pytest.approx(6.0, rel=0.05)
        bench.work(1.0, 30)
    bench.snapshot = replace(FOUR_CPUS, usable_cpus=(0, 1, 2, 3, 4))
    assert bench.decide().slow_down_factor == pytest.approx(1.0)


def test_a_device_slower_than_its_table_is_so_under_new_caps(bench: Bench) -> None:
    """Caps never seen, neither less nor more, are planned with the least slow-down seen so far, not with none."""
    bench.work(2.4, 30)
    bench.snapshot = replace(FOUR_CPUS, usable_cpus=(4, 5, 6, 7))
    assert bench.decide().slow_down_factor == pytest.approx(2.4, rel=0.05)
    bench.work(6.0, 30)
    bench.snapshot = replace(FOUR_CPUS, usable_cpus=(0, 1, 2, 3, 4), cpu_quota_cpus=0.9)
    assert bench.decide().slow_down_factor == pytest.approx(2.4, rel=0.05)


def test_a_device_faster_than_its_table_is_planned_by_the_table(bench: Bench) -> None:
    """That it was faster elsewhere promises nothing."""
    bench.work(0.5, 30)
    bench.snapshot = replace(FOUR_CPUS, usable_cpus=(4, 5, 6, 7))
    assert bench.decide().slow_down_factor == pytest.approx(1.0)


def test_a_carried_slow_down_ends_with_what_is_observed(bench: Bench) -> None:
    """Where the load has gone with the caps, ordinary translations, or two quick canaries, bring the plan's point."""
    for is_canary in (False, True):
        bench.snapshot = FOUR_CPUS
        bench.work(6.0, 30)
        bench.snapshot = ONE_CPU if is_canary else replace(FOUR_CPUS, cpu_quota_cpus=0.9)
        assert bench.decide().slow_down_factor == pytest.approx(6.0, rel=0.05)
        bench.work(2.0, 3 if is_canary else 20, is_canary=is_canary)
        assert bench.decide().slow_down_factor == pytest.approx(1.0, rel=0.05)
        assert bench.governor.active_id != "p1"


def test_known_caps_start_from_what_was_learned_there(bench: Bench) -> None:
    """Back on caps seen before, the first decision knows the slow-down, less certain for the time away."""
    bench.work(2.0, 20)
    learned = bench.decide()
    bench.snapshot = ONE_CPU
    bench.decide()
    bench.snapshot = FOUR_CPUS
    back = bench.decide(wait_s=60.0)
    assert back.slow_down_factor == pytest.approx(learned.slow_down_factor, rel=0.01)
    assert back.slow_down_std > learned.slow_down_std


def test_a_step_down_by_memory_is_not_taken_back_at_once(bench: Bench) -> None:
    """Back on caps remembered as slow, ten seconds pass before quicker translations lead up again."""
    bench.snapshot = ONE_CPU
    bench.work(3.0, 30)
    bench.snapshot = FOUR_CPUS
    bench.work(1.0, 60)
    assert bench.governor.active_id == "p6"
    bench.snapshot, bench.switched_s = ONE_CPU, []
    bench.work(1.0, 60)
    down_s, up_s = bench.switched_s[:2]
    assert up_s - down_s >= 10.0


def test_a_translation_from_before_the_change_teaches_nothing(bench: Bench) -> None:
    """A batch that began under the former caps is predicted, and not learned from."""
    bench.snapshot = ONE_CPU
    bench.now_s -= 0.25
    bench.decide()
    bench.now_s += 0.001
    before = bench.decide(wait_s=0.0)
    late = Observation(
        monotonic_s=bench.now_s,
        point_id="p6",
        num_sentences=1,
        num_src_tokens=30,
        num_tgt_tokens=30,
        beam_size=1,
        elapsed_ms=30.0,
    )
    result = bench.governor.observe(late)
    assert result is not None
    assert not result.is_learned
    assert bench.decide(wait_s=0.0).candidates == before.candidates


def test_a_change_felt_before_it_is_seen_does_not_spoil_the_memory(bench: Bench) -> None:
    """Slow translations in the moment between losing CPUs and seeing it are not remembered of the former caps."""
    before = bench.decide()
    bench.translate(4.0)
    bench.translate(4.0)
    bench.snapshot = ONE_CPU
    bench.decide()
    bench.snapshot = FOUR_CPUS
    assert bench.decide().slow_down_factor == pytest.approx(before.slow_down_factor, rel=0.02)


def test_the_memory_of_caps_is_bounded() -> None:
    """Of many sets of caps the last sixteen are remembered, each with its own belief."""
    memory = CapsMemory()
    caps = [Caps.of(replace(FOUR_CPUS, power_mode=str(number))) for number in range(MAX_REMEMBERED + 4)]
    for number, each in enumerate(caps):
        memory.leave(each, SlowDown.planned(1.0 + number, 0.1).updated(1.0 + number, 0.0), 1.0, 0.0)
    known = [memory.returned_to(each, 1.0) for each in caps]
    assert known[:4] == [None] * 4
    assert [belief.factor for belief in known[4:] if belief] == pytest.approx([5.0 + n for n in range(16)])


def test_momentary_readings_are_no_caps() -> None:
    """Clock, load, heat and power of the moment do not make other caps; each cap does."""
    momentary = replace(
        FOUR_CPUS, cpu_current_frequency_hz=1e8, cpu_load_fraction=0.5, temperature_celsius=80.0, power_mw=1.0
    )
    assert Caps.of(momentary) == Caps.of(FOUR_CPUS)
    others: list[dict[str, object]] = [
        {"usable_cpus": (0,)},
        {"cpu_quota_cpus": 0.5},
        {"cpu_max_frequency_hz": 1e9},
        {"gpu_max_frequency_hz": 1e9},
        {"power_mode": "5W"},
    ]
    assert len({Caps.of(replace(FOUR_CPUS, **other)) for other in others} | {Caps.of(FOUR_CPUS)}) == 6  # type: ignore[arg-type]


# --- idle -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slow_down", [1.0, 3.0, 6.0])
def test_an_idle_gap_moves_nothing(bench: Bench, slow_down: float) -> None:
    """Ten minutes without a translation, clocks at their lowest, leave point and belief, whatever was learned."""
    bench.work(slow_down, 30)
    before = bench.decide()
    bench.snapshot = replace(FOUR_CPUS, cpu_current_frequency_hz=1e8, cpu_load_fraction=0.0)
    for _ in range(600):
        after = bench.decide(wait_s=1.0)
        assert (after.point_id, after.changed) == (before.point_id, False)
    assert (after.slow_down_factor, after.slow_down_std) == (before.slow_down_factor, before.slow_down_std)


def test_other_caps_want_canaries_until_three_were_seen(bench: Bench) -> None:
    """After a change of caps canaries are wanted, three translations calibrate, and then none is."""
    assert not bench.decide().wants_canary
    bench.snapshot = ONE_CPU
    assert bench.decide().wants_canary
    assert bench.work(4.0, 2, is_canary=True).wants_canary
    assert not bench.work(4.0, 1, is_canary=True).wants_canary


def test_canaries_step_down_where_the_table_was_too_hopeful(bench: Bench) -> None:
    """Without traffic, canaries slower than planned lead to a faster point under other caps."""
    bench.snapshot = replace(FOUR_CPUS, power_mode="5W")
    assert bench.decide().point_id == "p6"
    assert bench.work(3.0, 3, is_canary=True).point_id in {"p1", "p3"}


def test_canaries_bring_back_a_point_that_a_past_load_took(bench: Bench) -> None:
    """After a load has gone and traffic too, a canary is wanted, and two quick ones put the plan back."""
    bench.work(6.0, 20)
    assert bench.governor.active_id == "p1"
    assert not bench.decide().wants_canary
    assert bench.decide(wait_s=6.0).wants_canary
    assert bench.work(1.0, 1, is_canary=True).point_id == "p1"
    assert bench.work(1.0, 2, is_canary=True).point_id == "p6"


def test_a_canary_does_not_prove_the_neighbours_away() -> None:
    """On one CPU planned to be shared, quick canaries leave the plan, quick translations of traffic refute it."""
    table = Bundle.open(shipped_bundle_path()).table()
    rules = GovernorRules(latency_budget_ms=table.default_latency_budget_ms)
    ends = []
    for is_canary in (True, False):
        governor, now_s = Governor(table, rules), 0.0
        for _ in range(40):
            now_s += 2.0
            decision = governor.decide(ResourceSnapshot(monotonic_s=now_s, source="test", usable_cpus=(0,)))
            governor.became_active(decision.point_id, now_s)
            alone_ms = next(
                row.total_ms
                for row in table[decision.point_id].latencies
                if (row.num_cpus, row.num_busy_neighbours, row.num_src_tokens) == (1, 0, 30)
            )
            governor.observe(
                Observation(
                    monotonic_s=now_s + 1.0,
                    point_id=decision.point_id,
                    num_sentences=1,
                    num_src_tokens=30,
                    num_tgt_tokens=30,
                    beam_size=4,
                    elapsed_ms=alone_ms,
                    is_canary=is_canary,
                )
            )
        ends.append(decision.point_id)
    assert ends[0] != table.best.id
    assert ends[1] == table.best.id


@pytest.mark.parametrize("policy", ["fixed", "ladder", "energy"])
def test_policies_that_do_not_learn_want_no_canary(policy: str) -> None:
    """Only the predictive policy asks for canaries."""
    bench = Bench(GovernorRules(latency_budget_ms=BUDGET_MS, policy=policy))  # type: ignore[arg-type]
    assert not bench.decide().wants_canary


def test_a_pinned_point_wants_no_canary(bench: Bench) -> None:
    """A pin stands whatever a canary would tell."""
    bench.governor.pin("p1")
    bench.snapshot = ONE_CPU
    assert not bench.decide().wants_canary


# --- observations -----------------------------------------------------------------------------------------------


def test_predicted_beside_actual(bench: Bench) -> None:
    """Each batch is predicted by what was believed before it."""
    result = bench.translate(1.5)
    assert result is not None
    assert (result.predicted_ms, result.actual_ms) == (pytest.approx(30.0, rel=0.01), pytest.approx(45.0))
    assert result.error_fraction == pytest.approx(-1 / 3, rel=0.02)
    assert result.is_learned


def test_nothing_is_expected_before_the_first_snapshot() -> None:
    """Without caps known, an observation is neither predicted nor learned from."""
    assert Bench().translate(1.0) is None


def test_another_beam_teaches_nothing(bench: Bench) -> None:
    """Translations with a beam that the figures are not for are left out."""
    before = bench.decide(wait_s=0.0)
    assert bench.translate(9.0, beam_size=8) is None
    assert bench.translate(9.0, beam_size=8) is None
    assert bench.decide(wait_s=0.0).candidates == before.candidates


def test_batches_do_not_pass_for_a_slow_device(bench: Bench) -> None:
    """Batches of eight that take 1.35 times what was expected end up in the growth, not in the slow-down."""
    growth = 1 + 0.55 * 7
    for _ in range(40):
        bench.translate(growth, num_sentences=8)
        bench.decide()
        bench.translate(1.0)
        bench.decide()
    assert bench.decide().slow_down_factor == pytest.approx(1.0, rel=0.06)
    result = bench.translate(growth, num_sentences=8)
    assert result is not None
    assert abs(result.error_fraction) < 0.1


# --- as a whole -------------------------------------------------------------------------------------------------


def random_device(
    seed: int, act: Callable[[Bench, float], None], minutes: float = 10.0
) -> tuple[Bench, list[float]]:
    """Ten virtual minutes of translations with 15 % noise under randomly drawn loads and caps."""
    rng, bench = random.Random(seed), Bench(GovernorRules(latency_budget_ms=45.0))
    load, next_s, disturbed_s = 1.0, 110.0, [100.0]
    while bench.now_s < 100.0 + 60 * minutes:
        if bench.now_s >= next_s:
            disturbed_s.append(bench.now_s)
            next_s = bench.now_s + rng.uniform(10, 40)
            if rng.random() < 0.5:
                load = rng.choice([1.0, 1.3, 2.0, 3.0])
            else:
                bench.snapshot = rng.choice([FOUR_CPUS, ONE_CPU, replace(FOUR_CPUS, cpu_quota_cpus=1.5)])
        num_cpus = bench.snapshot.effective_cpus or 4.0
        by_caps = {1.0: 2.0, 1.5: 14 / 9, 4.0: 1.0}[num_cpus]  # as the table's rows say
        act(bench, load * by_caps * math.exp(rng.gauss(0, 0.15)))
    return bench, disturbed_s


def work(bench: Bench, slow_down: float) -> None:
    """Translate, then decide."""
    bench.translate(slow_down)
    bench.decide(wait_s=0.15)


@pytest.mark.parametrize("seed", range(6))
def test_random_disturbances_do_not_make_it_flap(seed: int) -> None:
    """In ten minutes at 15 % noise there are no more than two switches per disturbance, and never four in 10 s."""
    bench, disturbed_s = random_device(seed, work)
    assert len(bench.switched_s) <= 2 * len(disturbed_s)
    fourth_later_s = [
        later - sooner for sooner, later in zip(bench.switched_s, bench.switched_s[3:], strict=False)
    ]
    assert all(interval_s > 10.0 for interval_s in fourth_later_s)


def test_the_same_calls_give_the_same_answers() -> None:
    """Two governors that are told the same say the same, to the last byte."""
    logs: list[list[str]] = []
    for _ in range(2):
        log: list[str] = []

        def work_and_log(bench: Bench, slow_down: float, log: list[str] = log) -> None:
            bench.translate(slow_down)
            log.append(json.dumps(bench.decide(wait_s=0.15).as_dict(), allow_nan=False))

        random_device(3, work_and_log, minutes=1.0)
        logs.append(log)
    assert len(logs[0]) > 100
    assert logs[0] == logs[1]


def test_a_decision_as_json_has_what_led_to_it(bench: Bench) -> None:
    """as_dict is ready for JSON and has policy, belief, remaining dwell, snapshot and every candidate's figures."""
    said = json.loads(json.dumps(bench.decide().as_dict(), allow_nan=False))
    assert said["policy"] == "predictive"
    assert said["snapshot"]["effective_cpus"] == 4
    assert {
        "slow_down_factor",
        "slow_down_std",
        "dwell_s",
        "confidence",
        "reason",
        "wants_canary",
    } <= said.keys()
    assert said["candidates"][0].keys() == {
        "point_id", "predicted_ms", "fits", "why_not", "probability_met", "bleu",
    }  # fmt: skip


def test_unknown_points_are_refused(bench: Bench) -> None:
    """A pin or a first point that the table lacks is an error; an observation of one is passed over."""
    with pytest.raises(UnknownOperatingPointError, match="p9"):
        bench.governor.pin("p9")
    assert bench.governor.pinned_id is None


def test_a_quality_that_the_table_does_not_state_is_refused() -> None:
    """Rules that ask for BLEU of a table without are an error at the start, not at the first decision."""
    with pytest.raises(SettingsError, match="min_quality=20"):
        Governor(three_points(), GovernorRules(latency_budget_ms=35.0, min_quality=20.0))
