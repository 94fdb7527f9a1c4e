"""What the governor says: the point to run, and everything needed to see why. Values only; decides nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from dynhat_runtime.governor.rules import PolicyName
from dynhat_runtime.resource_snapshot import ResourceSnapshot

Mode = Literal["auto", "pinned"]
ReasonCode = Literal[
    "pinned",
    "fixed",
    "energy",
    "over_budget",
    "nothing_fits",
    "headroom",
    "step_up",
    "dwell",
    "switching_rate",
    "unsettled",
    "no_headroom",
    "dead_band",
    "best_fits",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One point as the decision saw it."""

    point_id: str
    predicted_ms: float
    """Of a sentence of the reference length, under these caps and at this slow-down."""
    fits: bool
    """Meets the latency budget with the wanted confidence."""
    why_not: str | None
    """What speaks against it; None for a chosen point that fits."""
    probability_met: float
    """Of meeting the budget."""
    bleu: float | None = None
    """Quality as the table states it; None where nobody measured it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The point to run from now on, and everything needed to see why."""

    point_id: str
    active_id: str
    """The point that was active when it was decided."""
    changed: bool
    """Another point than the one active when it was decided."""
    mode: Mode
    policy: PolicyName
    reason: str
    """One sentence with numbers, for people."""
    reason_code: ReasonCode
    """The rule that decided, for programs."""
    candidates: tuple[Candidate, ...]
    """Every point of the table, in its order."""
    latency_budget_ms: float
    confidence: float
    """Probability with which a point has to meet the budget."""
    slow_down_factor: float
    """Of everything against the table's figures; planned, while nothing was observed under these caps."""
    slow_down_std: float
    """Of its logarithm; about the relative error."""
    handling_ms: float
    """What requests take besides being decoded; part of every prediction."""
    dwell_s: float
    """Time left before a step up may be taken; 0 when it may."""
    snapshot: ResourceSnapshot
    decided_monotonic_s: float
    wants_canary: bool = False
    """The device's speed is in doubt while nobody asks for anything: a sentence of our own would tell."""

    def as_dict(self) -> dict[str, object]:
        """All fields, ready for JSON."""
        # Field by field: asdict alone would lose what the snapshot adds of its own.
        own = {name: getattr(self, name) for name in self.__slots__ if name not in ("snapshot", "candidates")}
        candidates = [asdict(candidate) for candidate in self.candidates]
        return {**own, "candidates": candidates, "snapshot": self.snapshot.as_dict()}
