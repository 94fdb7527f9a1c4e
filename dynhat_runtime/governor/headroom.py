"""Limits beside latency: heat, power, memory, battery. Says what they forbid; chooses no point."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.resource_snapshot import ResourceSnapshot

TEMPERATURE_BAND_CELSIUS = 5.0
POWER_BAND_FRACTION = 0.1
"""Below a limit by no more than this, no step up: what a step up adds would cross it again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Headroom:
    """What the limits say, as the end of a sentence; None where they say nothing."""

    over: str | None
    """A limit is reached: faster points."""
    near: str | None
    """A limit is reached or near: no step up."""
    saves_battery: bool
    """The policy `energy` takes over."""


# Rules, each only where its limit is set and its reading there:
#   1  Temperature, cooling state or power at its limit or above   -> faster points, one step at a time.
#      A faster point does less work per sentence; at a given load that is less heat and power.
#   2  Temperature or power within its band below the limit        -> no step up.
#   3  Less memory available than the floor                        -> no step up. All points share their weights:
#      a step down would free only one batch's caches, so it is not taken.
#   4  On battery, with less charge than the saver's               -> the policy `energy`.
def headroom_of(snapshot: ResourceSnapshot, rules: GovernorRules) -> Headroom:
    """What the limits say of the readings in `snapshot`."""
    over = next(_over(snapshot, rules), None)
    near = over or next(_near(snapshot, rules), None)
    saver = rules.battery_saver_fraction
    is_low = saver is not None and snapshot.battery_fraction is not None and snapshot.battery_fraction < saver
    return Headroom(over=over, near=near, saves_battery=is_low and snapshot.on_battery is True)


def _over(snapshot: ResourceSnapshot, rules: GovernorRules) -> Iterator[str]:
    celsius, limit_celsius = snapshot.temperature_celsius, rules.temperature_limit_celsius
    if celsius is not None and limit_celsius is not None and celsius >= limit_celsius:
        yield f"{celsius:.1f} degrees reach the limit of {limit_celsius:g}"
    cooling, limit = snapshot.cooling_state_fraction, rules.cooling_limit_fraction
    if cooling is not None and limit is not None and cooling >= limit:
        yield f"cooling at {cooling:.0%} reaches the limit of {limit:.0%}"
    power_mw, limit_mw = snapshot.power_mw, rules.power_limit_mw
    if power_mw is not None and limit_mw is not None and power_mw >= limit_mw:
        yield f"{power_mw:.0f} mW reach the limit of {limit_mw:g}"


def _near(snapshot: ResourceSnapshot, rules: GovernorRules) -> Iterator[str]:
    celsius, limit_celsius = snapshot.temperature_celsius, rules.temperature_limit_celsius
    margin_celsius = None if celsius is None or limit_celsius is None else limit_celsius - celsius
    if margin_celsius is not None and margin_celsius <= TEMPERATURE_BAND_CELSIUS:
        yield f"{celsius:.1f} degrees are near the limit of {limit_celsius:g}"
    power_mw, limit_mw = snapshot.power_mw, rules.power_limit_mw
    if power_mw is not None and limit_mw is not None and power_mw >= limit_mw * (1 - POWER_BAND_FRACTION):
        yield f"{power_mw:.0f} mW are near the limit of {limit_mw:g}"
    memory_mib, floor_mib = snapshot.memory_available_mib, rules.memory_floor_mib
    if memory_mib is not None and floor_mib is not None and memory_mib < floor_mib:
        yield f"{memory_mib:.0f} MiB available are below the floor of {floor_mib:g}"
