"""A safetensors file in memory as tensors that view it: read once, copied nowhere.

Writes nothing (`checkpoint` does, with the library) and hashes nothing. Little-endian processors only, as the format.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Weights that we serve are of these types."""
LENGTH_BYTES = 8
"""The file begins with its header's length."""

Content = bytes | mmap.mmap


def read_file(path: Path) -> Content:
    """The file as it is now, in memory that tensors can view and that goes back to the system when they are gone.

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


def tensors_of(content: Content) -> dict[str, Tensor]:
    """The tensors by name, as views of `content`, which lives as long as they do.

    Raises:
        ValueError: It is no safetensors file of floating-point tensors; says what does not fit.
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
    view = torch.frombuffer(
        content if isinstance(content, mmap.mmap) else bytearray(content), dtype=torch.uint8
    )
    return {
        name: _tensor(view[header_end:], name, entry)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def _tensor(data: Tensor, name: str, entry: Any) -> Tensor:
    try:
        dtype, shape, (begin, end) = DTYPES[entry["dtype"]], list(entry["shape"]), entry["data_offsets"]
        if not all(type(number) is int for number in (*shape, begin, end)) or min(shape, default=0) < 0:
            raise TypeError("no whole numbers")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"tensor {name!r} is described as {entry!r}") from error
    size_bytes = math.prod(shape) * dtype.itemsize
    if not (0 <= begin <= end <= data.numel() and end - begin == size_bytes):
        raise ValueError(f"tensor {name!r} would lie at bytes {begin} to {end} of {data.numel()}")
    part = data[begin:end]
    if part.storage_offset() % dtype.itemsize:
        part = part.clone()  # views start at whole elements; writers align them, but need not
    return part.view(dtype).view(shape)
