"""What a device leaves to the daemon, phase by phase: a fixed course, and courses drawn by chance. Values only."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What the daemon is given. The busy processes run on the CPUs that it may use."""

    num_cpus: int | None = None
    """None is all there are."""
    quota_cpus: float | None = None
    """CPU time its cgroup grants, in CPUs; None is no quota."""
    num_busy: int = 0
    """Busy processes that compete."""

    def in_words(self) -> str:
        """Such as `1 CPU, 2 busy processes`."""
        parts = [] if self.num_cpus is None else [f"{self.num_cpus} CPU{'' if self.num_cpus == 1 else 's'}"]
        parts += [] if self.quota_cpus is None else [f"quota {self.quota_cpus:g} CPU"]
        if self.num_busy:
            parts.append(f"{self.num_busy} busy process{'' if self.num_busy == 1 else 'es'}")
        return ", ".join(parts) or "all CPUs"


@dataclass(frozen=True, slots=True)
class Phase:
    """Resources for a time."""

    name: str
    resources: Resources
    duration_s: float

    @property
    def is_disturbed(self) -> bool:
        """Something is taken away."""
        return self.resources != AT_REST


QUOTA_PERIOD_MS = 10.0
"""Of every quota. With the kernel's default of 100 ms half a CPU stops a process for 50 ms after every 50 ms of work:
no point, whichever it is, could keep a budget of less than that. What a quota is to take away is time, evenly."""

AT_REST = Resources()
ONE_CPU = Resources(num_cpus=1)
ONE_SHARED_CPU = Resources(num_cpus=1, num_busy=1)
HALF_QUOTA = Resources(quota_cpus=0.5)
COMPETING_LOAD = Resources(num_busy=2)

# Decoding runs on one thread: a CPU less costs nothing by itself, but whatever else runs must now share the other.
# So both are phases: one CPU alone, and one CPU with one busy process on it.
COURSE = (
    ("all CPUs", AT_REST),
    ("one CPU", ONE_CPU),
    ("one CPU, shared", ONE_SHARED_CPU),
    ("half quota", HALF_QUOTA),
    ("competing load", COMPETING_LOAD),
    ("recovery", AT_REST),
)

DRAWN_FROM = (AT_REST, AT_REST, ONE_CPU, ONE_SHARED_CPU, HALF_QUOTA, COMPETING_LOAD)
"""At rest twice, so that there is something to take away."""
SHORTEST_DRAWN_S, LONGEST_DRAWN_S = 4.0, 16.0


def course(phase_s: float, is_possible: Callable[[Resources], bool]) -> list[Phase]:
    """The phases of the fixed course that can be made here."""
    return [Phase(name, resources, phase_s) for name, resources in COURSE if is_possible(resources)]


def drawn_course(seed: int, duration_s: float, is_possible: Callable[[Resources], bool]) -> list[Phase]:
    """Disturbances drawn by chance, at times drawn by chance, for `duration_s` in all; begins at rest.

    The same seed draws the same. Two phases in a row never have the same resources.
    """
    draw = random.Random(seed)
    choices = [resources for resources in DRAWN_FROM if is_possible(resources)]
    phases: list[Phase] = []
    resources, left_s = AT_REST, duration_s
    while left_s > 0:
        phase_s = min(draw.uniform(SHORTEST_DRAWN_S, LONGEST_DRAWN_S), left_s)
        phases.append(Phase(resources.in_words(), resources, phase_s))
        left_s -= phase_s
        resources = draw.choice([other for other in choices if other != resources])
    return phases


def distinct(phases: Sequence[Phase]) -> list[Resources]:
    """The resources of the phases, each once, in order."""
    return list(dict.fromkeys(phase.resources for phase in phases))
