"""What was learned of the slow-down, kept apart for every set of caps. Forgets the caps seen longest ago."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from dynhat_runtime.governor.slow_down import SlowDown
from dynhat_runtime.resource_snapshot import ResourceSnapshot

MAX_REMEMBERED = 16
UNSEEN_CHANGE_S = 2.0
"""A jump this shortly before other caps were seen was theirs: they took effect before a sensor told."""


@dataclass(frozen=True, slots=True)
class Caps:
    """What may be used, whatever is used: the same caps, the same speed, other work aside."""

    usable_cpus: tuple[int, ...] | None
    quota_step: int | None
    """Logarithm of the quota in steps of 5 %."""
    cpu_clock_step: int | None
    """Likewise of the CPU clock's cap."""
    gpu_clock_step: int | None
    power_mode: str | None

    def are_below(self, others: Caps) -> bool:
        """Less may be used than under `others`: some cap is lower, and none higher.

        Cooling lowers the clock's cap, and counts by that.
        """
        num_cpus, num_before = (
            None if cpus is None else len(cpus) for cpus in (self.usable_cpus, others.usable_cpus)
        )
        steps = [
            _step_between(num_cpus, num_before),
            _step_between(self.quota_step, others.quota_step),
            _step_between(self.cpu_clock_step, others.cpu_clock_step),
            _step_between(self.gpu_clock_step, others.gpu_clock_step),
        ]
        return min(steps) < 0 and max(steps) <= 0

    @classmethod
    def of(cls, snapshot: ResourceSnapshot) -> Caps:
        """Those of a snapshot; momentary clocks and load are left out."""
        return cls(
            snapshot.usable_cpus,
            _step(snapshot.cpu_quota_cpus),
            _step(snapshot.cpu_max_frequency_hz),
            _step(snapshot.gpu_max_frequency_hz),
            snapshot.power_mode,
        )


def _step(value: float | None) -> int | None:
    return None if not value else round(math.log(value) / math.log(1.05))


def _step_between(cap: int | None, before: int | None) -> float:
    """Below 0 if a cap fell, above if it rose; none at all is the highest."""
    if cap == before:
        return 0.0
    return (math.inf if cap is None else cap) - (math.inf if before is None else before)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Left:
    """What was believed when the caps were left."""

    belief: SlowDown
    planned_factor: float
    """What was planned under these caps before anything was observed."""
    monotonic_s: float


class CapsMemory:
    """Remembers the slow-down of the last 16 sets of caps."""

    def __init__(self) -> None:
        self._left: dict[Caps, _Left] = {}

    def leave(self, caps: Caps, belief: SlowDown, planned_factor: float, monotonic_s: float) -> SlowDown:
        """Keep what was learned under `caps`, less what the change itself may have taught; what is kept."""
        if (
            belief.before_jump is not None
            and belief.jumped_monotonic_s is not None
            and monotonic_s - belief.jumped_monotonic_s <= UNSEEN_CHANGE_S
        ):
            belief = belief.before_jump
        self._left.pop(caps, None)
        self._left[caps] = _Left(
            belief=replace(belief, recent=(), before_jump=None),
            planned_factor=planned_factor,
            monotonic_s=monotonic_s,
        )
        if len(self._left) > MAX_REMEMBERED:
            del self._left[next(iter(self._left))]
        return belief

    def returned_to(self, caps: Caps, monotonic_s: float) -> SlowDown | None:
        """What was learned under `caps`, less certain the longer ago; None if nothing was."""
        left = self._left.get(caps)
        if left is None or left.belief.num_observed == 0:
            return None
        return replace(left.belief.aged(monotonic_s - left.monotonic_s), monotonic_s=monotonic_s)

    def common_slow_down(self, planned_factor: float, num_observed: int) -> float:
        """What to plan for at least under caps where `planned_factor` would be planned, by what was seen under others.

        What slows everything, such as a host that is slower than when the table was measured, shows under all caps;
        other work that came and went does not. So the best that was seen counts, twice: as an excess over what was
        planned there, on top of what is planned here; and as it is, since where a neighbour was planned for that
        was not there, a slow host exceeds no plan.

        Args:
            planned_factor: What is planned under these caps.
            num_observed: Translations that a belief must rest on to count.
        """
        known = [left for left in self._left.values() if left.belief.num_observed >= num_observed]
        excess = min((left.belief.factor / left.planned_factor for left in known), default=1.0)
        factor = min((left.belief.factor for left in known), default=1.0)
        return max(planned_factor * max(excess, 1.0), factor)
