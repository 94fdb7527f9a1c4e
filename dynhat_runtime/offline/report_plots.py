"""Figures 3, 4 and 5 in the paper's form, as PNG. Draws what it is given; measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynhat_runtime.offline.paper_figures import TABLE_II_GPU, TableIIRow
from dynhat_runtime.offline.report_figures import ComparedRow, PointRow, ReportFigures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 110
PAPER = "the paper's (Table II, Jetson Nano GPU)"


def draw(figures: ReportFigures, folder: Path) -> list[str]:
    """Draw what there are figures for; returns the file names."""
    names = ["figure-3.png", "figure-4.png"]
    _beside_the_papers(
        folder / names[0],
        figures,
        "BLEU",
        lambda row: row.quality.bleu or 0.0,
        lambda row: row.bleu,
        "Figure 3: BLEU against latency",
    )
    _beside_the_papers(
        folder / names[1],
        figures,
        "dev loss (nats per token)",
        lambda row: row.quality.dev_loss or 0.0,
        lambda row: row.dev_loss,
        "Figure 4: dev loss against latency",
    )
    if figures.reduced is not None:
        names.append("figure-5.png")
        _two_spaces(folder / names[2], figures.reduced.rows, figures)
    return names


def _beside_the_papers(
    path: Path,
    figures: ReportFigures,
    label: str,
    ours: Callable[[PointRow], float],
    papers: Callable[[TableIIRow], float],
    title: str,
) -> None:
    """Two panels of points coloured by decoder layers: measured here, and the paper's."""
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    deepest = max(6, *(row.num_decoder_layers for row in figures.points))
    _points(
        left,
        [(row.latency_ms, ours(row), row.num_decoder_layers) for row in figures.points],
        deepest,
    )
    left.set(title=f"measured here: {figures.device.name}", xlabel="latency (ms)", ylabel=label)
    shown = _points(
        right, [(row.latency_ms, papers(row), row.num_decoder_layers) for row in TABLE_II_GPU], deepest
    )
    right.set(title=PAPER, xlabel="latency (ms)", ylabel=label)
    figure.suptitle(title)
    figure.colorbar(
        shown, ax=[left, right], label="decoder layers", ticks=range(1, deepest + 1), fraction=0.03
    )
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def _points(axes: Axes, points: Sequence[tuple[float, float, int]], deepest: int) -> Any:
    """Points joined in order of latency; returns what a colour bar needs."""
    latency_ms, values, depths = zip(*sorted(points), strict=True)
    axes.plot(latency_ms, values, color="0.75", linewidth=1, zorder=1)
    axes.grid(alpha=0.3)
    return axes.scatter(
        latency_ms, values, c=depths, cmap="viridis", vmin=0.5, vmax=deepest + 0.5, s=45, zorder=2
    )


def _two_spaces(path: Path, rows: Sequence[ComparedRow], figures: ReportFigures) -> None:
    """BLEU of the same architectures in two SuperTransformers."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(7, 4))
    ordered = sorted(rows, key=lambda row: row.latency_ms)
    axes.plot(
        [row.latency_ms for row in ordered],
        [row.first.bleu for row in ordered],
        marker="o",
        label="original design space",
    )
    both = [row for row in ordered if row.second is not None]
    axes.plot(
        [row.latency_ms for row in both],
        [row.second.bleu for row in both if row.second is not None],
        marker="s",
        label="reduced design space",
    )
    axes.set(
        title=f"Figure 5: original and reduced design space, measured here: {figures.device.name}",
        xlabel="latency (ms)",
        ylabel="BLEU",
    )
    axes.title.set_fontsize(10)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
    plt.close(figure)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt
