"""Sums a replay up beside what was recorded: time per point, switches, budget kept, quality. Decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median

from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.observation import Observation
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.replay.replayer import Decided, Observed, Step
from dynhat_runtime.trace import Gap


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchCount:
    """How often one point followed another for one reason."""

    from_point: str
    to_point: str
    reason_code: str
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """What one of the two did: the recorded governor, or the replayed one."""

    time_s: dict[str, float]
    """That every point was active, in the table's order."""
    switches: tuple[SwitchCount, ...]
    num_translations_over_budget: int
    over_budget_fraction: float | None
    """None where nothing was translated."""
    mean_bleu: float | None
    """Of the points that translated, each translation counting once; None where the table does not say."""
    mean_dev_loss: float | None

    @property
    def num_switches(self) -> int:
        """All of them."""
        return sum(switch.count for switch in self.switches)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySummary:
    """A replay in figures."""

    duration_s: float
    num_decisions: int
    num_translations: int
    """Batches that the engine decoded; canaries are counted apart."""
    num_canaries: int
    num_lost: int
    """Events that the recording says it lacks."""
    latency_budget_ms: float
    """Of the replay; both sides are judged by it."""
    median_absolute_error_fraction: float | None
    """Of the replayed governor's predictions; None where it made none."""
    recorded: Side
    replayed: Side


class SideTally:
    """Counts for one side."""

    def __init__(self, table: OperatingPointTable, latency_budget_ms: float) -> None:
        self._table = table
        self._budget_ms = latency_budget_ms
        self._time_s = {point.id: 0.0 for point in table}
        self._switches: Counter[tuple[str, str, str]] = Counter()
        self._translations: Counter[str] = Counter()
        self._num_over = 0

    def active(self, point_id: str, seconds: float) -> None:
        """A point was active for so long."""
        self._time_s[point_id] += seconds

    def switched(self, from_id: str, to_id: str, reason_code: str) -> None:
        """One point followed another."""
        self._switches[from_id, to_id, reason_code] += 1

    def translated(self, observation: Observation) -> None:
        """A batch was."""
        self._translations[observation.point_id] += 1
        self._num_over += observation.elapsed_ms > self._budget_ms

    def side(self) -> Side:
        """The counts so far."""
        num_translations = self._translations.total()
        return Side(
            time_s=dict(self._time_s),
            switches=tuple(
                SwitchCount(from_point=from_id, to_point=to_id, reason_code=code, count=count)
                for (from_id, to_id, code), count in sorted(self._switches.items())
            ),
            num_translations_over_budget=self._num_over,
            over_budget_fraction=self._num_over / num_translations if num_translations else None,
            mean_bleu=self._mean({point.id: point.bleu for point in self._table}),
            mean_dev_loss=self._mean({point.id: point.dev_loss for point in self._table}),
        )

    def _mean(self, quality: dict[str, float | None]) -> float | None:
        known = {point_id: value for point_id, value in quality.items() if value is not None}
        if len(known) < len(quality) or not self._translations:
            return None
        total = sum(known[point_id] * count for point_id, count in sorted(self._translations.items()))
        return total / self._translations.total()


@dataclass(slots=True)
class _Errors:
    """Of predictions."""

    fractions: list[float] = field(default_factory=list)

    @property
    def median(self) -> float | None:
        return median(self.fractions) if self.fractions else None


class Tally:
    """Counts a replay's steps."""

    def __init__(self, table: OperatingPointTable, rules: GovernorRules) -> None:
        self._rules = rules
        self._recorded = SideTally(table, rules.latency_budget_ms)
        self._replayed = SideTally(table, rules.latency_budget_ms)
        self._last: Decided | None = None
        self._duration_s = 0.0
        self._num_decisions = self._num_translations = self._num_canaries = self._num_lost = 0
        self._errors = _Errors()

    def add(self, step: Step) -> None:
        """Count one step."""
        if isinstance(step, Gap):
            self._num_lost += step.num_lost
            self._last = None  # what was active meanwhile is not known
        elif isinstance(step, Decided):
            self._decided(step)
        else:
            self._observed(step)

    def _decided(self, step: Decided) -> None:
        now = step.decision
        self._num_decisions += 1
        if self._last is not None:
            seconds = now.decided_monotonic_s - self._last.decision.decided_monotonic_s
            self._duration_s += seconds
            self._replayed.active(self._last.decision.point_id, seconds)
            if self._last.recorded is not None:
                self._recorded.active(self._last.recorded.point_id, seconds)
        if now.changed:
            self._replayed.switched(now.active_id, now.point_id, now.reason_code)
        if step.recorded is not None and step.recorded.changed:
            then = step.recorded
            self._recorded.switched(then.active_id, then.point_id, then.reason_code)
        self._last = step

    def _observed(self, step: Observed) -> None:
        if step.result is not None:
            self._errors.fractions.append(abs(step.result.error_fraction))
        if step.recorded.is_canary:
            self._num_canaries += 1
            return
        self._num_translations += 1
        self._recorded.translated(step.recorded)
        self._replayed.translated(step.replayed)

    def summary(self) -> ReplaySummary:
        """The figures so far."""
        return ReplaySummary(
            duration_s=self._duration_s,
            num_decisions=self._num_decisions,
            num_translations=self._num_translations,
            num_canaries=self._num_canaries,
            num_lost=self._num_lost,
            latency_budget_ms=self._rules.latency_budget_ms,
            median_absolute_error_fraction=self._errors.median,
            recorded=self._recorded.side(),
            replayed=self._replayed.side(),
        )


def summary_lines(summary: ReplaySummary, rules: GovernorRules) -> Iterator[str]:
    """The figures for people."""
    canaries = f" and {summary.num_canaries} canaries" if summary.num_canaries else ""
    yield (
        f"{summary.duration_s:.1f} s of recording: {summary.num_decisions} decisions, "
        f"{summary.num_translations} translations{canaries}"
    )
    yield f"policy {rules.policy}, budget {summary.latency_budget_ms:g} ms, confidence {rules.confidence:g}"
    yield f"predictions off by {_percent(summary.median_absolute_error_fraction)} (median)"
    yield ""
    recorded, replayed = summary.recorded, summary.replayed
    yield f"{'':26}{'recorded':>12}{'replayed':>12}"
    rows = [
        ("over budget", _percent(recorded.over_budget_fraction), _percent(replayed.over_budget_fraction)),
        ("mean BLEU", _number(recorded.mean_bleu), _number(replayed.mean_bleu)),
        ("mean dev loss", _number(recorded.mean_dev_loss), _number(replayed.mean_dev_loss)),
        ("switches", str(recorded.num_switches), str(replayed.num_switches)),
    ]
    for point_id in replayed.time_s:
        then_s, now_s = recorded.time_s[point_id], replayed.time_s[point_id]
        if then_s or now_s:
            rows.append((f"{point_id} active", f"{then_s:.1f} s", f"{now_s:.1f} s"))
    for name, then, now in rows:
        yield f"{name:26}{then:>12}{now:>12}"
    if replayed.switches:
        yield ""
        yield "switches replayed"
    for switch in replayed.switches:
        yield f"{switch.count:6} x {switch.from_point} -> {switch.to_point} ({switch.reason_code})"


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{fraction:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
