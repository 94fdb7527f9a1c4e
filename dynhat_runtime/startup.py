"""A short start: nothing is looked through for garbage while everything is loaded; where torch decodes, its libraries
come meanwhile.

Importing the web framework, and torch where that is needed, makes some 300,000 objects that stay
(`docs/decisions/0016-start-up.md`). Python's collector looks through them again and again meanwhile, and for the rest
of the process whenever it looks through everything. Imports nothing that is imported slowly; loads no weights.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TORCH_LIBRARIES = (("libtorch_global_deps.so", ctypes.RTLD_GLOBAL), ("libtorch_python.so", ctypes.RTLD_LOCAL))
"""In the order, and each in the way, that importing torch loads them."""


@contextmanager
def loading() -> Iterator[Callable[[], None]]:
    """Collect no garbage in the block, or until what it hands out is called: then everything is loaded.

    From then on the collector works as it did before, and leaves alone what was there by then.
    """
    is_over = not gc.isenabled()
    gc.disable()

    def loaded() -> None:
        nonlocal is_over
        if not is_over:
            is_over = True
            gc.freeze()
            gc.enable()

    try:
        yield loaded
    finally:
        loaded()


def begin_to_load_torch() -> threading.Thread:
    """Have the system load torch's libraries on a thread, while this one imports other things.

    Loading a library needs no interpreter, so a second CPU does it; the import that comes later finds them loaded.
    Where they are not found, or need more than torch's own import gives them, that import does it all, as ever.
    """
    thread = threading.Thread(target=_load_torch_libraries, name="dynhat-torch-libraries", daemon=True)
    thread.start()
    return thread


def _load_torch_libraries() -> None:
    found = importlib.util.find_spec("torch")  # of a package at the top: nothing is imported for it
    if found is None or found.origin is None:
        return
    folder = Path(found.origin).parent / "lib"
    with contextlib.suppress(OSError):
        for name, mode in TORCH_LIBRARIES:
            ctypes.CDLL(str(folder / name), mode=mode)
