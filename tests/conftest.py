"""Set up for all tests: one thread, since tiny models only lose time to more; a tiny bundle made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.service.lifecycle import Lifecycle
from tests.daemon_process import Process
from tests.service_fakes import FakeControl, FakeEngine, ready
from tests.tiny_bundle import make_tiny_bundle

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle; tests that alter files copy it first."""
    return make_tiny_bundle(Path(tmp_path_factory.mktemp("bundles")) / "tiny")


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    """A fake engine that answers at once; it holds back what it has when `go` is cleared, and lets go in the end."""
    engine = FakeEngine()
    yield engine
    engine.go.set()


@pytest.fixture
def control(engine: FakeEngine) -> FakeControl:
    """The engine's fake control loop; p1, p2 and p3 are predicted to take 10, 20 and 30 ms."""
    return FakeControl(engine)


@pytest.fixture
def lifecycle(engine: FakeEngine, control: FakeControl) -> Lifecycle:
    """A daemon that is ready with the two."""
    return ready(engine, control)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts a fake daemon and sees to its end."""
    started: list[Process] = []

    def start(*names: str, **settings: object) -> Process:
        process = Process(tmp_path, **settings)
        started.append(process)
        process.touch(*names)
        return process

    yield start
    for process in started:
        process.popen.kill()
        process.wait()
