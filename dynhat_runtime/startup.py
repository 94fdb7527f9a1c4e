"""A short start: nothing is looked through for garbage while everything is imported and loaded.

Importing torch and the web framework makes about a million objects that stay. Python's collector looks through them
again and again meanwhile, and for the rest of the process whenever it looks through everything. Imports nothing that is
imported slowly; loads nothing itself.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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
