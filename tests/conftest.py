"""Set up for all tests: one thread, since tiny models only lose time to more; a tiny bundle made once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from dynhat_runtime.model.checkpoint import Bundle
from tests.daemon_process import Process
from tests.tiny_bundle import make_tiny_bundle

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle; tests that alter files copy it first."""
    return make_tiny_bundle(Path(tmp_path_factory.mktemp("bundles")) / "tiny")


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
