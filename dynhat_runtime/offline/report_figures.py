"""Everything a report tells, as values that can be saved; made from a bundle, its table and models to compare with.

Writes no page and draws nothing: `report.py` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

from dynhat_runtime.errors import DesignSpaceError, SettingsError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.offline.figure_cache import FigureCache
from dynhat_runtime.offline.point_scorer import PointScorer
from dynhat_runtime.offline.point_selection import point_called
from dynhat_runtime.offline.profile import PointQuality
from dynhat_runtime.operating_point import DeviceDescription, OperatingPoint, OperatingPointTable


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PointRow(_Part):
    """Table II: one operating point."""

    id: str
    latency_ms: float
    num_decoder_layers: int
    num_parameters: int
    quality: PointQuality


class Training(_Part):
    """How far a model was trained."""

    updates: int | None
    target_tokens: int | None

    @classmethod
    def of(cls, bundle: Bundle) -> Training:
        """As the bundle's training record has it."""
        record: dict[str, Any] = bundle.training_record()
        return cls(updates=record.get("updates"), target_tokens=record.get("target_tokens_seen"))


class ComparedRow(_Part):
    """One architecture in two networks: Table I's inherited and alone, Figure 5's original and reduced."""

    id: str
    latency_ms: float
    num_decoder_layers: int
    first: PointQuality
    second: PointQuality | None
    """None where the second network cannot be this architecture."""


class Comparison(_Part):
    """Two ways to get the weights of the same architectures."""

    first_training: Training
    second_training: Annotated[tuple[Training, ...], Field(min_length=1)]
    rows: tuple[ComparedRow, ...]
    measured_at: str | None = None
    """Day, where another than the report's: a comparison stays until its models are given again."""

    def dated(self, day: str) -> Comparison:
        """This comparison, measured on `day` unless it says so already."""
        return self if self.measured_at is not None else self.model_copy(update={"measured_at": day})


class ReducedSpace(_Part):
    """The two design spaces that Figure 5 compares."""

    name_before: str
    name_after: str
    num_configurations_before: int
    num_configurations_after: int


class ReportFigures(_Part):
    """A device's results."""

    device: DeviceDescription
    bundle: str
    languages: tuple[str, str]
    weights_sha256: str
    training: Training
    dev_set: str
    test_set: str
    written_at: str
    points: tuple[PointRow, ...]
    alone: Comparison | None = None
    reduced: Comparison | None = None
    reduced_space: ReducedSpace | None = None
    switch_times: dict[str, Any]

    def with_comparisons_of(self, earlier: ReportFigures) -> ReportFigures:
        """These figures; a comparison they lack stays from an earlier report on the same device and languages."""
        if (earlier.device.name, earlier.languages) != (self.device.name, self.languages):
            return self
        update: dict[str, Any] = {}
        if self.alone is None and earlier.alone is not None:
            update["alone"] = earlier.alone.dated(earlier.written_at)
        if self.reduced is None and earlier.reduced is not None:
            update["reduced"] = earlier.reduced.dated(earlier.written_at)
            update["reduced_space"] = earlier.reduced_space
        return self.model_copy(update=update)


class FigureMaker:
    """Scores the operating points of a table in several bundles, on one dev and one test set."""

    def __init__(
        self, table: OperatingPointTable, dev: Path, test: Path, cache: FigureCache, console: Console
    ) -> None:
        self._table, self._dev, self._test = table, dev, test
        self._cache, self._console = cache, console
        self._scorers: dict[Path, PointScorer] = {}

    def points(self, bundle: Bundle) -> tuple[PointRow, ...]:
        """Table II of the bundle that the table belongs to."""
        scorer = self._scorer(bundle)
        return tuple(
            PointRow(
                id=point.id,
                latency_ms=self._table.reference_latency_ms(point),
                num_decoder_layers=point.config.num_decoder_layers,
                num_parameters=point.num_parameters,
                quality=scorer.quality(
                    point.config, point.precision, point.id, has_shortlist=point.has_shortlist
                ),
            )
            for point in self._table
        )

    def inherited_and_alone(self, inherited: Bundle, alone: dict[str, Bundle]) -> Comparison:
        """Table I: points inherited from a SuperTransformer beside the same architectures trained alone.

        Both say what they would of the whole vocabulary: what is compared is weights.

        Raises:
            DynhatError: An id the table does not have, or a bundle that holds another architecture.
        """
        scorer = self._scorer(inherited)
        rows = []
        for point_id, bundle in alone.items():
            point = point_called(self._table, point_id)
            second = self._in(bundle, point)
            if second is None:
                raise SettingsError(
                    f"{bundle.path}: is not operating point {point_id!r} trained alone: its design space "
                    f"{bundle.design_space.name!r} has not that architecture"
                )
            rows.append(self._compared(scorer, point, second))
        rows.sort(key=lambda row: row.latency_ms)
        trainings = tuple(Training.of(bundle) for bundle in alone.values())
        return Comparison(first_training=Training.of(inherited), second_training=trainings, rows=tuple(rows))

    def original_and_reduced(self, original: Bundle, reduced: Bundle) -> Comparison:
        """Figure 5: the table's points in the original and in the reduced design space's SuperTransformer."""
        scorer = self._scorer(original)
        rows = tuple(self._compared(scorer, point, self._in(reduced, point)) for point in self._table)
        trained = Training.of(original), (Training.of(reduced),)
        return Comparison(first_training=trained[0], second_training=trained[1], rows=rows)

    def _compared(
        self, scorer: PointScorer, point: OperatingPoint, second: PointQuality | None
    ) -> ComparedRow:
        return ComparedRow(
            id=point.id,
            latency_ms=self._table.reference_latency_ms(point),
            num_decoder_layers=point.config.num_decoder_layers,
            first=scorer.quality(point.config, point.precision, point.id),
            second=second,
        )

    def _in(self, bundle: Bundle, point: OperatingPoint) -> PointQuality | None:
        """The point's architecture in another bundle; None where that cannot be it."""
        try:
            bundle.design_space.check(point.config)
        except DesignSpaceError:
            return None
        return self._scorer(bundle).quality(point.config, point.precision, point.id)

    def _scorer(self, bundle: Bundle) -> PointScorer:
        """The bundle's scorer: its weights and the texts are read once."""
        scorer = self._scorers.get(bundle.path)
        if scorer is None:
            beam_size = self._table.device.beam_size
            scorer = self._scorers[bundle.path] = PointScorer(
                bundle,
                self._dev,
                self._test,
                beam_size=beam_size,
                cache=self._cache,
                console=self._console,
                precisions=self._table.precisions,
            )
        return scorer
