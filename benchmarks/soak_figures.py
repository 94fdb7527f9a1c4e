"""What a soak found, as figures and checks. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.figures import Aim, Check, Figure, Result, Summary
from benchmarks.soak_traffic import Seen

LARGEST_GROWTH = 1.01


@dataclass(frozen=True, slots=True)
class Size:
    """What the daemon holds at one moment."""

    uss_mib: float
    """Memory that is its alone."""
    num_fds: int
    num_threads: int


@dataclass(frozen=True, slots=True)
class Soaked:
    """What was found."""

    minutes: float
    seen: Seen
    disturbances: Mapping[str, int]
    failures: Sequence[str]
    loaded: Sequence[Size]
    """Under traffic, after the warm-up, a second apart."""
    before: Size
    """At rest after the warm-up."""
    most_threads: int
    """At most, under traffic, while it warmed up: pools start threads as they need them, and keep them."""
    after: Size
    """At rest in the end."""
    exit_status: int
    num_tracebacks: int

    @property
    def growth(self) -> float:
        """Of memory at rest, as a ratio."""
        return self.after.uss_mib / self.before.uss_mib

    @property
    def num_fds_more(self) -> int:
        """Descriptors at rest that were not there after the warm-up."""
        return self.after.num_fds - self.before.num_fds

    @property
    def num_threads_more(self) -> int:
        """Threads at rest, more than there ever were in the warm-up."""
        return self.after.num_threads - self.most_threads


def result_of(found: Soaked, how: str) -> Result:
    """As figures and checks.

    Args:
        found: What was found.
        how: How it was, without what was asked and done.
    """
    counts = f"Asked: {_listed(found.seen.num_answered)}. Done meanwhile: {_listed(found.disturbances)}."
    return Result(
        name="soak",
        title=f"{found.minutes:g} minutes of mixed traffic, disturbances and reloads",
        how=f"{how} {counts}",
        figures=_figures(found),
        checks=_checks(found),
        notes=(
            f"Descriptors {found.before.num_fds} and {found.after.num_fds}, threads {found.before.num_threads} (at "
            f"most {found.most_threads}) and {found.after.num_threads}; under load at most "
            f"{max(size.num_fds for size in found.loaded)} and {max(size.num_threads for size in found.loaded)}.",
        ),
    )


def _figures(found: Soaked) -> tuple[Figure, ...]:
    fifth = max(1, len(found.loaded) // 5)
    under_load = [size.uss_mib for size in found.loaded]
    none = (Aim("median", 0),)
    return (
        Figure("a single sentence, asked to answered", "ms", Summary.of(found.seen.times_ms)),
        Figure(
            "memory at rest, in the end / after the warm-up",
            "x",
            Summary.of([found.growth]),
            (Aim("median", LARGEST_GROWTH),),
        ),
        Figure("memory at rest after the warm-up", "MiB", Summary.of([found.before.uss_mib])),
        Figure(
            "memory under load, last fifth / first fifth",
            "x",
            Summary.ratio(under_load[-fifth:], under_load[:fifth]),
        ),
        Figure(
            "descriptors at rest, more than after the warm-up", "", Summary.of([found.num_fds_more]), none
        ),
        Figure(
            "threads at rest, more than ever in the warm-up", "", Summary.of([found.num_threads_more]), none
        ),
    )


def _checks(found: Soaked) -> tuple[Check, ...]:
    num_answered = sum(found.seen.num_answered.values())
    unanswered = [*found.seen.failures, *found.failures]
    claim = f"every request was answered as it should be ({num_answered})"
    if unanswered:
        claim += f": {len(unanswered)} were not, such as {unanswered[0]}"
    return (
        Check(claim, num_answered > 0 and not unanswered),
        Check(f"memory grew by less than 1 % ({found.growth - 1:+.2%})", found.growth < LARGEST_GROWTH),
        Check("no descriptor more than after the warm-up", found.num_fds_more <= 0),
        Check("no thread more than ever in the warm-up", found.num_threads_more <= 0),
        Check(
            "no traceback in the log, and status 0 in the end",
            found.num_tracebacks == 0 and found.exit_status == 0,
        ),
    )


def _listed(counts: Mapping[str, int]) -> str:
    """The most frequent first."""
    return ", ".join(
        f"{number} x {kind}" for kind, number in sorted(counts.items(), key=lambda item: -item[1])
    )
