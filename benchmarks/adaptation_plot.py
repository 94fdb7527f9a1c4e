"""Draws the paper's Figure 1 with measured figures: latency over time while resources come and go. Measures nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.adaptation_figures import Pass, PhaseRun, share_over

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 130
BUDGET_COLOR, TEXT_COLOR, DISTURBED_COLOR = "#c1121f", "#333333", "#f3e9dc"
HIGHEST_BUDGETS = 3.0
"""Top of the latency axes, in budgets; what took longer is drawn at the edge."""
MOST_NAMED_PHASES = 10
"""More than these have no room for their names."""


def draw(
    path: Path, ours: Pass, largest: Pass | None, budget_ms: float, point_ids: Sequence[str], title: str
) -> None:
    """Latency of every request, the active point, and what the largest point took in the same phases.

    Args:
        path: PNG to write.
        ours: The arm in the upper panels.
        largest: The arm in the lowest panel; None leaves the panel out.
        budget_ms: Drawn as a line.
        point_ids: In order of quality.
        title: Above all.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    palette = plt.get_cmap("viridis_r")
    colors = {
        point_id: palette(0.08 + 0.92 * position / max(len(point_ids) - 1, 1))
        for position, point_id in enumerate(point_ids)
    }
    heights = [3.4, 2.0] if largest is None else [3.4, 2.0, 2.4]
    figure, panels = plt.subplots(
        len(heights),
        1,
        figsize=(13, 1.5 + sum(heights)),
        height_ratios=heights,
        layout="constrained",
        squeeze=False,
    )
    latency, active, *rest = panels[:, 0]
    _latencies(latency, ours, budget_ms, colors)
    latency.set_title("latency of each request, coloured by operating point", loc="left", fontsize=10, pad=24)
    _active_points(active, ours, point_ids, colors)
    active.set_title("active operating point, best on top", loc="left", fontsize=10)
    if largest is not None:
        _latencies(rest[0], largest, budget_ms, colors)
        rest[0].set_title(
            "the same phases with the largest operating point alone", loc="left", fontsize=10, pad=24
        )
    panels[-1, 0].set_xlabel("time (s)")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold", color=TEXT_COLOR)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def _latencies(panel: Axes, one: Pass, budget_ms: float, colors: Mapping[str, Any]) -> None:
    """A dot per request; above the axis' top a triangle at its edge."""
    top_ms = HIGHEST_BUDGETS * budget_ms
    _shade(panel, one)
    for point_id, color in colors.items():
        used = [
            (request.began_s - one.began_s, request.elapsed_ms)
            for run in one.runs
            for request in run.requests
            if request.point_id == point_id
        ]
        for marker, size, kept in (
            ("o", 13, [(at_s, ms) for at_s, ms in used if ms <= top_ms]),
            ("^", 26, [(at_s, 0.975 * top_ms) for at_s, ms in used if ms > top_ms]),
        ):
            panel.scatter(
                [at_s for at_s, _ in kept], [ms for _, ms in kept], s=size, color=color, marker=marker, lw=0
            )
    panel.axhline(budget_ms, color=BUDGET_COLOR, lw=1.3)
    panel.annotate(
        f"budget {budget_ms:.0f} ms",
        (1.004, budget_ms),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=8,
        color=BUDGET_COLOR,
    )
    panel.set_ylim(0, top_ms)
    panel.set_ylabel("ms")
    if len(one.runs) <= MOST_NAMED_PHASES:
        for run in one.runs:
            _name(panel, one, run, budget_ms)


def _name(panel: Axes, one: Pass, run: PhaseRun, budget_ms: float) -> None:
    """The phase's name above the panel, and its share over the budget."""
    middle_s = (run.began_s + run.ended_s) / 2 - one.began_s
    over = share_over(run.requests, budget_ms)
    words = run.phase.name if over is None else f"{run.phase.name}\n{over:.0%} over budget"
    panel.annotate(
        words,
        (middle_s, 1.01),
        xycoords=("data", "axes fraction"),
        ha="center",
        va="bottom",
        fontsize=8,
        color=TEXT_COLOR,
    )


def _active_points(panel: Axes, one: Pass, point_ids: Sequence[str], colors: Mapping[str, Any]) -> None:
    """A step line over the points, each stretch in its point's colour."""
    _shade(panel, one)
    places = {point_id: place for place, point_id in enumerate(point_ids)}
    changes = [(one.began_s, one.runs[0].first_id)]
    changes += [(switch.at_s, switch.to_id) for switch in one.switches]
    ends_s = [at_s for at_s, _ in changes[1:]] + [one.runs[-1].ended_s]
    for (from_s, point_id), to_s in zip(changes, ends_s, strict=True):
        place = places[point_id]
        panel.plot(
            [from_s - one.began_s, to_s - one.began_s],
            [place, place],
            color=colors[point_id],
            lw=5,
            solid_capstyle="butt",
        )
    for (_, before), (at_s, after) in pairwise(changes):
        panel.plot([at_s - one.began_s] * 2, [places[before], places[after]], color="0.55", lw=0.8, zorder=1)
    panel.set_yticks(range(len(point_ids)), point_ids, fontsize=8)
    panel.set_ylim(-0.6, len(point_ids) - 0.4)


def _shade(panel: Axes, one: Pass) -> None:
    """Disturbed phases on a darker ground, with a line where one begins."""
    for run in one.runs:
        from_s, to_s = run.began_s - one.began_s, run.ended_s - one.began_s
        if run.phase.is_disturbed:
            panel.axvspan(from_s, to_s, color=DISTURBED_COLOR, lw=0, zorder=0)
        panel.axvline(from_s, color="0.75", lw=0.7, zorder=0.5)
    panel.set_xlim(0, one.runs[-1].ended_s - one.began_s)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    panel.tick_params(labelsize=8)
