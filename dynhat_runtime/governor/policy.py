"""The governor's one decision: which operating point to run. Four policies, by name.

Pure: the same arguments give the same decision. Judges by caps (usable CPUs, quota, the clock's ceiling) and by what
translations took, never by momentary clock, load or pressure. Acts on nothing and remembers nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from dynhat_runtime.governor.decision import Candidate, Decision, Mode, ReasonCode
from dynhat_runtime.governor.forecast import Forecast
from dynhat_runtime.governor.headroom import headroom_of
from dynhat_runtime.governor.latency_model import LatencyModel
from dynhat_runtime.governor.reasons import Words
from dynhat_runtime.governor.rules import GovernorRules, PolicyName
from dynhat_runtime.governor.situation import GovernorState, Situation
from dynhat_runtime.resource_snapshot import ResourceSnapshot

__all__ = ["Candidate", "Decision", "GovernorRules", "GovernorState", "Mode", "PolicyName", "decide"]

Verdict = tuple[str, ReasonCode]
"""The point chosen, and the rule that chose it."""


def decide(
    snapshot: ResourceSnapshot,
    state: GovernorState,
    rules: GovernorRules,
    model: LatencyModel,
) -> Decision:
    """Choose the operating point for the resources in `snapshot`.

    A pinned point is chosen whatever the policy says; then the policy decides.

    Args:
        snapshot: The resources; its `monotonic_s` is the decision's time.
        state: The active point, since when, whether a point is pinned, and what was learned.
        rules: Policy, budget, limits, and how calmly to move.
        model: Predicts the latency of every point of its table.

    Raises:
        UnknownOperatingPointError: The active or the pinned point is not in the table.
    """
    headroom = headroom_of(snapshot, rules)
    policy: PolicyName = "energy" if headroom.saves_battery and rules.policy != "fixed" else rules.policy
    # Only `predictive` learns: the others judge by what is planned for, always.
    learned, plan_at_least = (state.slow_down, state.plan_at_least) if policy == "predictive" else (None, 1.0)
    forecast = Forecast.of(
        model,
        snapshot,
        learned,
        confidence=rules.confidence,
        plan_at_least=plan_at_least,
        handling_ms=state.handling.mean_ms if policy == "predictive" else 0.0,
    )
    situation = Situation.of(forecast, state, rules, headroom)
    if state.pinned_id is not None:
        return _said(situation, policy, model.table[state.pinned_id].id, "pinned")
    return _said(situation, policy, *_POLICIES[policy](situation))


# fixed
#   1  The best-quality point, whatever it takes. Budget, caps, limits and battery are not looked at.
def _fixed(situation: Situation) -> Verdict:
    return situation.table.best.id, "fixed"


# ladder: steps of caps alone; nothing is learned. First match decides:
#   1  The active point is over the budget            -> at once the best-quality point that fits;
#                                                        if none fits, the fastest point.
#   2  A limit of heat or power is reached            -> the next faster point, at most one in 10 s.
#   3  A better point fits even with the dead band    -> the best such point, unless one of these holds:
#        a  the active one has not stayed for the dwell,
#        b  there were as many steps up within 60 s as may be,
#        c  a limit is reached or near.
#   4  Otherwise                                      -> stay.
#
# Quality is the lowest dev loss; for a table without, the highest BLEU; for a table with neither, the order of the
# table, later being better. A momentary clock, load or pressure is never looked at: boards clock down when idle, and
# an idle gap must not look like a slow device.
#
# predictive: the same rules with what was learned. Until two translations under these caps were seen, a point fits
# if what is planned for fits: the table's figures beside busy neighbours, or at the slow-down believed under the
# former caps if these have fallen from there and that was worse. From then on:
#   -  A point fits if the probability of meeting the budget is at least the confidence, by the slow-down's mean and
#      variance and the noise of single translations.
#   1a The active point would meet the budget as expected, and only lacks the confidence while fewer than five
#      observations agree                             -> stay for the moment.
#   1b Likewise while it has been active for less than 6 s, or 10 s where it was stepped down to: what is only unsure
#      leads down one step at a time.
#   -  What requests took besides being decoded is added.
#   -  The dead band is widened by three standard deviations of the slow-down: what is not known must not swing.
#   3d A step up waits until five observations agree, the latest among them; 20 where a still better point would fit
#      if more were certain, so that one step does for two.
#   3e After a step up the next one waits for 15 s. One that had to be taken back within 30 s makes the next wait 5 s,
#      twice as long each time, at most 60 s. Other caps end both. After a step down by what is remembered of caps
#      that are back, 10 s.
#   3f After a step down on what was learned a step up waits for 5 s, unless the slow-down has jumped since.
#   3g A step up that gains less than a tenth of what the best point is better than the worst waits for 15 s.
#   1c, 3h After two switches since the last disturbance (other caps, or a jump of the slow-down) both wait for 15 s:
#      the step down from a point that is only unsure, and the step up.
# No belief changes while nothing is observed: an idle gap moves nothing. A low point gets another chance by a
# canary sentence, which the governor asks for.
def _ladder(situation: Situation) -> Verdict:
    active = situation.active_id
    if situation.is_in_doubt(active):
        return active, "unsettled"
    if situation.is_unsure(active) and not situation.is_left_when_unsure:
        return active, "unsettled"
    if not situation.fits(active):
        if situation.fitting:
            return situation.best_of(situation.fitting), "over_budget"
        return situation.fastest_of(situation.point_ids), "nothing_fits"
    if situation.headroom.over is not None and situation.faster:
        may_step = situation.has_been_active_s >= situation.LIMIT_STEP_S
        return (situation.best_of(situation.faster) if may_step else active), "headroom"
    if not situation.step_up:
        return active, "dead_band" if situation.better else "best_fits"
    if situation.headroom.near is not None:
        return active, "no_headroom"
    if not situation.is_settled:
        return active, "unsettled"
    if situation.dwell_left_s > 0:
        return active, "dwell"
    if situation.rate_wait_s > 0:
        return active, "switching_rate"
    return situation.best_of(situation.step_up), "step_up"


# energy
#   1  The fastest of the points that have the minimal quality (BLEU); of all points where none is asked for.
#   2  If no point has it: the best-quality point.
# The points run on the same cores at about the same power, so the least time is the least energy per sentence, with
# and without a power sensor; and what is fastest keeps the budget if anything does.
def _energy(situation: Situation) -> Verdict:
    good = situation.with_quality
    return (situation.fastest_of(good) if good else situation.table.best.id), "energy"


_POLICIES: dict[PolicyName, Callable[[Situation], Verdict]] = {
    "fixed": _fixed,
    "ladder": _ladder,
    "predictive": _ladder,
    "energy": _energy,
}


def _said(situation: Situation, policy: PolicyName, chosen: str, code: ReasonCode) -> Decision:
    """The verdict with everything needed to see why."""
    words = Words(situation)
    state, forecast, rules = situation.state, situation.forecast, situation.rules
    return Decision(
        point_id=chosen,
        active_id=state.active_id,
        changed=chosen != state.active_id,
        mode="auto" if state.pinned_id is None else "pinned",
        policy=policy,
        reason=words.reason(code, chosen),
        reason_code=code,
        candidates=tuple(
            Candidate(
                point_id=point.id,
                predicted_ms=situation.predicted_ms[point.id],
                fits=situation.fits(point.id),
                why_not=words.why_not(point.id, code, chosen),
                probability_met=situation.probability_met(point.id),
                bleu=point.bleu,
            )
            for point in situation.table
        ),
        latency_budget_ms=rules.latency_budget_ms,
        confidence=rules.confidence,
        slow_down_factor=forecast.slow_down.factor,
        slow_down_std=forecast.slow_down.std,
        handling_ms=forecast.handling_ms,
        dwell_s=situation.wait_s,
        snapshot=forecast.snapshot,
        decided_monotonic_s=forecast.snapshot.monotonic_s,
    )
