"""The native decoder's build: what it needs, what it refuses, and that every processor says the same."""

from __future__ import annotations

import logging
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from dynhat_runtime.decoding.beam_search import beam_search
from dynhat_runtime.decoding.search import BeamOptions
from dynhat_runtime.errors import NativeUnavailableError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.decodable_super import PointCutter
from dynhat_runtime.model.laid_out import LaidOutSuper, for_decoding
from dynhat_runtime.model.native_network import NativeSubTransformer, NativeSuperTransformer
from dynhat_runtime.model.sub_transformer import SubTransformer
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.native import build as building
from dynhat_runtime.native import library
from dynhat_runtime.native.build import BASELINE, SOURCES, BuildError, build, find_compiler, variants
from dynhat_runtime.native.library import Library
from tests.golden import hat_configs, tiny_super_transformer
from tests.native_library import native_library

SELFTEST = Path(__file__).parent / "native_selftest.cpp"
ARM_COMPILER, ARM_EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"


def test_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler the message says what to install and what to run then."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(
        BuildError, match=r"no C\+\+ compiler found: install .* -m dynhat_runtime.native.build"
    ):
        find_compiler()


def test_failing_compiler(tmp_path: Path) -> None:
    """A compiler that fails is named with what it said, and the libraries that were there stay."""
    native_library()
    before = BASELINE.file.read_bytes()
    compiler = tmp_path / "broken"
    compiler.write_text("#!/bin/sh\necho no such flag >&2\nexit 1\n")
    compiler.chmod(0o755)
    with pytest.raises(BuildError, match=r"broken failed on the native decoder \(baseline\): no such flag"):
        build("aarch64", str(compiler))
    assert BASELINE.file.read_bytes() == before
    assert not list(BASELINE.file.parent.glob("_decoder_*.[0-9]*"))


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The native decoder was not built."""
    monkeypatch.setattr(building, "FOLDER", tmp_path)
    library.load.cache_clear()


@pytest.fixture
def tiny() -> SuperTransformer:
    """A tiny model."""
    return tiny_super_transformer("tiny_shared")


@pytest.mark.usefixtures("no_library")
def test_falls_back(tiny: SuperTransformer, caplog: pytest.LogCaptureFixture) -> None:
    """Without the library PyTorch decodes, and one warning names the remedy; int8 is refused, not ignored."""
    with caplog.at_level(logging.WARNING):
        assert isinstance(for_decoding(tiny).by_precision["fp32"], LaidOutSuper)
    (record,) = caplog.records
    assert "falls back to PyTorch" in record.getMessage()
    assert "python -m dynhat_runtime.native.build" in record.getMessage()
    with pytest.raises(NativeUnavailableError):
        for_decoding(tiny, ("int8",))


@pytest.mark.usefixtures("no_library")
def test_points_fall_back(tiny_bundle: Bundle) -> None:
    """Without the library every point of a table is served by PyTorch, int8 or not."""
    points = [point.model_copy(update={"precision": "int8"}) for point in tiny_bundle.table()]
    subs = PointCutter(tiny_bundle.weights).cut_out(points)
    assert subs.keys() == {point.id for point in points}
    assert all(isinstance(sub, SubTransformer) for sub in subs.values())


def test_points_get_what_they_name(tiny_bundle: Bundle) -> None:
    """Points of one table are served with the precision and threads each names; points of a precision share it."""
    native_library()
    first, *others = tiny_bundle.table()
    points = [first.model_copy(update={"precision": "int8", "num_threads": 2}), *others]
    subs = PointCutter(tiny_bundle.weights).cut_out(points)
    networks = [sub._point.network for sub in subs.values() if isinstance(sub, NativeSubTransformer)]
    assert [network.output.is_int8 for network in networks] == [1] + [0] * len(others)
    assert [network.num_threads for network in networks] == [2] + [1] * len(others)
    assert len({network.output.panels for network in networks}) == 2


def test_other_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library built from other sources than those beside it is refused."""
    native_library()
    monkeypatch.setattr(library, "source_hash", lambda: "0123456789abcdef")
    with pytest.raises(NativeUnavailableError, match="was built from other sources"):
        Library(BASELINE)


def test_on_the_cpu_it_is_native(tiny: SuperTransformer) -> None:
    """Where the library is there it decodes; weights of another type stay with PyTorch."""
    native_library()
    assert isinstance(for_decoding(tiny).by_precision["fp32"], NativeSuperTransformer)
    halves = SuperTransformer(tiny.spec, {name: weight.half() for name, weight in tiny.weights.items()})
    assert isinstance(for_decoding(halves).by_precision["fp32"], LaidOutSuper)


@torch.inference_mode()
def test_every_variant_says_the_same(tiny: SuperTransformer) -> None:
    """Kernels for older processors find the hypotheses that those for this one find, in both precisions."""
    native_library()
    config, src = hat_configs("tiny_shared")["largest_2"], torch.tensor([[5, 6, 7, 8, 2], [1, 1, 9, 10, 2]])
    for precision in ("fp32", "int8"):
        found = []
        for variant in variants(platform.machine()):
            sub = NativeSuperTransformer(tiny.as_weights, precision, Library(variant)).extract(config)
            found.append(beam_search(sub.start(sub.encode(src), 4), [20, 20], BeamOptions(4)))
        for other in found[1:]:
            for mine, theirs in zip(other, found[0], strict=True):
                assert [h.tokens for h in mine] == [h.tokens for h in theirs]
                assert [h.score for h in mine] == pytest.approx([h.score for h in theirs], abs=1e-3)


def _compiled(compiler: str, out: Path, *flags: str) -> Path:
    """The self-test as a program."""
    sources = [path for path in sorted(SOURCES.glob("*.cpp")) if path.name != "interface.cpp"]
    command = [compiler, "-std=c++17", "-O2", "-pthread", f"-I{SOURCES}", *flags, str(SELFTEST)]
    subprocess.run([*command, *map(str, sources), "-o", str(out)], check=True)
    return out


@pytest.mark.skipif(
    not (shutil.which(ARM_COMPILER) and shutil.which(ARM_EMULATOR)),
    reason=f"needs {ARM_COMPILER} and {ARM_EMULATOR}",
)
def test_aarch64(tmp_path: Path) -> None:
    """An emulated 64-bit ARM processor finds the hypotheses that this one finds, in both precisions."""
    here = subprocess.run([_compiled(find_compiler(), tmp_path / "here")], capture_output=True, check=True)
    arm = _compiled(ARM_COMPILER, tmp_path / "arm", "-static")
    there = subprocess.run([ARM_EMULATOR, str(arm)], capture_output=True, check=True)
    assert here.stdout.count(b"\n") > 40
    assert there.stdout == here.stdout
