"""What an engine serves: the points of one table, cut out of one SuperTransformer, checked, with who follows whom.

A value: another table makes another one, from the same weights. Translates nothing but the canaries of the check.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dynhat_runtime.decoding.canary import check_points
from dynhat_runtime.decoding.search import BeamOptions
from dynhat_runtime.decoding.translator import Translator, search_options
from dynhat_runtime.errors import UnknownOperatingPointError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.decodable_super import PointCutter
from dynhat_runtime.model.spec import Weights
from dynhat_runtime.model.threads import use_decoding_threads
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.second_attempt import next_larger
from dynhat_runtime.translation_request import ActivePoint


@dataclass(frozen=True, slots=True)
class ServedPoints:
    """Points ready to translate.

    Attributes:
        table: What was measured of them, without those refused.
        by_id: They themselves.
        larger: Of every guarded point but the best, the next larger one.
        refused: Points left out, each with the reason.
    """

    table: OperatingPointTable
    by_id: Mapping[str, ActivePoint]
    larger: Mapping[str, str]
    refused: Mapping[str, str]

    @classmethod
    def of(
        cls,
        points: Sequence[ActivePoint],
        table: OperatingPointTable,
        guarded_ids: Collection[str] = (),
        refused: Mapping[str, str] | None = None,
    ) -> ServedPoints:
        """Put together what is given; checks nothing."""
        return cls(
            table, {point.id: point for point in points}, next_larger(table, guarded_ids), refused or {}
        )

    @property
    def best(self) -> ActivePoint:
        """The point of the best quality."""
        return self.by_id[self.table.best.id]

    def __getitem__(self, point_id: str) -> ActivePoint:
        """The point of that id.

        Raises:
            UnknownOperatingPointError: There is none.
        """
        try:
            return self.by_id[point_id]
        except KeyError:
            known = ", ".join(self.by_id)
            raise UnknownOperatingPointError(
                f"operating point {point_id!r} is unknown: choose one of {known}"
            ) from None


class _Weights:
    """Gives out a bundle's weights and keeps no copy: whoever asks again has them read, and checked, anew."""

    def __init__(self, bundle: Bundle) -> None:
        self._path, self._sha256 = bundle.path, bundle.weights_sha256
        self._opened: Bundle | None = bundle

    def read(self) -> Weights:
        """The weights that were there at first.

        Raises:
            BundleError: The files cannot be read, or hold others by now.
        """
        opened, self._opened = self._opened, None
        bundle = opened or Bundle.open(self._path)
        bundle.check_weights(self._sha256)
        return bundle.weights()


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A bundle's weights and text pipeline in memory, loaded once for as many tables as come."""

    cutter: PointCutter
    translator: Translator
    languages: tuple[str, str]
    search: BeamOptions
    """How the bundle asks to be searched."""

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> LoadedModel:
        """Load it.

        Raises:
            BundleError: A file of the bundle does not hold what it should.
        """
        return cls(
            PointCutter(_Weights(bundle).read, bundle.shortlist()),
            Translator.of_bundle(bundle),
            (bundle.src_lang, bundle.tgt_lang),
            search_options(bundle),
        )

    def points(self, table: OperatingPointTable) -> ServedPoints:
        """Cut every point of `table` out, and leave out what cannot translate.

        Raises:
            BundleError: The weights cannot be read, or every point was refused.
            DesignSpaceError: A point lies outside the design space.
        """
        subs = self.cutter.cut_out(table)
        use_decoding_threads()
        checked = check_points(self.translator, subs, table, self.languages[0])
        return ServedPoints.of(
            [ActivePoint(point.id, subs[point.id]) for point in checked.table],
            checked.table,
            checked.guarded_ids,
            checked.refused,
        )
