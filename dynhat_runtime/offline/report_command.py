"""What `dynhat report` does: open the bundles, measure what the page needs, write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console

from dynhat_runtime.errors import SettingsError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.offline.figure_cache import FigureCache
from dynhat_runtime.offline.report import earlier_report, folder_of, write_report
from dynhat_runtime.offline.report_figures import FigureMaker, ReducedSpace, ReportFigures, Training
from dynhat_runtime.operating_point import OperatingPointTable


def report(
    bundle: Bundle,
    table: OperatingPointTable,
    *,
    dev: Path,
    test: Path,
    switch_times: Mapping[str, Any],
    alone: Sequence[str],
    same_budget: Path | None,
    reduced: Path | None,
    out: Path,
    cache: Path,
) -> Path:
    """Measure and write a device's results; returns the page.

    A comparison whose models are not given stays as the report has it, with its date.

    Args:
        bundle: The SuperTransformer that the operating points are of.
        table: The operating points, measured on this device.
        dev: Dev set, for losses.
        test: Test set, for BLEU and chrF.
        switch_times: Figures of Table III.
        alone: `POINT=BUNDLE` of models that were trained alone, for Table I.
        same_budget: SuperTransformer with the budget of those and of `reduced`; None is `bundle` itself.
        reduced: SuperTransformer of the reduced design space, for Figure 5.
        out: Folder of all results; the device gets its own below.
        cache: File of scores, kept as they come.

    Raises:
        DynhatError: What is wrong with a bundle, a point or a file.
    """
    earlier = earlier_report(table.device.name, out)
    alone_bundles = {point_id: Bundle.open(path) for point_id, path in map(_point_and_path, alone)}
    original = bundle if same_budget is None else Bundle.open(same_budget)
    reduced_bundle = None if reduced is None else Bundle.open(reduced)
    maker = FigureMaker(table, dev, test, FigureCache(cache), Console(stderr=True))
    figures = ReportFigures(
        device=table.device,
        bundle=bundle.manifest.name,
        languages=(bundle.src_lang, bundle.tgt_lang),
        weights_sha256=bundle.weights_sha256,
        training=Training.of(bundle),
        dev_set=_name(dev),
        test_set=_name(test),
        written_at=datetime.now(timezone.utc).date().isoformat(),
        points=maker.points(bundle),
        alone=maker.inherited_and_alone(original, alone_bundles) if alone_bundles else None,
        reduced=None if reduced_bundle is None else maker.original_and_reduced(original, reduced_bundle),
        reduced_space=None if reduced_bundle is None else _spaces(original, reduced_bundle),
        switch_times=dict(switch_times),
    )
    return write_report(figures if earlier is None else figures.with_comparisons_of(earlier), out)


def cache_path(table: OperatingPointTable, out: Path) -> Path:
    """Where a report keeps its scores unless it is told: beside the page, so that the next one is quick."""
    return folder_of(table.device.name, out) / "scores.jsonl"


def _point_and_path(text: str) -> tuple[str, Path]:
    """`POINT=BUNDLE` in two.

    Raises:
        SettingsError: It has another form.
    """
    point_id, equals, path = text.partition("=")
    if not (point_id and equals and path):
        raise SettingsError(
            f"--alone {text}: give an operating point and a bundle, such as l3=runs/l3-bundle"
        )
    return point_id, Path(path)


def _spaces(original: Bundle, reduced: Bundle) -> ReducedSpace:
    before, after = original.design_space, reduced.design_space
    return ReducedSpace(
        name_before=before.name,
        name_after=after.name,
        num_configurations_before=before.num_configurations(),
        num_configurations_after=after.num_configurations(),
    )


def _name(text: Path) -> str:
    return text.name.split(".")[0]
