"""Tests of dynhat_runtime.monitor.nvml through the real nvidia-ml-py, on a C library that stands in for NVIDIA's.

None of this has seen a GPU: what a driver really answers is NVIDIA's documentation's word.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")

REPOSITORY = Path(__file__).resolve().parent.parent
STUB = REPOSITORY / "tests/data/stub_nvml.c"
# Reads once for every line on stdin, which says by how many seconds the clock moves.
READER = """
import json, sys
from dynhat_runtime.monitor.nvml import NvmlMonitor
now_s = 1000.0
monitor = NvmlMonitor(clock=lambda: now_s)
for line in sys.stdin:
    now_s += float(line)
    print(json.dumps(monitor.read().as_dict()), flush=True)
"""
FINE = "0 1410 1980 35 52"
FIELDS = ("gpu_current_frequency_hz", "gpu_max_frequency_hz", "gpu_load_fraction", "temperature_celsius")
LONG_ENOUGH_S = 120.0
PATIENCE_S = 10.0

Snapshot = dict[str, Any]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the library that stands in."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("nvml")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", str(folder / "libnvidia-ml.so.1"), str(STUB)], check=True
    )
    return folder


class Gpu:
    """A process that reads the monitor, and what the library answers it."""

    def __init__(self, library: Path, answers: Path) -> None:
        self._answers = answers
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER],
            env={
                **os.environ,
                "PYTHONPATH": str(REPOSITORY),
                "LD_LIBRARY_PATH": str(library),
                "STUB_NVML": str(answers),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read(self, answers: str, after_s: float = 0.5) -> Snapshot:
        """A reading, later, of a library that gives these answers."""
        self._answers.write_text(answers)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{after_s}\n")
        self._process.stdin.flush()
        snapshot: Snapshot = json.loads(self._process.stdout.readline())
        return snapshot

    def end(self) -> str:
        """End the process; its log."""
        self._process.kill()
        return self._process.communicate()[1]


@pytest.fixture
def gpu(library: Path, tmp_path: Path) -> Iterator[Gpu]:
    """A GPU that says what the test wants."""
    gpu = Gpu(library, tmp_path / "answers")
    yield gpu
    gpu.end()


def values(snapshot: Snapshot) -> list[Any]:
    """The fields a GPU fills."""
    return [snapshot[field] for field in FIELDS]


def is_up(snapshot: Snapshot) -> bool | None:
    """Whether the sensor answers; None if it is not listed."""
    return next((sensor["is_up"] for sensor in snapshot["sensors"]), None)


def test_a_gpu_in_our_units(gpu: Gpu) -> None:
    """MHz become Hz, percent a fraction."""
    snapshot = gpu.read(FINE)
    assert values(snapshot) == [1.41e9, 1.98e9, 0.35, 52.0]
    assert (snapshot["source"], is_up(snapshot)) == ("nvml", True)


@pytest.mark.parametrize("answers", ["3", "100"], ids=["supports nothing, as an Orin", "no GPU"])
def test_nothing_to_tell_is_no_sensor(gpu: Gpu, answers: str) -> None:
    """A library that supports nothing, or has no GPU, is absent, silently."""
    snapshot = gpu.read(answers)
    assert values(snapshot) == [None] * 4
    assert is_up(snapshot) is None
    assert gpu.end() == ""


def test_no_library_is_no_sensor(tmp_path: Path) -> None:
    """Without NVIDIA's library there is no sensor, and nothing to log."""
    gpu = Gpu(tmp_path, tmp_path / "answers")
    snapshot = gpu.read(FINE)
    assert (values(snapshot), is_up(snapshot), gpu.end()) == ([None] * 4, None, "")


@pytest.mark.parametrize(
    "answers", ["15", "0 1410 99999 35 52", "0 1410 1980 101 52"], ids=["lost", "absurd cap", "absurd load"]
)
def test_a_gpu_that_fails_and_is_back(gpu: Gpu, answers: str) -> None:
    """A GPU that is lost or absurd is None and down with one line, and comes back through a new start."""
    gpu.read(FINE)
    for _ in range(4):
        snapshot = gpu.read(answers)
        assert values(snapshot) == [None] * 4
        assert is_up(snapshot) is False
    assert values(gpu.read(FINE, LONG_ENOUGH_S)) == [1.41e9, 1.98e9, 0.35, 52.0]
    assert [line.split(" ")[1:3] for line in gpu.end().splitlines()] == [["nvml", "fails,"], ["nvml", "is"]]


def test_a_driver_of_another_version(gpu: Gpu) -> None:
    """A library that refuses to start, as after an update of the driver, is down with one line until it starts."""
    assert [is_up(gpu.read("101")) for _ in range(3)] == [False] * 3
    assert is_up(gpu.read(FINE, LONG_ENOUGH_S)) is True
    assert len(gpu.end().splitlines()) == 2


def test_a_gpu_that_hangs_and_is_back(gpu: Gpu) -> None:
    """A driver that does not answer holds up no reading; when it answers again, so does the sensor."""
    gpu.read(FINE)
    snapshots = [gpu.read("102") for _ in range(5)]
    assert (values(snapshots[-1]), is_up(snapshots[-1])) == ([None] * 4, False)
    give_up_s = time.monotonic() + PATIENCE_S
    while not is_up(gpu.read(FINE, LONG_ENOUGH_S)):
        assert time.monotonic() < give_up_s, "it never came back"
