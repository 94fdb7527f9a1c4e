"""What the governor promises and how calmly it moves: the rules an operator chooses, as a value. Decides nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from dynhat_runtime.errors import SettingsError
from dynhat_runtime.operating_point import OperatingPointTable

PolicyName = Literal["fixed", "ladder", "predictive", "energy"]
POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)


@dataclass(frozen=True, slots=True, kw_only=True)
class GovernorRules:
    """The promise, the policy that keeps it, and the limits it respects. A limit of None is not looked at."""

    latency_budget_ms: float
    """A sentence of the reference length should take no longer."""
    policy: PolicyName = "predictive"
    confidence: float = 0.95
    """Probability with which a point has to meet the budget."""
    dead_band_fraction: float = 0.03
    """Share of the budget that must stay free for a step up, so that a hair's breadth does not swing back."""
    dwell_s: float = 0.5
    """A point stays at least this long before a step up. A step down never waits."""
    max_step_ups_per_minute: int = 6
    """In any 60 s. Steps down are not counted."""
    num_busy_neighbours: int = 1
    """Busy processes planned for while nothing has been observed. A device that serves does other work too; with a
    CPU to spare that costs nothing, without one the neighbour takes its share of ours."""
    num_tokens: int | None = None
    """Source and target length judged at; None is the table's reference length."""
    beam_size: int | None = None
    """Beam of the translations that are learned from; None is the table's."""
    min_quality: float | None = None
    """Lowest BLEU that will do for the policy `energy`; None takes any."""
    temperature_limit_celsius: float | None = None
    """At it and above, faster points; within 5 degrees below, no step up."""
    cooling_limit_fraction: float | None = None
    """Likewise for the state of the most engaged cooling device. (A fan is one, so there is no safe default.)"""
    power_limit_mw: float | None = None
    """Likewise for the power of the board; no step up within 10 % below."""
    memory_floor_mib: float | None = None
    """Less memory available than this: no step up. All points share their weights, so a step down would free no
    more than the caches of one batch, and is not taken."""
    battery_saver_fraction: float | None = None
    """On battery and with less charge than this: the policy `energy`."""

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise SettingsError(f"policy={self.policy!r} is unknown: choose one of {', '.join(POLICIES)}")
        if not (math.isfinite(self.latency_budget_ms) and self.latency_budget_ms > 0):
            raise SettingsError(f"latency_budget_ms={self.latency_budget_ms}: give milliseconds above 0")
        if not 0.5 <= self.confidence <= 0.999:
            raise SettingsError(f"confidence={self.confidence}: give a probability from 0.5 to 0.999")
        if not 0 <= self.dead_band_fraction < 1:
            raise SettingsError(
                f"dead_band_fraction={self.dead_band_fraction}: give a share from 0 to below 1"
            )
        if not (math.isfinite(self.dwell_s) and self.dwell_s >= 0):
            raise SettingsError(f"dwell_s={self.dwell_s}: give seconds, 0 or more")
        if self.max_step_ups_per_minute < 1:
            raise SettingsError(
                f"max_step_ups_per_minute={self.max_step_ups_per_minute}: give a number, 1 or more"
            )
        if self.num_busy_neighbours < 0:
            raise SettingsError(f"num_busy_neighbours={self.num_busy_neighbours}: give a number, 0 or more")
        for name in ("num_tokens", "beam_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name}={value}: give a number of 1 or more, or leave it out")
        for name in (
            "min_quality",
            "temperature_limit_celsius",
            "cooling_limit_fraction",
            "power_limit_mw",
            "memory_floor_mib",
            "battery_saver_fraction",
        ):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SettingsError(f"{name}={value}: give a number above 0, or leave it out")

    def check_against(self, table: OperatingPointTable) -> None:
        """Check that `table` can answer what the rules ask of it.

        Raises:
            SettingsError: A quality is asked for, and the table has no BLEU.
        """
        if self.min_quality is not None and any(point.bleu is None for point in table):
            raise SettingsError(
                f"min_quality={self.min_quality}: the table has no BLEU for every point: leave it out, "
                "or add scores with 'dynhat evaluate'"
            )

    @property
    def step_up_budget_ms(self) -> float:
        """What a point may take to be stepped up to: the budget less the dead band."""
        return self.latency_budget_ms * (1 - self.dead_band_fraction)
