"""Draws a replay as one PNG: the active point, latencies against the budget, the slow-down, and the caps.

The only importer of matplotlib here, and only when it draws. The same series give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynhat_runtime.errors import SettingsError
from dynhat_runtime.governor.rules import GovernorRules
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.replay.plot_series import CapsFrom, PlotSeries
from dynhat_runtime.trace import TraceHeader

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 120
MAX_DOTS = 20_000
"""Of more, every n-th is drawn."""
MINUTES_FROM_S = 240.0
INK, FAINT, GRID = "#22303c", "#8a97a3", "#e4e8ec"
WITHIN, OVER, PREDICTED = "#2a78b5", "#d1495b", "#22303c"
POINT, RECORDED = "#2a78b5", "#c3cad1"
STEP_UP, STEP_DOWN = "#3a9d6e", "#d1495b"
CAPS: tuple[tuple[str, str, Callable[[CapsFrom], float | None]], ...] = (
    # name, colour, the cap
    ("CPUs", "#2a78b5", lambda caps: caps.num_cpus),
    ("CPU clock", "#e08e2b", lambda caps: caps.cpu_max_frequency_hz),
    ("GPU clock", "#3a9d6e", lambda caps: caps.gpu_max_frequency_hz),
)
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def draw(
    series: PlotSeries, table: OperatingPointTable, rules: GovernorRules, header: TraceHeader, path: Path
) -> None:
    """Write the plot.

    Raises:
        SettingsError: matplotlib is not installed.
        OSError: The file cannot be written.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise SettingsError("matplotlib is not installed: pip install 'dynhat-runtime[offline]'") from None
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(figsize=(11, 8.4), layout="constrained")
        FigureCanvasAgg(figure)
        points, latencies, slow_down, caps = figure.subplots(
            4, 1, sharex=True, gridspec_kw={"height_ratios": [2.2, 3.0, 1.3, 1.3]}
        )
        unit_s, unit = (60.0, "min") if series.last_s > MINUTES_FROM_S else (1.0, "s")
        clock = _Clock(unit_s, series.last_s / unit_s)
        _draw_points(points, series, table, clock)
        _draw_latencies(latencies, series, rules, clock)
        _draw_slow_down(slow_down, series, clock)
        _draw_caps(caps, series, clock)
        caps.set(xlabel=f"time ({unit})", xlim=(0, max(clock.end, 1e-9)))
        figure.suptitle(_title(rules, header), fontsize=11, x=0.01, ha="left", fontweight="bold")
        figure.align_ylabels()
        # No metadata: the version of what drew it would change the bytes, a date in any case.
        figure.savefig(path, dpi=DPI, metadata={"Software": None})


class _Clock:
    """Seconds in the plot's unit."""

    def __init__(self, unit_s: float, end: float) -> None:
        self.unit_s = unit_s
        self.end = end

    def of(self, times_s: Sequence[float]) -> list[float]:
        """In the plot's unit."""
        return [time_s / self.unit_s for time_s in times_s]

    def steps(self, times_s: Sequence[float], values: Sequence[Any]) -> tuple[list[float], list[Any]]:
        """What holds from each time on, to the end of the plot."""
        return [*self.of(times_s), self.end], [*values, values[-1]]


def _title(rules: GovernorRules, header: TraceHeader) -> str:
    return (
        f"Policy {rules.policy}, budget {rules.latency_budget_ms:g} ms: replay of a trace of {header.device}"
    )


def _draw_points(axes: Axes, series: PlotSeries, table: OperatingPointTable, clock: _Clock) -> None:
    """The active point, fastest at the bottom; what was recorded behind it."""
    rank = {point.id: number for number, point in enumerate(table)}
    for log, colour, width, name in (
        (series.recorded, RECORDED, 6.0, "recorded"),
        (series.replayed, POINT, 1.8, "replayed"),
    ):
        if log:
            times, ranks = clock.steps([at_s for at_s, _ in log], [rank[point_id] for _, point_id in log])
            axes.step(
                times, ranks, where="post", color=colour, linewidth=width, label=name, solid_capstyle="butt"
            )
    for is_up, colour, marker, name in (
        (True, STEP_UP, "^", "step up"),
        (False, STEP_DOWN, "v", "step down"),
    ):
        taken = [each for each in series.switches if (rank[each.to_id] > rank[each.from_id]) == is_up]
        if taken:
            axes.scatter(
                clock.of([each.time_s for each in taken]),
                [rank[each.to_id] for each in taken],
                marker=marker, s=34, color=colour, edgecolors="white", linewidths=0.6, zorder=3, label=name,
            )  # fmt: skip
    for at_s in series.gaps:
        axes.axvline(at_s / clock.unit_s, color=FAINT, linestyle=":", linewidth=1)
    labels = [point.id if point.bleu is None else f"{point.id} ({point.bleu:.1f} BLEU)" for point in table]
    axes.set(yticks=range(len(table)), yticklabels=labels, ylim=(-0.5, len(table) - 0.5))
    _finish(axes, "active point")


def _draw_latencies(axes: Axes, series: PlotSeries, rules: GovernorRules, clock: _Clock) -> None:
    """Every translation, predicted and actual, against the budget."""
    latencies, budget_ms = series.latencies, rules.latency_budget_ms
    stride = max(1, -(-len(latencies.time_s) // MAX_DOTS))
    times = clock.of(latencies.time_s[::stride])
    actual, predicted = latencies.actual_ms[::stride], latencies.predicted_ms[::stride]
    for is_over, colour, name in ((False, WITHIN, "actual"), (True, OVER, "actual, over the budget")):
        shown = [(t, ms) for t, ms in zip(times, actual, strict=True) if (ms > budget_ms) == is_over]
        if shown:
            axes.scatter(
                [t for t, _ in shown],
                [ms for _, ms in shown],
                s=9,
                color=colour,
                linewidths=0,
                alpha=0.75,
                label=name,
                zorder=3,
            )
    if times:
        axes.scatter(
            times, predicted, s=16, marker="_", color=PREDICTED, linewidths=0.9, label="predicted", zorder=2
        )
        # A single outlier must not squeeze everything else.
        highest = sorted(actual)[min(int(len(actual) * 0.995), len(actual) - 1)]
        axes.set_ylim(0, max(budget_ms, highest) * 1.15)
    axes.axhline(budget_ms, color=OVER, linewidth=1.1, linestyle=(0, (6, 3)), zorder=1)
    axes.annotate(
        f"budget {budget_ms:g} ms", (1.0, budget_ms), xycoords=("axes fraction", "data"), xytext=(-2, 3),
        textcoords="offset points", ha="right", color=OVER, fontsize=8,
    )  # fmt: skip
    _finish(axes, "latency (ms)")


def _draw_slow_down(axes: Axes, series: PlotSeries, clock: _Clock) -> None:
    """What the governor believes of the device's speed."""
    stride = max(1, -(-len(series.slow_down_time_s) // MAX_DOTS))
    times = clock.of(series.slow_down_time_s[::stride])
    factor, std = series.slow_down_factor[::stride], series.slow_down_std[::stride]
    low = [value * (1 - min(2 * spread, 0.99)) for value, spread in zip(factor, std, strict=True)]
    high = [value * (1 + 2 * spread) for value, spread in zip(factor, std, strict=True)]
    axes.fill_between(times, low, high, step="post", color=POINT, alpha=0.16, linewidth=0, label="± 2 std")
    axes.step(times, factor, where="post", color=POINT, linewidth=1.3, label="believed")
    axes.axhline(1.0, color=FAINT, linewidth=0.8, linestyle=":")
    axes.set_ylim(0, max(2.0, *factor) * 1.2)
    _finish(axes, "slow-down factor")


def _draw_caps(axes: Axes, series: PlotSeries, clock: _Clock) -> None:
    """What might be used, as a share of the most that was seen, and the power mode by name."""
    for number, (name, colour, cap_of) in enumerate(CAPS):
        known = [cap for caps in series.caps if (cap := cap_of(caps))]
        if known:
            most = max(known)
            shares = [float("nan") if not (cap := cap_of(caps)) else cap / most for caps in series.caps]
            times, shares = clock.steps([caps.time_s for caps in series.caps], shares)
            label = f"{name} (of {most / 1e6:.4g} MHz)" if "clock" in name else f"{name} (of {most:.3g})"
            # A hair apart, so that caps that move together stay visible.
            axes.step(times, [share - 0.012 * number for share in shares], where="post", color=colour,
                      linewidth=1.6, label=label)  # fmt: skip
    mode: str | None = None
    for caps in series.caps:
        if caps.power_mode is not None and caps.power_mode != mode:
            axes.annotate(
                caps.power_mode, (caps.time_s / clock.unit_s, 0.04), xytext=(2, 0), textcoords="offset points",
                fontsize=6.5, color=FAINT, rotation=90, va="bottom", annotation_clip=True,
            )  # fmt: skip
        mode = caps.power_mode
    axes.set(ylim=(0, 1.1), yticks=(0, 0.5, 1), yticklabels=("0", "50 %", "100 %"))
    _finish(axes, "caps")


def _finish(axes: Axes, label: str) -> None:
    axes.set_ylabel(label)
    axes.grid(axis="y", linewidth=0.8)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=6, borderaxespad=0.1, handlelength=1.6)
