"""Traces for tests: of the simulated Nano, whose every figure follows from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.virtual_nano import VirtualNano, draw_disturbances, nano_table
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.trace import Event, TraceHeader, as_line

RULES = GovernorRules(latency_budget_ms=1500.0, num_busy_neighbours=0)


def write(path: Path, header: TraceHeader, events: Sequence[Event]) -> Path:
    """A trace file of these events."""
    path.write_text("".join(f"{as_line(each)}\n" for each in (header, *events)), encoding="ascii")
    return path


def simulated(
    seconds: float = 150.0, seed: int = 3, rules: GovernorRules = RULES
) -> tuple[TraceHeader, list[Event]]:
    """Header and events of some virtual time."""
    nano = VirtualNano(nano_table(), rules, draw_disturbances(seed, seconds), seed)
    return nano.header(), list(nano.run(seconds))
