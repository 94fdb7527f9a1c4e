"""Tests of dynhat_runtime.housekeeping and of the C library's allocator under it."""

from __future__ import annotations

import asyncio
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from dynhat_runtime import housekeeping
from dynhat_runtime.decoding_progress import DecodingProgress
from dynhat_runtime.housekeeping import IDLE_S, Housekeeping
from dynhat_runtime.service.lifecycle import Lifecycle
from tests.service_fakes import FakeEngine

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="arenas are glibc's")

ARENAS = """
import ctypes, re, sys, threading
from dynhat_runtime import c_allocator
if sys.argv[1] == "shared":
    c_allocator.share_arenas()
c = ctypes.CDLL(None)
c.malloc.restype, c.fopen.restype = ctypes.c_void_p, ctypes.c_void_p
meeting = threading.Barrier(8)
def allocate():
    meeting.wait()
    ctypes.CDLL(None).malloc(1000)
    meeting.wait()
threads = [threading.Thread(target=allocate) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
file = ctypes.c_void_p(c.fopen(sys.argv[2].encode(), b"w"))
c.malloc_info(0, file)
c.fclose(file)
print(len(re.findall("<heap nr", open(sys.argv[2]).read())))
"""

FREED = """
import ctypes, psutil
from dynhat_runtime import c_allocator
c = ctypes.CDLL(None)
c.malloc.restype, c.malloc.argtypes, c.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size, blocks = 100_000, []
for _ in range(500):
    blocks.append(c.malloc(size))
    ctypes.memset(blocks[-1], 1, size)
[c.free(block) for block in blocks[:-1]]
before = psutil.Process().memory_info().rss
c_allocator.release_free_memory()
print(before - psutil.Process().memory_info().rss)
"""


@needs_glibc
def test_arenas_are_shared(tmp_path: Path) -> None:
    """Eight threads that allocate at once have two arenas together; without it they have more."""

    def num_arenas(how: str) -> int:
        command = [sys.executable, "-c", ARENAS, how, str(tmp_path / how)]
        return int(subprocess.check_output(command, text=True, cwd=Path(__file__).parent.parent))

    assert num_arenas("shared") <= 2 < num_arenas("own")


@needs_glibc
def test_free_memory_is_released() -> None:
    """50 MB below a block in use would stay with the process."""
    command = [sys.executable, "-c", FREED]
    released = int(subprocess.check_output(command, text=True, cwd=Path(__file__).parent.parent))
    assert released > 40_000_000


def test_when_it_is_due(engine: FakeEngine, lifecycle: Lifecycle) -> None:
    """Once after each spell of work, when the engine has been idle for a moment; never before anything is loaded."""
    keeping = Housekeeping(lifecycle)

    def is_due(advanced_s: float, now_s: float, is_busy: bool = False) -> bool:
        engine.progress = DecodingProgress(is_busy=is_busy, advanced_s=advanced_s)
        return keeping.is_due(now_s)

    assert not is_due(100.0, 100.0 + IDLE_S / 2)
    assert is_due(100.0, 100.0 + IDLE_S)
    assert not is_due(100.0, 200.0)
    assert not is_due(200.0, 210.0, is_busy=True)
    assert is_due(210.0, 220.0)
    assert not Housekeeping(Lifecycle()).is_due(1e9)


def test_it_tidies(engine: FakeEngine, lifecycle: Lifecycle, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on looking, and tidies once for each spell of work."""
    monkeypatch.setattr(housekeeping, "IDLE_S", 0.01)
    done: list[float] = []

    async def run() -> None:
        keeping = asyncio.ensure_future(
            Housekeeping(lifecycle, lambda: done.append(engine.progress.advanced_s)).run()
        )
        for advanced_s in (1.0, 2.0):
            engine.progress = DecodingProgress(is_busy=False, advanced_s=advanced_s)
            await asyncio.sleep(0.2)
        keeping.cancel()

    asyncio.run(run())
    assert done == [1.0, 2.0]
