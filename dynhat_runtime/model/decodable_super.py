"""All operating points of one SuperTransformer, ready to decode: by the native decoder, or by PyTorch where that lacks.

Decodes nothing, and needs no torch as long as the native decoder is there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.errors import BundleError, NativeUnavailableError
from dynhat_runtime.model.decodable import ComputingPoint, Decodable, PreparedSuper
from dynhat_runtime.model.native_network import NativeSuperTransformer
from dynhat_runtime.model.shortlist import Shortlist
from dynhat_runtime.model.spec import SuperTransformerSpec, Weights
from dynhat_runtime.native.library import load
from dynhat_runtime.operating_point import PRECISIONS, OperatingPoint, Precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DecodableSuper:
    """All SubTransformers, ready to be cut out for decoding.

    Attributes:
        spec: What the weights' shapes follow from.
        by_precision: The network as each precision keeps it.
        shortlist: Which tokens may translate a sentence; None where nobody has learned it.
    """

    spec: SuperTransformerSpec
    by_precision: Mapping[Precision, PreparedSuper]
    shortlist: Shortlist | None = None

    def extract(
        self,
        config: SubTransformerConfig,
        precision: Precision = "fp32",
        num_threads: int = 1,
        *,
        has_shortlist: bool = False,
    ) -> Decodable:
        """Cut out one SubTransformer; copies no weight.

        Args:
            config: The architecture.
            precision: One that was prepared.
            num_threads: Threads that share each matrix product; PyTorch's own number is the process's.
            has_shortlist: Whether it says what is on the sentence's vocabulary shortlist only.

        Raises:
            DesignSpaceError: `config` lies outside the design space.
            BundleError: There is no shortlist.
        """
        assert precision in self.by_precision, f"prepared for {list(self.by_precision)}, not for {precision}"
        shortlist = _needed(self.shortlist) if has_shortlist else None
        return self.by_precision[precision].extract(config, num_threads, shortlist)

    def point(self, point: ComputingPoint) -> Decodable:
        """Cut out an operating point, computing as it says.

        Raises:
            DesignSpaceError: Its architecture lies outside the design space.
            BundleError: It needs a shortlist, and there is none.
        """
        return self.extract(
            point.config, point.precision, point.num_threads, has_shortlist=point.has_shortlist
        )

    @property
    def size_bytes(self) -> int:
        """Memory of all weights, whatever the number of points."""
        return sum(network.size_bytes for network in self.by_precision.values())


class PointCutter:
    """Cuts operating points out of one SuperTransformer, for serving.

    Rules: (1) A precision is prepared when the first point needs it, once for all points and tables. (2) One that is
    not there is replaced by fp32: slower, and no worse than promised.
    """

    def __init__(self, read: Callable[[], Weights], shortlist: Shortlist | None = None) -> None:
        """Nothing is read yet.

        Args:
            read: Gives the weights whenever a precision has to be prepared; they are not kept.
            shortlist: For points that have one.
        """
        self._read, self._shortlist = read, shortlist
        self._prepared: dict[Precision, PreparedSuper] = {}
        self._available: tuple[Precision, ...] = PRECISIONS

    def cut_out(self, points: Iterable[OperatingPoint]) -> dict[str, Decodable]:
        """Every point ready to decode, by its id.

        Raises:
            BundleError: The weights cannot be read, or a point needs a shortlist and there is none.
            DesignSpaceError: A point lies outside the design space.
        """
        points = tuple(points)
        self._prepare({point.precision for point in points})
        for point in points:
            if point.precision not in self._available:
                logger.warning(
                    "operating point %s serves in fp32: %s is not there", point.id, point.precision
                )
        return {
            point.id: self._prepared[self._used_for(point.precision)].extract(
                point.config,
                point.num_threads,
                _needed(self._shortlist) if point.has_shortlist else None,
            )
            for point in points
        }

    @property
    def size_bytes(self) -> int:
        """Memory of all weights prepared so far, whatever the number of points."""
        return sum(network.size_bytes for network in self._prepared.values())

    def _prepare(self, wanted: Collection[Precision]) -> None:
        if all(self._used_for(precision) in self._prepared for precision in wanted):
            return
        weights = self._read()
        try:
            library = load()
        except NativeUnavailableError:
            # Here: torch takes longer to import than all else that serving needs, and only this needs it.
            from dynhat_runtime.model.laid_out import for_decoding
            from dynhat_runtime.model.super_transformer import SuperTransformer

            self._available = ("fp32",)
            self._prepared |= for_decoding(SuperTransformer.of_weights(weights)).by_precision
        else:
            for precision in set(wanted) - self._prepared.keys():
                self._prepared[precision] = NativeSuperTransformer(weights, precision, library)

    def _used_for(self, precision: Precision) -> Precision:
        return precision if precision in self._available else "fp32"


def _needed(shortlist: Shortlist | None) -> Shortlist:
    """The shortlist that a point is served with.

    Raises:
        BundleError: There is none.
    """
    if shortlist is None:
        raise BundleError(
            "a point is served with a vocabulary shortlist, and the bundle has none: make it with 'dynhat "
            "make-shortlist'"
        )
    return shortlist
