"""Matrices packed once at the SuperTransformer's size, and leading slices of them. Reads numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dynhat_runtime.native.library import Library
from dynhat_runtime.native.structures import Matrix
from dynhat_runtime.operating_point import Precision

PANEL = 16
ALIGNMENT = 64
"""Bytes: a cache line."""


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """A packed weight (O, I); `csrc/matrix.h` says how."""

    panels: NDArray[np.float32] | NDArray[np.int8]
    scales: NDArray[np.float32] | None
    bias_O: NDArray[np.float32] | None
    num_inputs: int

    def slice(self, num_out: int, num_in: int) -> Matrix:
        """The leading part, as C reads it; valid while this object lives."""
        return Matrix(
            panels=self.panels.ctypes.data,
            scales=None if self.scales is None else self.scales.ctypes.data,
            bias=None if self.bias_O is None else self.bias_O.ctypes.data,
            num_out=num_out,
            num_in=num_in,
            panel_inputs=self.num_inputs,
            is_int8=self.scales is not None,
        )

    @property
    def size_bytes(self) -> int:
        """Memory it holds."""
        return sum(part.nbytes for part in (self.panels, self.scales, self.bias_O) if part is not None)


class Arena:
    """One block of memory for many matrices, in the order they are asked for: on few and large pages."""

    def __init__(self, size_bytes: int) -> None:
        block = np.empty(size_bytes + ALIGNMENT, np.uint8)
        self._free = block[-block.ctypes.data % ALIGNMENT :]

    def take(self, size_bytes: int) -> NDArray[np.uint8]:
        """The next part, aligned."""
        taken, self._free = np.split(self._free, [_aligned(size_bytes)])
        return taken[:size_bytes]


def packed_bytes(num_out: int, num_in: int, precision: Precision) -> int:
    """Memory of an arena that one packed matrix needs."""
    panels = (
        _padded(num_out) * num_in * 4 if precision == "fp32" else _padded(num_out) * (num_in + num_in % 2)
    )
    return _aligned(panels) + (0 if precision == "fp32" else _aligned(_padded(num_out) * 4))


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT) * ALIGNMENT


def _padded(num_out: int) -> int:
    return -(-num_out // PANEL) * PANEL


def pack(
    library: Library,
    arena: Arena,
    weight_OI: NDArray[np.float32],
    bias_O: NDArray[np.float32] | None,
    precision: Precision,
) -> PackedMatrix:
    """Pack a weight into the arena; the bias is used as it is.

    int8 takes a scale per output over all of its inputs, so that it is right for every leading slice.
    """
    if weight_OI.strides[1] != 4:
        weight_OI = np.ascontiguousarray(weight_OI)
    num_out, num_in = weight_OI.shape
    stride = weight_OI.strides[0] // 4
    if precision == "fp32":
        panels = arena.take(_padded(num_out) * num_in * 4).view(np.float32)
        library.pack_float(weight_OI.ctypes.data, stride, num_out, num_in, panels.ctypes.data)
        return PackedMatrix(panels, None, bias_O, num_in)
    quantised = arena.take(_padded(num_out) * (num_in + num_in % 2)).view(np.int8)
    scales = arena.take(_padded(num_out) * 4).view(np.float32)
    library.pack_int8(
        weight_OI.ctypes.data, stride, num_out, num_in, quantised.ctypes.data, scales.ctypes.data
    )
    return PackedMatrix(quantised, scales, bias_O, num_in)
