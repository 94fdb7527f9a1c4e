"""The collector of garbage rests while a process loads, and works afterwards."""

from __future__ import annotations

import gc
import weakref

import pytest

from dynhat_runtime import startup


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
