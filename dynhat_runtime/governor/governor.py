"""The governor's memory: what was observed, and where it stands. The same calls give the same answers.

Deterministic: no clock, no chance; time arrives in snapshots and observations. Acts on nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from dynhat_runtime.governor.decision import Decision
from dynhat_runtime.governor.request_choice import RequestChoice, RequestWish
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.observation import Observation
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.resource_snapshot import ResourceSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationResult:
    """What was expected of a batch, beside what it took."""

    predicted_ms: float
    """At the lengths it turned out to have, by what was believed before it."""
    actual_ms: float
    is_learned: bool
    """It changed the belief; False for one that began under other caps, or with another beam."""

    @property
    def error_fraction(self) -> float:
        """Of the prediction, relative to what it took."""
        return self.predicted_ms / self.actual_ms - 1


class Governor:
    """Decides, and learns from what was observed."""

    def __init__(
        self, table: OperatingPointTable, rules: GovernorRules, active_id: str | None = None
    ) -> None:
        """Begin with nothing observed.

        Args:
            table: The points there are.
            rules: Budget, policy and limits.
            active_id: The point active now; None is the best one.

        Raises:
            SettingsError: The rules ask what the table cannot answer.
            UnknownOperatingPointError: The table has no such point.
        """
        raise NotImplementedError

    def observe(self, observation: Observation) -> ObservationResult | None:
        """Learn from one finished batch; None before the first snapshot, when nothing can be expected."""
        raise NotImplementedError

    def decide(self, snapshot: ResourceSnapshot) -> Decision:
        """Choose the point for the resources in `snapshot`."""
        raise NotImplementedError

    def choose(self, wish: RequestWish) -> RequestChoice:
        """Choose a point for one request alone.

        Raises:
            UnknownOperatingPointError: The table has no such point.
            RequestError: A quality is asked for that the table does not state.
        """
        raise NotImplementedError

    def pin(self, point_id: str) -> None:
        """Decide for `point_id`, whatever the resources, until `set_auto`.

        Raises:
            UnknownOperatingPointError: The table has no such point; nothing changed.
        """
        raise NotImplementedError

    def set_auto(self) -> None:
        """Let the rules choose again."""
        raise NotImplementedError

    def became_active(self, point_id: str, monotonic_s: float) -> None:
        """Take note that the engine runs `point_id`, whoever switched it."""
        raise NotImplementedError
