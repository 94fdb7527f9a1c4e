"""A decision said again for as long as nothing that it rests on has changed: most passes of a daemon at rest.

Decides nothing of its own: what it says is what `policy.decide` would say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dynhat_runtime.governor.decision import Decision, ReasonCode
from dynhat_runtime.governor.headroom import Headroom, headroom_of
from dynhat_runtime.governor.latency_model import LatencyModel
from dynhat_runtime.governor.policy import decide
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.governor.situation import GovernorState
from dynhat_runtime.resource_snapshot import ResourceSnapshot

ENDED_BY_TIME: frozenset[ReasonCode] = frozenset({"headroom", "dwell", "switching_rate", "unsettled"})
"""Reasons that stand for a while only; time makes the others no less true."""


@dataclass(frozen=True, slots=True)
class _Grounds:
    """What a decision rests on, beside rules, table and time."""

    state: GovernorState
    resources: tuple[object, ...]
    headroom: Headroom

    @classmethod
    def of(cls, snapshot: ResourceSnapshot, state: GovernorState, rules: GovernorRules) -> _Grounds:
        """Those of a decision on `snapshot`: the caps, and what the limits say of the other readings."""
        resources = (
            snapshot.usable_cpus,
            snapshot.online_cpus,
            snapshot.cpu_quota_cpus,
            snapshot.cpu_quota_period_ms,
            snapshot.cpu_max_frequency_hz,
            snapshot.gpu_max_frequency_hz,
        )
        return cls(state, resources, headroom_of(snapshot, rules))


class SteadyDecision:
    """Decides by one set of rules and one model. Remembers its last decision, and nothing else."""

    def __init__(self, rules: GovernorRules, model: LatencyModel) -> None:
        """Begin with nothing decided."""
        self._rules = rules
        self._model = model
        self._last: tuple[_Grounds, Decision] | None = None

    def decide(self, snapshot: ResourceSnapshot, state: GovernorState) -> Decision:
        """What `policy.decide` says of these.

        Raises:
            UnknownOperatingPointError: The active or the pinned point is not in the table.
        """
        grounds = _Grounds.of(snapshot, state, self._rules)
        if self._last is not None and self._last[0] == grounds and _stands(self._last[1]):
            return replace(self._last[1], snapshot=snapshot, decided_monotonic_s=snapshot.monotonic_s)
        decision = decide(snapshot, state, self._rules, self._model)
        self._last = grounds, decision
        return decision


def _stands(decision: Decision) -> bool:
    """Nothing in it runs out."""
    return decision.dwell_s == 0.0 and decision.reason_code not in ENDED_BY_TIME
