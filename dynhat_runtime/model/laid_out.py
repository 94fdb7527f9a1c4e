"""A SuperTransformer in PyTorch's hands, made ready to decode: packed for the native decoder, or laid out for PyTorch.

PyTorch's network is the reference, trains, and serves on CUDA and where nothing was compiled. Decodes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.errors import NativeUnavailableError
from dynhat_runtime.model.decodable import Decodable, PreparedSuper
from dynhat_runtime.model.decodable_super import DecodableSuper
from dynhat_runtime.model.native_network import NativeSuperTransformer
from dynhat_runtime.model.shortlist import Shortlist
from dynhat_runtime.model.shortlisted import ShortlistedSubTransformer
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.native.library import load
from dynhat_runtime.operating_point import PRECISIONS, Precision

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LaidOutSuper:
    """PyTorch's network, its matrices laid out as decoding reads them."""

    super_transformer: SuperTransformer

    def extract(
        self, config: SubTransformerConfig, num_threads: int = 1, shortlist: Shortlist | None = None
    ) -> Decodable:
        """Cut out one SubTransformer; PyTorch's threads are the process's, whatever `num_threads` says.

        Raises:
            DesignSpaceError: `config` lies outside the design space.
        """
        sub = self.super_transformer.extract(config)
        return sub if shortlist is None else ShortlistedSubTransformer(sub, shortlist)

    @property
    def size_bytes(self) -> int:
        """Memory of all weights, whatever the number of points."""
        storages = {
            weight.untyped_storage().data_ptr(): weight.untyped_storage()
            for weight in self.super_transformer.parameters()
        }
        return sum(storage.nbytes() for storage in storages.values())


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
            weights = super_transformer.as_weights
            packed: dict[Precision, PreparedSuper] = {
                p: NativeSuperTransformer(weights, p, library) for p in precisions
            }
            return DecodableSuper(super_transformer.spec, packed, shortlist)
    if set(precisions) != {"fp32"}:
        raise NativeUnavailableError(complaint)
    return DecodableSuper(
        super_transformer.spec, {"fp32": LaidOutSuper(super_transformer.laid_out_for_decoding())}, shortlist
    )


def _is_for_native(super_transformer: SuperTransformer) -> bool:
    """Single precision on a CPU, which is what the native decoder packs."""
    embedding = super_transformer.weights["encoder.embedding"]
    return not embedding.is_cuda and embedding.dtype == torch.float32
