"""Who listens to a governor: is told all that it is told, and what it says. A protocol; implements nothing."""

from __future__ import annotations

from typing import Protocol

from dynhat_runtime.governor.decision import Decision
from dynhat_runtime.observation import Handling, Observation
from dynhat_runtime.resource_snapshot import ResourceSnapshot


class Recorder(Protocol):
    """Writes down what happens, in the order in which it is told."""

    def snapshot(self, snapshot: ResourceSnapshot) -> None:
        """The governor decides on this next."""

    def observation(self, observation: Observation) -> None:
        """The governor learns from this next."""

    def handling(self, handling: Handling) -> None:
        """The governor learns from this next."""

    def decision(self, decision: Decision) -> None:
        """What it decided on the last snapshot, once it was carried out."""
