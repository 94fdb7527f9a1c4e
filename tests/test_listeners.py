"""How many connections the process may hold. What it listens on is tested with the daemon and socket activation."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from dynhat_runtime.listeners import MANY_DESCRIPTORS, allow_many_connections


@pytest.fixture
def limits() -> Iterator[tuple[int, int]]:
    """The process's limits, put back in the end."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_low_limit_is_raised(limits: tuple[int, int]) -> None:
    """A shell's limit gives way to what the process may have, and a higher one is left alone."""
    hard = limits[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    allow_many_connections()
    raised = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert raised == (
        MANY_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MANY_DESCRIPTORS),
        hard,
    )
    allow_many_connections()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == raised
