"""Loads the native decoder and gives its functions Python types. Builds nothing and holds no weights.

The library that fits the processor is chosen here; one that was built from other sources is refused.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_double, c_int, c_int64, c_void_p
from typing import Any

from dynhat_runtime.errors import NativeUnavailableError
from dynhat_runtime.native.build import AVX2, BASELINE, REMEDY, SOURCES, Variant, source_hash
from dynhat_runtime.native.structures import Network

_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "source_hash": (c_char_p, ()),
    "has_avx2": (c_int, ()),
    "pack_float": (None, (c_void_p, c_int, c_int, c_int, c_void_p)),
    "pack_int8": (None, (c_void_p, c_int, c_int, c_int, c_void_p, c_void_p)),
    "encode": (c_void_p, (POINTER(Network), c_void_p, c_void_p, c_int)),
    "free_encoding": (None, (c_void_p,)),
    "start": (c_void_p, (POINTER(Network), c_void_p, c_void_p, c_void_p, c_int, c_int)),
    "free_decoder": (None, (c_void_p,)),
    "step": (c_int, (c_void_p, c_void_p, c_void_p)),
    "keep": (None, (c_void_p, c_void_p, c_int)),
    "decoder_bytes": (c_int64, (c_void_p,)),
    "search": (c_void_p, (c_void_p, c_void_p, c_int, c_int, c_int, c_int, c_int, c_int)),
    "free_search": (None, (c_void_p,)),
    "search_for": (c_int, (c_void_p, c_double)),
    "num_hypotheses": (c_int, (c_void_p, c_int)),
    "hypothesis": (c_int, (c_void_p, c_int, c_int, c_void_p, c_void_p)),
}


class Library:
    """The functions of `csrc/interface.cpp`, each under its name there without the prefix."""

    def __init__(self, variant: Variant) -> None:
        """Load one variant.

        Raises:
            NativeUnavailableError: It is not built, cannot be loaded, or was built from other sources.
        """
        self.variant = variant
        try:
            self._library = ctypes.CDLL(str(variant.file))
        except OSError as error:
            raise NativeUnavailableError(
                f"the native decoder is not there ({error}): decoding falls back to PyTorch, several times slower; "
                f"{REMEDY}"
            ) from error
        built_from = self.function("source_hash")().decode()
        if SOURCES.is_dir() and built_from != source_hash():
            raise NativeUnavailableError(
                f"the native decoder {variant.file.name} was built from other sources: decoding falls back to "
                f"PyTorch, several times slower; {REMEDY}"
            )

    def function(self, name: str) -> Callable[..., Any]:
        """One function, with its types."""
        function = getattr(self._library, f"dynhat_{name}")
        function.restype, function.argtypes = _SIGNATURES[name]
        return function  # type: ignore[no-any-return]  # ctypes makes it

    def __getattr__(self, name: str) -> Any:
        function = self.function(name)
        setattr(self, name, function)
        return function


@functools.cache
def load() -> Library:
    """The library for this processor.

    Raises:
        NativeUnavailableError: There is none; the message names the remedy.
    """
    baseline = Library(BASELINE)
    return Library(AVX2) if baseline.has_avx2() else baseline


def is_available() -> bool:
    """Whether `load` finds it."""
    try:
        load()
    except NativeUnavailableError:
        return False
    return True
