"""A safetensors file in memory as tensors that view it: read once, copied nowhere.

Writes nothing (`checkpoint` does, with the library) and hashes nothing. Little-endian processors only, as the format.
"""

from __future__ import annotations

import json
import math
import mmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Weights that we serve are of these types."""
LENGTH_BYTES = 8
"""The file begins with its header's length."""

Content = bytes | mmap.mmap


def map_file(path: Path) -> mmap.mmap:
    """The file in memory, page by page as it is touched; pages written to would be this process's own.

    It shows the file that was there when it was opened, whatever takes the file's name afterwards.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is empty.
    """
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def tensors_of(content: Content) -> dict[str, Tensor]:
    """The tensors by name, as views of `content`, which lives as long as they do.

    Raises:
        ValueError: It is no safetensors file of floating-point tensors; says what does not fit.
    """
    header_end = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    if not LENGTH_BYTES < header_end <= len(content):
        raise ValueError(f"its header would end at byte {header_end} of {len(content)}")
    header = json.loads(content[LENGTH_BYTES:header_end])
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
        dtype, shape, (begin, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        size_bytes = math.prod(shape) * dtype.itemsize
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"tensor {name!r} is described as {entry!r}") from error
    if not (0 <= begin <= end <= data.numel() and end - begin == size_bytes):
        raise ValueError(f"tensor {name!r} would lie at bytes {begin} to {end} of {data.numel()}")
    part = data[begin:end]
    if part.storage_offset() % dtype.itemsize:
        part = part.clone()  # views start at whole elements; writers align them, but need not
    return part.view(dtype).view(shape)
