"""The C library's allocator: how many arenas it has, and what it does with memory that nobody uses any more.

Both are glibc's; where the C library is another, nothing is done. Imports nothing that is imported slowly.
"""

from __future__ import annotations

import contextlib
import ctypes

M_ARENA_MAX = -8
"""glibc's number for it, in malloc.h."""
NUM_ARENAS = 2


def share_arenas() -> None:
    """Have all threads allocate from two arenas.

    It would give each new thread one of its own, up to eight per CPU, and what is freed there stays there. Every
    reload brings new threads: memory grew by a sixth in two minutes of them (`docs/decisions/0022-faults.md`).
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, NUM_ARENAS)


def release_free_memory() -> None:
    """Give what is free back to the system: 1 to 10 ms, in which other threads may wait to allocate.

    It would keep what lies between blocks in use, as much as there ever was of it.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
