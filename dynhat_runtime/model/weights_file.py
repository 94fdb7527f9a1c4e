"""A safetensors file in memory as arrays that view it: read once, copied nowhere.

Writes nothing (`checkpoint` does, with the library) and hashes nothing. Little-endian processors only, as the format.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(kind) for name, kind in (("F64", "<f8"), ("F32", "<f4"), ("F16", "<f2"), ("BF16", "<u2"))
}
"""Weights that we serve are of these types."""
NO_DATA = np.empty(0, np.uint8)
LENGTH_BYTES = 8
"""The file begins with its header's length."""

Content = bytes | mmap.mmap


def read_file(path: Path) -> Content:
    """The file as it is now, in memory that arrays can view and that goes back to the system when they are gone.

    The file itself is not mapped: where another program writes into a mapped file, or cuts it short, what was checked
    is not what is read, or reading ends the process (SIGBUS).

    Raises:
        OSError: It cannot be read.
        MemoryError: There is no memory for it.
    """
    with path.open("rb", buffering=0) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes == 0:
            return b""
        # Not of the allocator: each thread that reads would keep a piece of that size for itself.
        try:
            memory = mmap.mmap(-1, size_bytes)
        except OSError as error:
            raise MemoryError(f"no {size_bytes / 2**20:.0f} MiB for {path.name}") from error
        num_read = 0
        with memoryview(memory) as view:
            while num_bytes := file.readinto(view[num_read:]):
                num_read += num_bytes
    return memory if num_read == size_bytes else memory[:num_read]  # it was cut short meanwhile


def arrays_of(content: Content) -> dict[str, NDArray[np.floating]]:
    """The arrays by name, as views of `content`, which lives as long as they do; bfloat16 as single precision.

    Raises:
        ValueError: It is no safetensors file of floating-point arrays; says what does not fit.
    """
    header_end = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    if not LENGTH_BYTES < header_end <= len(content):
        raise ValueError(f"its header would end at byte {header_end} of {len(content)}")
    try:
        header = json.loads(content[LENGTH_BYTES:header_end])
    except RecursionError as error:
        raise ValueError("its header is nested too deeply") from error
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")
    data = np.frombuffer(content, np.uint8, offset=header_end) if header_end < len(content) else NO_DATA
    return {name: _array(data, name, entry) for name, entry in header.items() if name != "__metadata__"}


def _array(data: NDArray[np.uint8], name: str, entry: Any) -> NDArray[np.floating]:
    try:
        dtype, shape, (begin, end) = DTYPES[entry["dtype"]], list(entry["shape"]), entry["data_offsets"]
        if not all(type(number) is int for number in (*shape, begin, end)) or min(shape, default=0) < 0:
            raise TypeError("no whole numbers")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"tensor {name!r} is described as {entry!r}") from error
    size_bytes = math.prod(shape) * dtype.itemsize
    if not (0 <= begin <= end <= len(data) and end - begin == size_bytes):
        raise ValueError(f"tensor {name!r} would lie at bytes {begin} to {end} of {len(data)}")
    array = data[begin:end].view(dtype).reshape(shape)
    # bfloat16, which numpy lacks, is the upper half of a single-precision number.
    return (array.astype(np.uint32) << 16).view(np.float32) if entry["dtype"] == "BF16" else array
