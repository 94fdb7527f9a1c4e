"""`dynhat export-points`: from a search's front to the table of operating points that the daemon loads.

In this order, cheap before dear: (1) spread the candidates over the predicted latencies; (2) measure, at every
precision and number of threads, with a vocabulary shortlist and without, each one's dev loss and its latency on this
device; (3) drop what something faster
says as well; (4) keep as many as the table should have; (5) score those on the test set; (6) measure them at every
length and resource state; (7) drop again what the final figures show to be dominated. Losses and scores are kept in a
file, so that an interrupted run goes on.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import track

from dynhat_runtime.design_space import DesignSpace
from dynhat_runtime.errors import SettingsError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.offline.figure_cache import FigureCache
from dynhat_runtime.offline.point_files import checked_point, points_from_any, put_table
from dynhat_runtime.offline.point_scorer import PointScorer
from dynhat_runtime.offline.point_selection import (
    Contender,
    architecture_name,
    non_dominated,
    spread,
    thin,
    with_ids,
)
from dynhat_runtime.offline.profile import (
    PointQuality,
    PointToMeasure,
    ProfileOptions,
    profile_points,
    reference_latencies,
)
from dynhat_runtime.offline.searched_points import read_searched_points
from dynhat_runtime.offline.whole_files import check_writable, write_text
from dynhat_runtime.operating_point import OperatingPoint, OperatingPointTable, Precision

FIGURES_FILE, CANDIDATES_FILE = "figures.jsonl", "candidates.csv"
CANDIDATE_COLUMNS = (
    "id", "gene", "precision", "num_threads", "has_shortlist", "num_decoder_layers", "predicted_ms", "latency_ms",
    "dev_loss", "fate",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """How many points, how they may compute, and how they are measured."""

    max_candidates: int = 32
    max_points: int = 12
    precisions: tuple[Precision, ...] | None = None
    """None takes all that can be computed here."""
    nums_threads: tuple[int, ...] = (1,)
    have_shortlists: tuple[bool, ...] | None = None
    """With a shortlist, without, or both; None means both where the bundle has one."""
    profile: ProfileOptions = ProfileOptions()  # noqa: RUF009  # frozen: a shared default cannot be changed


@dataclass(frozen=True, slots=True)
class ExportedPoints:
    """The table, and what became of every candidate."""

    table: OperatingPointTable
    fates: tuple[tuple[Contender, str], ...]


class PointExporter:
    """Chooses among candidates of one bundle."""

    def __init__(self, bundle: Bundle, scorer: PointScorer, options: ExportOptions, console: Console) -> None:
        self._bundle, self._scorer, self._options, self._console = bundle, scorer, options, console
        self._space = bundle.design_space

    def export(self, candidates: Sequence[Contender]) -> ExportedPoints:
        """Choose and measure operating points; the module's docstring numbers the steps.

        Raises:
            SettingsError: No candidate is left.
        """
        distinct = list({self._space.gene(c.config): c for c in candidates}.values())
        chosen = spread(distinct, self._options.max_candidates)
        if not chosen:
            raise SettingsError(
                "no candidate to make an operating point of: give a search's result with a front"
            )
        measured = self._measured(chosen)
        front = non_dominated(measured, lambda c: (c.latency_ms or 0.0, c.dev_loss or 0.0))
        kept = thin(
            front, self._options.max_points, lambda c: (math.log(c.latency_ms or 1.0), c.dev_loss or 0.0)
        )
        table = self._without_dominated(self._profiled(kept))
        return ExportedPoints(table, tuple(self._fates(distinct, measured, front, kept, table)))

    def _measured(self, chosen: Sequence[Contender]) -> list[Contender]:
        """Candidates computing in every way, with dev loss and reference latency."""
        contenders = [
            replace(candidate, precision=precision, num_threads=num_threads, has_shortlist=has_shortlist)
            for candidate in chosen
            for precision in self._scorer.precisions
            for num_threads in self._options.nums_threads
            for has_shortlist in self._have_shortlists()
        ]
        is_hidden = not self._console.is_terminal
        shown = track(contenders, "dev loss of the candidates", console=self._console, disable=is_hidden)
        losses = [self._scorer.dev_loss(c.config, c.precision) for c in shown]
        points = [
            PointToMeasure(
                str(number),
                candidate.config,
                PointQuality(),
                candidate.precision,
                candidate.num_threads,
                candidate.has_shortlist,
            )
            for number, candidate in enumerate(contenders)
        ]
        rows = reference_latencies(self._scorer.decoding, points, self._options.profile, self._console)
        return [
            replace(candidate, dev_loss=loss, latency_ms=rows[str(number)].total_ms)
            for number, (candidate, loss) in enumerate(zip(contenders, losses, strict=True))
        ]

    def _have_shortlists(self) -> tuple[bool, ...]:
        if self._options.have_shortlists is not None:
            return self._options.have_shortlists
        return (False,) if self._bundle.shortlist_sha256 is None else (False, True)

    def _profiled(self, kept: Sequence[Contender]) -> OperatingPointTable:
        """The table of these candidates, scored and measured in full."""
        ids = with_ids(kept)
        points = [
            PointToMeasure(
                point_id,
                c.config,
                self._scorer.quality(c.config, c.precision, point_id, has_shortlist=c.has_shortlist),
                c.precision,
                c.num_threads,
                c.has_shortlist,
            )
            for point_id, c in zip(ids, kept, strict=True)
        ]
        return profile_points(
            self._bundle, self._scorer.decoding, points, self._options.profile, self._console
        )

    def _without_dominated(self, table: OperatingPointTable) -> OperatingPointTable:
        """The table without points that its own figures show to be dominated."""
        front = non_dominated(
            table.points, lambda point: (table.reference_latency_ms(point), point.dev_loss or 0.0)
        )
        return table.model_copy(update={"points": tuple(front)})

    def _fates(
        self,
        distinct: Sequence[Contender],
        measured: Sequence[Contender],
        front: Sequence[Contender],
        kept: Sequence[Contender],
        table: OperatingPointTable,
    ) -> list[tuple[Contender, str]]:
        """Every candidate with what became of it, fastest first, those not measured last."""
        point_of = {_computing(point): point for point in table}
        fates: list[tuple[Contender, str]] = []
        for candidate in sorted(measured, key=lambda c: c.latency_ms or 0.0):
            point = point_of.get(_computing(candidate))
            if point is not None:
                fates.append((replace(candidate, id=point.id), "operating point"))
            elif candidate in kept:
                fates.append((candidate, "dominated at the final measurement"))
            elif candidate in front:
                fates.append((candidate, "on the front, left out for a shorter table"))
            else:
                fates.append((candidate, "dominated"))
        done = {self._space.gene(candidate.config) for candidate in measured}
        fates += [(c, "not measured") for c in distinct if self._space.gene(c.config) not in done]
        return fates

    def fates_csv(self, exported: ExportedPoints) -> str:
        """All candidates as CSV."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(CANDIDATE_COLUMNS)
        for c, fate in exported.fates:
            gene = "-".join(map(str, self._space.gene(c.config)))
            num_layers = c.config.num_decoder_layers
            writer.writerow(
                [
                    c.id,
                    gene,
                    c.precision,
                    c.num_threads,
                    c.has_shortlist,
                    num_layers,
                    c.predicted_ms,
                    c.latency_ms,
                    c.dev_loss,
                    fate,
                ]
            )
        return text.getvalue()


def _computing(point: Contender | OperatingPoint) -> tuple[object, ...]:
    """What makes it another point than others."""
    return point.config, point.precision, point.num_threads, point.has_shortlist


def candidates_in(path: Path, space: DesignSpace) -> list[Contender]:
    """The architectures that a file lists: a search's front by its predictions, any other point by its name.

    Raises:
        SettingsError: The file lists no points, or one lies outside the design space.
    """
    if path.suffix != ".json":
        return [
            Contender(point.config, id=architecture_name(point.id)) for point in points_from_any(path, space)
        ]
    candidates = []
    for point in read_searched_points(path).points:
        checked_point(path, point.id, point.config, space)
        name = architecture_name(point.id) if point.predicted_ms is None else None
        candidates.append(Contender(point.config, id=name, predicted_ms=point.predicted_ms))
    return candidates


def export_points(
    bundle: Bundle,
    files: Sequence[Path],
    *,
    dev: Path,
    test: Path | None,
    options: ExportOptions,
    out: Path | None,
    work: Path,
) -> Path:
    """Make a table of the architectures in `files`; returns where it lies.

    Args:
        bundle: Whose SubTransformers they are.
        files: Results of searches, or any lists of points.
        dev: Dev set, to choose by.
        test: Test set, to score what was chosen.
        options: How many points, and how they are measured.
        out: File of the table; None writes it into the bundle.
        work: Folder for losses and scores, kept as they come, and for `candidates.csv`.

    Raises:
        DynhatError: What is wrong with a file, or the bundle.
    """
    if out is not None:
        check_writable(out, "--out")
    console = Console(stderr=True)
    candidates = [c for file in files for c in candidates_in(file, bundle.design_space)]
    cache = FigureCache(work / FIGURES_FILE)
    scorer = PointScorer(
        bundle,
        dev,
        test,
        beam_size=options.profile.beam_size,
        cache=cache,
        console=console,
        precisions=options.precisions,
    )
    exporter = PointExporter(bundle, scorer, options, console)
    exported = exporter.export(candidates)
    write_text(work / CANDIDATES_FILE, exporter.fates_csv(exported), "--work-dir")
    return put_table(bundle, exported.table, out)
