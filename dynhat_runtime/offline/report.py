"""`dynhat report`: a device's results as one Markdown page in the paper's form, with plots and the figures as JSON.

Ours are measured on the device that the page names. The paper's figures stand beside them and say so. This module
writes; `report_figures.py` measures, `report_plots.py` draws.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from dynhat_runtime.errors import SettingsError, first_complaint
from dynhat_runtime.offline import paper_figures as paper
from dynhat_runtime.offline.profile import PointQuality
from dynhat_runtime.offline.report_figures import Comparison, ReportFigures, Training
from dynhat_runtime.offline.report_plots import draw

FIGURES_FILE = "figures.json"
PAGE_FILE = "README.md"


def folder_of(device_name: str, results: Path) -> Path:
    """Where a device's report lies: a folder named after it."""
    return results / (re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-") or "device")


def earlier_report(device_name: str, results: Path) -> ReportFigures | None:
    """The figures of the device's report as it stands; None where there is none.

    Raises:
        SettingsError: The file is not a report's.
    """
    path = folder_of(device_name, results) / FIGURES_FILE
    try:
        return ReportFigures.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        what = error.strerror if isinstance(error, OSError) else first_complaint(error)
        raise SettingsError(f"{path}: {what}: delete it, the report is written anew") from error


def write_report(figures: ReportFigures, results: Path) -> Path:
    """Write page, plots and figures below `results`; returns the page.

    Raises:
        SettingsError: The folder cannot be written.
    """
    folder = folder_of(figures.device.name, results)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FIGURES_FILE).write_text(figures.model_dump_json(indent=1) + "\n", encoding="utf-8")
        draw(figures, folder)
        page = folder / PAGE_FILE
        page.write_text("\n".join(_page(figures)) + "\n", encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{folder}: cannot be written ({error.strerror}): give another --out") from error
    return page


def _page(figures: ReportFigures) -> Iterable[str]:
    device = figures.device
    yield f"# {figures.bundle} on {device.name}"
    yield ""
    yield (
        f"Measured {figures.written_at} with torch {device.torch_version}, beam "
        f"{device.beam_size}; latency of one sentence of 30 source and 30 target tokens, decoded alone on one thread, "
        f"measured {device.measured_at}. Weights {figures.weights_sha256[:12]}, "
        f"{_trained(figures.training)}. Dev set {figures.dev_set}, test set {figures.test_set}."
    )
    yield ""
    yield (
        "The paper's figures are of WMT'14 English-German on a Jetson Nano with a SuperTransformer of its size: they "
        "are here for their form, not to be compared in milliseconds or BLEU. All numbers of this page are in "
        f"[{FIGURES_FILE}]({FIGURES_FILE})."
    )
    yield from _table_i(figures.alone)
    yield from _table_ii(figures)
    yield from _table_iii(figures)
    yield from _figures_3_and_4()
    yield from _figure_5(figures)
    yield from _signatures(figures)


def _table_i(comparison: Comparison | None) -> Iterable[str]:
    yield from _heading("Table I: inherited from the SuperTransformer, or trained alone")
    if comparison is None:
        yield "Not measured: give models that were trained alone with `dynhat report --alone POINT=BUNDLE`."
    else:
        alone = sorted({_trained(training) for training in comparison.second_training})
        yield (
            f"{_measured(comparison)}Inherited: {_trained(comparison.first_training)}. Alone: {'; '.join(alone)}. "
            "Same recipe and budget: one SuperTransformer's updates against as many for each model alone."
        )
        yield ""
        yield from _markdown(
            ("point", "latency ms", "inherited BLEU", "alone BLEU", "inherited / alone", "dev loss", "alone"),
            (
                (
                    row.id,
                    f"{row.latency_ms:.1f}",
                    _bleu(row.first),
                    _bleu(row.second),
                    _ratio(row.first, row.second),
                    _loss(row.first),
                    _loss(row.second),
                )
                for row in comparison.rows
            ),
        )
    yield ""
    yield "The paper's (Jetson Nano GPU):"
    yield ""
    yield from _markdown(
        ("latency constraint ms", "inherited BLEU", "from-scratch BLEU", "inherited / from scratch"),
        (
            (
                f"{row.latency_constraint_ms:.0f}",
                f"{row.inherited_bleu:.2f}",
                f"{row.from_scratch_bleu:.2f}",
                f"{row.inherited_bleu / row.from_scratch_bleu:.3f}",
            )
            for row in paper.TABLE_I
        ),
    )


def _table_ii(figures: ReportFigures) -> Iterable[str]:
    yield from _heading("Table II: operating points")
    fastest, slowest = figures.points[0].latency_ms, figures.points[-1].latency_ms
    yield (
        f"{len(figures.points)} points over a factor of {slowest / fastest:.1f} in latency "
        f"(the paper's: {_span(paper.TABLE_II_GPU)} on the GPU, {_span(paper.TABLE_II_CPU)} on the CPU)."
    )
    yield ""
    yield from _markdown(
        ("point", "latency ms", "BLEU", "chrF", "dev loss", "decoder layers", "parameters M"),
        (
            (
                row.id,
                f"{row.latency_ms:.1f}",
                _bleu(row.quality),
                "-" if row.quality.chrf is None else f"{row.quality.chrf:.1f}",
                _loss(row.quality),
                str(row.num_decoder_layers),
                f"{row.num_parameters / 1e6:.2f}",
            )
            for row in figures.points
        ),
    )
    for where, rows in (("GPU", paper.TABLE_II_GPU), ("CPU", paper.TABLE_II_CPU)):
        yield ""
        yield f"The paper's (Jetson Nano {where}):"
        yield ""
        yield from _markdown(
            ("latency ms", "inherited BLEU", "inherited validation loss", "decoder layers"),
            (
                (
                    f"{row.latency_ms:.0f}",
                    f"{row.bleu:.2f}",
                    f"{row.dev_loss:.2f}",
                    str(row.num_decoder_layers),
                )
                for row in rows
            ),
        )


def _table_iii(figures: ReportFigures) -> Iterable[str]:
    yield from _heading("Table III: changing the model")
    times = figures.switch_times
    rows = (
        ("dynamic: switch the operating point", "dynamic_switch_ms", "one reference"),
        ("dynamic: until its first translation", "dynamic_first_ms", "one reference, one sentence"),
        (
            "static: load another model",
            "static_load_ms",
            f"read {times['weights_mib']:.0f} MiB, same process",
        ),
        ("static: until its first translation", "static_first_ms", "the same, one sentence"),
        ("static: a new process", "static_process_ms", "start, import, load, one sentence"),
    )
    yield "Medians over the operating points in turn, both sides alternating; the file lies in the page cache."
    yield ""
    yield from _markdown(
        ("measured here", "median ms", "smallest", "largest", "changes", "procedure"),
        (
            (
                name,
                _milliseconds(statistics.median(times[key])),
                _milliseconds(min(times[key])),
                _milliseconds(max(times[key])),
                str(len(times[key])),
                procedure,
            )
            for name, key, procedure in rows
        ),
    )
    yield ""
    yield "The paper's (Jetson Nano):"
    yield ""
    yield from _markdown(("model", "switching time", "procedure"), paper.TABLE_III)


def _figures_3_and_4() -> Iterable[str]:
    yield from _heading("Figures 3 and 4: quality against latency, by decoder layers")
    yield "![BLEU against latency](figure-3.png)"
    yield ""
    yield "![dev loss against latency](figure-4.png)"


def _figure_5(figures: ReportFigures) -> Iterable[str]:
    yield from _heading("Figure 5: original and reduced design space")
    comparison, spaces = figures.reduced, figures.reduced_space
    if comparison is None or spaces is None:
        yield "Not measured: give a SuperTransformer of the reduced space with `dynhat report --reduced BUNDLE`."
        return
    yield (
        f"{_measured(comparison)}{spaces.name_before} ({spaces.num_configurations_before:.2g} SubTransformers), "
        f"{_trained(comparison.first_training)}; {spaces.name_after} "
        f"({spaces.num_configurations_after:.2g}), {_trained(comparison.second_training[0])}. "
        f"The paper's gain: {paper.REDUCED_SPACE_GAIN}."
    )
    yield ""
    yield "![BLEU of both design spaces against latency](figure-5.png)"
    yield ""
    yield from _markdown(
        ("point", "latency ms", "original BLEU", "reduced BLEU", "original dev loss", "reduced dev loss"),
        (
            (
                row.id,
                f"{row.latency_ms:.1f}",
                _bleu(row.first),
                _bleu(row.second),
                _loss(row.first),
                "not in the space" if row.second is None else _loss(row.second),
            )
            for row in comparison.rows
        ),
    )


def _signatures(figures: ReportFigures) -> Iterable[str]:
    yield from _heading("Signatures")
    quality = figures.points[0].quality
    for signature in (quality.bleu_signature, quality.chrf_signature):
        yield f"- `{signature}`"
    yield "- dev loss: label-smoothed (0.1) cross-entropy per target token, natural logarithm"


def _heading(text: str) -> Iterable[str]:
    yield ""
    yield f"## {text}"
    yield ""


def _markdown(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    """A table; all columns but the first to the right."""
    yield f"| {' | '.join(heading)} |"
    yield "|---" + "|---:" * (len(heading) - 1) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _trained(training: Training) -> str:
    if training.updates is None or training.target_tokens is None:
        return "training not recorded"
    return f"trained for {training.updates:,} updates, {training.target_tokens / 1e6:.1f} M target tokens"


def _measured(comparison: Comparison) -> str:
    """The day, where it is not the page's; points and latencies are of that day too."""
    day = comparison.measured_at
    return "" if day is None else f"Measured {day}, with the operating points of that day. "


def _bleu(quality: PointQuality | None) -> str:
    return "-" if quality is None or quality.bleu is None else f"{quality.bleu:.2f}"


def _loss(quality: PointQuality | None) -> str:
    return "-" if quality is None or quality.dev_loss is None else f"{quality.dev_loss:.3f}"


def _ratio(first: PointQuality, second: PointQuality | None) -> str:
    if second is None or not first.bleu or not second.bleu:
        return "-"
    return f"{first.bleu / second.bleu:.3f}"


def _span(rows: Sequence[paper.TableIIRow]) -> str:
    return f"{rows[-1].latency_ms / rows[0].latency_ms:.1f}"


def _milliseconds(value: float) -> str:
    return f"{value:.4f}" if value < 0.1 else f"{value:.1f}"
