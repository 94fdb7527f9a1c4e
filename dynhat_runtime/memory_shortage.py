"""Tells an error that means "not enough memory" from all others, whoever raised it. Frees nothing, retries nothing.

A C++ library that runs out of memory where it expects no error ends the process with SIGABRT; nobody can tell that.
"""

from __future__ import annotations

import errno

from dynhat_runtime.errors import LowMemoryError

PHRASES = (
    "failed to map segment",  # the dynamic linker, loading torch
    "cannot allocate memory",
    "can't allocate memory",  # torch's allocator
    "not enough memory",
    "out of memory",  # CUDA
    "std::bad_alloc",
    "can't start new thread",  # Python, for want of a stack
)


# Rules: it is one, if it or what it came from
#   1  is a MemoryError
#   2  carries the system's ENOMEM
#   3  is of a library that says it in words
def low_memory_error(error: BaseException) -> LowMemoryError | None:
    """What to say instead of `error` where memory ran out; None where something else happened."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if _is_shortage(cause):
            said = " ".join(str(cause).split())[:160] or type(cause).__name__
            return LowMemoryError(
                f"not enough memory ({said}): end other programs, raise the limit (MemoryMax=, ulimit -v), or give a "
                "smaller bundle"
            )
        cause = cause.__cause__ or cause.__context__
    return None


def _is_shortage(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError | ImportError | OSError) and any(
        phrase in str(error).lower() for phrase in PHRASES
    )
