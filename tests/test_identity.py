"""The device's name: a board's from its firmware, a processor's otherwise."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynhat_runtime.monitor.identity import device_name


@pytest.fixture(autouse=True)
def _four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 4)


def test_board(tmp_path: Path) -> None:
    """An Arm board says its device-tree model, without the NUL that ends it."""
    model = tmp_path / "proc/device-tree/model"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"NVIDIA Jetson Nano Developer Kit\0")
    assert device_name(tmp_path) == "NVIDIA Jetson Nano Developer Kit, 4 CPUs"


def test_processor(tmp_path: Path) -> None:
    """Without a board name the processor's is taken."""
    cpuinfo = tmp_path / "proc/cpuinfo"
    cpuinfo.parent.mkdir(parents=True)
    cpuinfo.write_text("model name\t: Some CPU @ 2 GHz\n\nmodel name\t: Some CPU @ 2 GHz\n")
    assert device_name(tmp_path) == "Some CPU @ 2 GHz, 4 CPUs"


def test_nothing_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither can be read the architecture stands in."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert device_name(tmp_path) == "aarch64, 4 CPUs"
