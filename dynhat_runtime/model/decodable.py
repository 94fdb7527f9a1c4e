"""What decoding needs of a network, and which implementation it gets: the native one on a CPU, PyTorch otherwise.

Decodes nothing. PyTorch's implementation is the reference, trains, and serves on CUDA and where nothing was compiled.

Shapes: B sentences, K beams, N = B * K rows, S source length, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.errors import BundleError, NativeUnavailableError
from dynhat_runtime.model.native_network import NativeSuperTransformer
from dynhat_runtime.model.shortlist import Shortlist
from dynhat_runtime.model.shortlisted import ShortlistedSubTransformer
from dynhat_runtime.model.super_transformer import SuperTransformer, SuperTransformerSpec
from dynhat_runtime.native.library import load
from dynhat_runtime.operating_point import PRECISIONS, OperatingPoint, Precision

logger = logging.getLogger(__name__)


class IncrementalDecoding(Protocol):
    """Decoding of N rows, one position at a time."""

    def step(self, tokens_N: Tensor) -> Tensor:
        """Scores (N, V) of what follows each row's last token."""

    def reorder(self, rows_N: Tensor) -> None:
        """Continue with these rows, each within its sentence."""

    def keep_sentences(self, sentences_B: Tensor, rows_N: Tensor) -> None:
        """Continue with these sentences and these rows only."""


class Decodable(Protocol):
    """One SubTransformer as decoding sees it."""

    @property
    def config(self) -> SubTransformerConfig:
        """The architecture."""

    @property
    def src_vocab_size(self) -> int:
        """Source token ids are below it."""

    @property
    def device(self) -> torch.device:
        """Where tokens and scores live."""

    def encode(self, src_tokens_BS: Tensor) -> Any:
        """Encode token ids (B, S); what comes back is for `start` of the same network."""

    def start(self, encoded: Any, num_beams: int) -> IncrementalDecoding:
        """Begin decoding with `num_beams` rows per sentence."""


class ComputingPoint(Protocol):
    """An operating point, measured or to be: an architecture, and how it computes."""

    @property
    def config(self) -> SubTransformerConfig:
        """The architecture."""

    @property
    def precision(self) -> Precision:
        """How its matrices are kept."""

    @property
    def num_threads(self) -> int:
        """Threads that share each matrix product."""

    @property
    def has_shortlist(self) -> bool:
        """Whether it says what is on the sentence's vocabulary shortlist only."""


PreparedSuper = SuperTransformer | NativeSuperTransformer
"""One precision's network, ready to be cut."""


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
        return _extract(self.by_precision[precision], config, num_threads, shortlist)

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
        return sum(_size_bytes(network) for network in self.by_precision.values())


def available_precisions(super_transformer: SuperTransformer) -> tuple[Precision, ...]:
    """What `for_decoding` can prepare here: all on a CPU with the native decoder, else fp32."""
    if not _is_for_native(super_transformer):
        return ("fp32",)
    try:
        load()
    except NativeUnavailableError:
        return ("fp32",)
    return PRECISIONS


# Rules:
#   1  weights on another device than the CPU, or of another type -> PyTorch, in the layout decoding reads best
#   2  the native decoder is there                                -> native
#   3  otherwise                                                  -> PyTorch, and the log says what to do about it
def for_decoding(
    super_transformer: SuperTransformer,
    precisions: Sequence[Precision] = ("fp32",),
    shortlist: Shortlist | None = None,
) -> DecodableSuper:
    """The same network, packed or laid out as decoding reads it, once for every precision.

    Args:
        super_transformer: As loaded; not kept where it is packed.
        precisions: Those that points will be cut out of.
        shortlist: For those that are to have one.

    Raises:
        NativeUnavailableError: A precision was asked for that only the native decoder has, and it is not there.
    """
    complaint = "the weights are not single precision on a CPU: only the native decoder has int8"
    if _is_for_native(super_transformer):
        try:
            library = load()
        except NativeUnavailableError as error:
            complaint = str(error)
            logger.warning("%s", error)
        else:
            packed = {p: NativeSuperTransformer(super_transformer, p, library) for p in precisions}
            return DecodableSuper(super_transformer.spec, packed, shortlist)
    if set(precisions) != {"fp32"}:
        raise NativeUnavailableError(complaint)
    laid_out = super_transformer.laid_out_for_decoding()
    return DecodableSuper(laid_out.spec, {"fp32": laid_out}, shortlist)


class PointCutter:
    """Cuts operating points out of one SuperTransformer, for serving.

    Rules: (1) A precision is prepared when the first point needs it, once for all points and tables. (2) One that is
    not there is replaced by fp32: slower, and no worse than promised.
    """

    def __init__(self, read: Callable[[], SuperTransformer], shortlist: Shortlist | None = None) -> None:
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
            point.id: _extract(
                self._prepared[self._used_for(point.precision)],
                point.config,
                point.num_threads,
                _needed(self._shortlist) if point.has_shortlist else None,
            )
            for point in points
        }

    def _prepare(self, wanted: Collection[Precision]) -> None:
        if all(self._used_for(precision) in self._prepared for precision in wanted):
            return
        trained = self._read()
        self._available = available_precisions(trained)
        missing = {self._used_for(precision) for precision in wanted} - self._prepared.keys()
        self._prepared |= for_decoding(trained, sorted(missing)).by_precision

    def _used_for(self, precision: Precision) -> Precision:
        return precision if precision in self._available else "fp32"


def _extract(
    network: PreparedSuper, config: SubTransformerConfig, num_threads: int, shortlist: Shortlist | None
) -> Decodable:
    """Cut out one SubTransformer; PyTorch's threads are the process's."""
    if isinstance(network, NativeSuperTransformer):
        return network.extract(config, num_threads, shortlist)
    sub = network.extract(config)
    return sub if shortlist is None else ShortlistedSubTransformer(sub, shortlist)


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


def _size_bytes(network: PreparedSuper) -> int:
    if isinstance(network, NativeSuperTransformer):
        return network.size_bytes
    storages = {
        weight.untyped_storage().data_ptr(): weight.untyped_storage() for weight in network.parameters()
    }
    return sum(storage.nbytes() for storage in storages.values())


def _is_for_native(super_transformer: SuperTransformer) -> bool:
    """Single precision on a CPU, which is what the native decoder packs."""
    embedding = super_transformer.weights["encoder.embedding"]
    return not embedding.is_cuda and embedding.dtype == torch.float32
