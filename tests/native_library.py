"""The native decoder, built if it is not there or older than its sources; without a compiler none is tested."""

from __future__ import annotations

import functools

import pytest

from dynhat_runtime.errors import NativeUnavailableError
from dynhat_runtime.native.build import BuildError, build, find_compiler
from dynhat_runtime.native.library import Library, load


@functools.cache
def native_library() -> Library:
    """The library for this machine; skips the test where no compiler is installed."""
    try:
        return load()
    except NativeUnavailableError:
        try:
            find_compiler()
        except BuildError as error:
            pytest.skip(str(error))
        build()
        return load()
