"""The collector of garbage rests while a process loads, and works afterwards."""

from __future__ import annotations

import gc
import importlib.util
import subprocess
import sys
import weakref

import pytest

from dynhat_runtime import startup
from dynhat_runtime.model.checkpoint import Bundle
from tests.native_library import native_library


class Loop:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _as_before() -> object:
    """Every test begins with the collector on and leaves it on, with nothing set aside."""
    gc.enable()
    yield
    gc.unfreeze()
    gc.enable()


def test_rests_until_loaded() -> None:
    """Inside the block nothing is collected by itself; after it, it is."""
    with startup.loading():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_loaded_before_the_block_ends() -> None:
    """A process that serves inside the block says when it is loaded; what was there by then is set aside."""
    with startup.loading() as loaded:
        kept = Loop()
        loaded()
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
        assert not any(thing is kept for thing in gc.get_objects())
        frozen = gc.get_freeze_count()
    assert gc.get_freeze_count() <= frozen


def test_garbage_of_later_is_collected() -> None:
    """What is made after loading is found when it is garbage."""
    with startup.loading() as loaded:
        loaded()
        later = weakref.ref(Loop())
        gc.collect()
        assert later() is None


def test_failure() -> None:
    """A start that fails leaves the collector as it was."""
    with pytest.raises(ValueError, match="no bundle"), startup.loading():
        raise ValueError("no bundle")
    assert gc.isenabled()


def test_whoever_turned_it_off() -> None:
    """Where the collector was off before, it stays off."""
    gc.disable()
    with startup.loading() as loaded:
        loaded()
        assert not gc.isenabled()
    assert not gc.isenabled()


def test_torch_is_the_same_when_its_libraries_came_before() -> None:
    """Libraries loaded ahead are the ones that torch's import uses, and torch computes."""
    code = (
        "from dynhat_runtime import startup\nstartup.begin_to_load_torch().join()\nimport sys\n"
        "assert 'torch' not in sys.modules\nmapped = 'libtorch_cpu' in open('/proc/self/maps').read()\n"
        "import torch\nprint(mapped, int((torch.ones(2, 3) @ torch.ones(3, 1)).sum()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.stderr) == ("True 6\n", "")


def test_without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no torch nothing is loaded, and nothing fails: importing it will say so."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    failures: list[object] = []
    monkeypatch.setattr("threading.excepthook", failures.append)
    startup.begin_to_load_torch().join()
    assert failures == []


def test_libraries_that_cannot_be_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that cannot be loaded ahead are left to torch's own import."""
    monkeypatch.setattr(startup, "TORCH_LIBRARIES", (("libnone.so", 0),))
    failures: list[object] = []
    monkeypatch.setattr("threading.excepthook", failures.append)
    startup.begin_to_load_torch().join()
    assert failures == []


def test_serving_needs_no_torch(tiny_bundle: Bundle) -> None:
    """With the native decoder the whole daemon is imported, a bundle loaded, checked and translated with, and nothing
    has asked for torch, which takes longer to import than all of that."""
    native_library()
    program = (
        "import sys\nfrom pathlib import Path\nimport dynhat_runtime.daemon, dynhat_runtime.http_server\n"
        "from dynhat_runtime.engine import TranslationEngine\nfrom dynhat_runtime.model.checkpoint import Bundle\n"
        f"bundle = Bundle.open(Path({str(tiny_bundle.path)!r}))\n"
        "engine = TranslationEngine.load(bundle, bundle.table())\nengine.start()\n"
        "print(len(engine.submit(['A man.', 'The red house.']).result(30)))\nengine.stop(5.0)\n"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] == 'torch'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["2", "[]"]
