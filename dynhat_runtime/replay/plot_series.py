"""What a replay's plot shows, gathered step by step in little memory. Draws nothing."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from dynhat_runtime.replay.replayer import Decided, Observed, Step
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from dynhat_runtime.trace import Gap


def _numbers() -> array[float]:
    return array("d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """One point after another."""

    time_s: float
    from_id: str
    to_id: str
    reason_code: str


@dataclass(slots=True)
class Latencies:
    """Of the translations as replayed."""

    time_s: array[float] = field(default_factory=_numbers)
    actual_ms: array[float] = field(default_factory=_numbers)
    predicted_ms: array[float] = field(default_factory=_numbers)
    """NaN where nothing could be expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapsFrom:
    """What may be used from a time on."""

    time_s: float
    num_cpus: float | None
    cpu_max_frequency_hz: float | None
    gpu_max_frequency_hz: float | None
    power_mode: str | None

    def is_as(self, other: CapsFrom) -> bool:
        """The same caps, whenever."""
        return (self.num_cpus, self.cpu_max_frequency_hz, self.gpu_max_frequency_hz, self.power_mode) == (
            other.num_cpus,
            other.cpu_max_frequency_hz,
            other.gpu_max_frequency_hz,
            other.power_mode,
        )


@dataclass(slots=True)
class PlotSeries:
    """Everything over the time since the first decision."""

    latencies: Latencies = field(default_factory=Latencies)
    replayed: list[tuple[float, str]] = field(default_factory=list)
    """Since when which point was active."""
    recorded: list[tuple[float, str]] = field(default_factory=list)
    switches: list[Switch] = field(default_factory=list)
    """Of the replay."""
    caps: list[CapsFrom] = field(default_factory=list)
    slow_down_time_s: array[float] = field(default_factory=_numbers)
    slow_down_factor: array[float] = field(default_factory=_numbers)
    slow_down_std: array[float] = field(default_factory=_numbers)
    gaps: list[float] = field(default_factory=list)
    """When events are missing."""
    began_s: float | None = None
    last_s: float = 0.0

    def add(self, step: Step) -> None:
        """Gather one step."""
        if isinstance(step, Decided):
            self._decided(step)
        elif isinstance(step, Observed):
            self._observed(step)
        elif isinstance(step, Gap) and self.began_s is not None:
            self.gaps.append(self.last_s)

    def _decided(self, step: Decided) -> None:
        decision = step.decision
        if self.began_s is None:
            self.began_s = decision.decided_monotonic_s
        now_s = self.last_s = decision.decided_monotonic_s - self.began_s
        if decision.changed:
            self.switches.append(
                Switch(
                    time_s=now_s,
                    from_id=decision.active_id,
                    to_id=decision.point_id,
                    reason_code=decision.reason_code,
                )
            )
        _note(self.replayed, now_s, decision.point_id)
        if step.recorded is not None:
            _note(self.recorded, now_s, step.recorded.point_id)
        self._caps(now_s, decision.snapshot)
        self.slow_down_time_s.append(now_s)
        self.slow_down_factor.append(decision.slow_down_factor)
        self.slow_down_std.append(decision.slow_down_std)

    def _observed(self, step: Observed) -> None:
        if self.began_s is None or step.recorded.is_canary:
            return
        latencies = self.latencies
        latencies.time_s.append(step.recorded.monotonic_s - self.began_s)
        latencies.actual_ms.append(step.replayed.elapsed_ms)
        latencies.predicted_ms.append(float("nan") if step.result is None else step.result.predicted_ms)

    def _caps(self, now_s: float, snapshot: ResourceSnapshot) -> None:
        caps = CapsFrom(
            time_s=now_s,
            num_cpus=snapshot.effective_cpus,
            cpu_max_frequency_hz=snapshot.cpu_max_frequency_hz,
            gpu_max_frequency_hz=snapshot.gpu_max_frequency_hz,
            power_mode=snapshot.power_mode,
        )
        if not self.caps or not caps.is_as(self.caps[-1]):
            self.caps.append(caps)


def _note(log: list[tuple[float, str]], now_s: float, point_id: str) -> None:
    if not log or log[-1][1] != point_id:
        log.append((now_s, point_id))
