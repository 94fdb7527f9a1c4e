"""What decoding needs of a network, and which implementation it gets: the native one on a CPU, PyTorch otherwise.

Decodes nothing. PyTorch's implementation is the reference, trains, and serves on CUDA and where nothing was compiled.

Shapes: B sentences, K beams, N = B * K rows, S source length, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.errors import NativeUnavailableError
from dynhat_runtime.model.native_network import NativeSuperTransformer
from dynhat_runtime.model.super_transformer import SuperTransformer, SuperTransformerSpec
from dynhat_runtime.native.library import load
from dynhat_runtime.operating_point import OperatingPoint, Precision

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


class DecodableSuper(Protocol):
    """All SubTransformers, ready to be cut out for decoding."""

    @property
    def spec(self) -> SuperTransformerSpec:
        """What its weights' shapes follow from."""

    def extract(self, config: SubTransformerConfig) -> Decodable:
        """Cut out one SubTransformer; copies no weight."""


# Rules:
#   1  weights on another device than the CPU, or of another type -> PyTorch, in the layout decoding reads best
#   2  the native decoder is there                                -> native
#   3  otherwise                                                  -> PyTorch, and the log says what to do about it
def for_decoding(super_transformer: SuperTransformer, precision: Precision = "fp32") -> DecodableSuper:
    """The same network, packed or laid out as decoding reads it.

    Args:
        super_transformer: As loaded; not kept where it is packed.
        precision: How the native decoder keeps matrices.

    Raises:
        NativeUnavailableError: A precision was asked for that only the native decoder has, and it is not there.
    """
    embedding = super_transformer.weights["encoder.embedding"]
    if embedding.is_cuda or embedding.dtype != torch.float32:
        return super_transformer.laid_out_for_decoding()
    try:
        library = load()
    except NativeUnavailableError as error:
        if precision != "fp32":
            raise
        logger.warning("%s", error)
        return super_transformer.laid_out_for_decoding()
    return NativeSuperTransformer(super_transformer, precision, library)


def cut_out(super_transformer: DecodableSuper, config: SubTransformerConfig, num_threads: int) -> Decodable:
    """One SubTransformer that decodes with `num_threads`; PyTorch's decodes with as many as it was told to use.

    Raises:
        DesignSpaceError: `config` lies outside the design space.
    """
    if isinstance(super_transformer, NativeSuperTransformer):
        return super_transformer.extract(config, num_threads)
    return super_transformer.extract(config)


# Rules:
#   1  every precision that a point has is packed once, whatever the number of its points
#   2  without the native decoder all points serve in fp32: slower and no worse than promised, and the log says so
def points_for_decoding(
    super_transformer: SuperTransformer, points: Iterable[OperatingPoint]
) -> dict[str, Decodable]:
    """Every point ready to decode, by its id.

    Raises:
        DesignSpaceError: A point lies outside the design space.
    """
    points = tuple(points)
    prepared: dict[Precision, DecodableSuper] = {}
    for precision in dict.fromkeys(point.precision for point in points):
        try:
            prepared[precision] = for_decoding(super_transformer, precision)
        except NativeUnavailableError:
            prepared[precision] = prepared.get("fp32") or for_decoding(super_transformer)
    return {point.id: cut_out(prepared[point.precision], point.config, point.num_threads) for point in points}
