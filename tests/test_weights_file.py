"""Arrays viewed in a safetensors file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from dynhat_runtime.model.weights_file import arrays_of, read_file

TENSORS = {
    "half": torch.arange(6, dtype=torch.float16).view(2, 3),
    "single": torch.linspace(-1, 1, 5),
    "scalar": torch.tensor(3.5, dtype=torch.float64),
    "nothing": torch.zeros(0, 4),
}


def with_header(header: object) -> bytes:
    """A file of this header and eight bytes of data."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"\0" * 8


@pytest.mark.parametrize("is_file", [True, False])
def test_what_the_library_writes(tmp_path: Path, is_file: bool) -> None:
    """Names, types, shapes and values are those that were written, from a file or from bytes."""
    path = tmp_path / "weights"
    path.write_bytes(save(TENSORS, {"written": "by a test"}))
    found = arrays_of(read_file(path) if is_file else path.read_bytes())
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.numpy().dtype
        assert np.array_equal(found[name], tensor.numpy())


@pytest.mark.parametrize("fault", ["gone", "cut short", "overwritten"])
def test_arrays_outlive_the_file(tmp_path: Path, fault: str) -> None:
    """An array is what was read, whatever becomes of the file, also in its place."""
    path = tmp_path / "weights"
    path.write_bytes(save(TENSORS))
    single = arrays_of(read_file(path))["single"]
    if fault == "gone":
        path.unlink()
    elif fault == "cut short":
        os.truncate(path, 0)
    else:
        size_bytes = path.stat().st_size
        with path.open("r+b") as file:
            file.write(b"\xff" * size_bytes)
    assert np.array_equal(single, TENSORS["single"].numpy())


def test_data_at_an_odd_place() -> None:
    """Data that does not start at a whole element is read all the same."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    header += b" " * (1 - len(header) % 2)  # of odd length
    content = len(header).to_bytes(8, "little") + header + torch.tensor([1.5, -2.0]).numpy().tobytes()
    assert len(header) % 2
    assert arrays_of(content)["w"].tolist() == [1.5, -2.0]


def test_writing_reaches_no_file(tmp_path: Path) -> None:
    """What is written into an array stays in this process."""
    path = tmp_path / "weights"
    path.write_bytes(save(TENSORS))
    arrays_of(read_file(path))["single"][:] = 0
    assert np.array_equal(arrays_of(read_file(path))["single"], TENSORS["single"].numpy())


def test_bfloat16_is_read_as_single_precision(tmp_path: Path) -> None:
    """The type that numpy lacks comes out with the same values, infinities and the sign of zero included."""
    path = tmp_path / "weights"
    brain = torch.tensor([1.5, -2.0e30, 1e-40, -0.0, float("inf"), 3.140625]).to(torch.bfloat16)
    path.write_bytes(save({"brain": brain}))
    array = arrays_of(read_file(path))["brain"]
    assert array.dtype == np.float32
    assert np.array_equal(array, brain.float().numpy())
    assert np.signbit(array[3])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "header would end at byte 8 of 0"),
        ((1000).to_bytes(8, "little") + b"{}", "header would end at byte 1008 of 10"),
        (with_header([]), "its header is not an object"),
        (with_header({"w": 1}), "tensor 'w' is described as 1"),
        (
            with_header({"w": {"dtype": "I8", "shape": [8], "data_offsets": [0, 8]}}),
            "tensor 'w' is described as",
        ),
        (with_header({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}), "bytes 0 to 16 of 8"),
        (with_header({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}), "bytes 0 to 8 of 8"),
        (with_header({"w": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}), "bytes -4 to 0 of 8"),
        (with_header({"w": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}), "is described as"),
        (with_header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0.0, 8.0]}}), "is described as"),
        (with_header({"w": {"dtype": "F32", "shape": "ab", "data_offsets": [0, 8]}}), "is described as"),
        ((8).to_bytes(8, "little") + b"[" * 8, "Expecting value"),
        ((99999).to_bytes(8, "little") + b"[" * 99999, "nested too deeply"),
    ],
)
def test_what_is_no_such_file(content: bytes, complaint: str) -> None:
    """Anything else is refused with what does not fit."""
    with pytest.raises(ValueError, match=complaint):
        arrays_of(content)
