"""`dynhat record` against the real route: complete, bounded, and harmless when the disk is full."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from dynhat_runtime.errors import DaemonUnreachableError, SettingsError, TraceError
from dynhat_runtime.recording import Recorded, TraceRecording
from dynhat_runtime.service import trace
from dynhat_runtime.service.door import Door
from dynhat_runtime.trace import MAX_PAGE_EVENTS, Gap
from dynhat_runtime.trace_file import TraceFile
from dynhat_runtime.trace_ring import TraceRing
from tests.test_trace import HEADER, OBSERVATION

PATIENCE_S = 30.0


class Served:
    """A daemon's trace route on a port of its own."""

    def __init__(self, ring: TraceRing) -> None:
        self.ring = ring
        app = FastAPI()
        app.include_router(trace.router(lambda: self.ring, Door()))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]})
        self._thread.start()

    def tell(self, *numbers: int) -> None:
        """Events, told apart by a number."""
        for number in numbers:
            self.ring.observation(replace(OBSERVATION, num_src_tokens=number))

    def close(self) -> None:
        """End it."""
        self._server.should_exit = True
        self._thread.join(PATIENCE_S)
        self._listener.close()


@pytest.fixture
def served() -> Iterator[Served]:
    """One that has nothing to tell yet."""
    running = Served(TraceRing(HEADER))
    yield running
    running.close()


def numbers_in(path: Path) -> list[int]:
    """The events of a file, by their numbers; a gap is a negative number."""
    file = TraceFile(path)
    found = [-event.num_lost if isinstance(event, Gap) else event.num_src_tokens for event in file.events()]  # type: ignore[union-attr]
    assert file.flaws.num_broken == 0
    return found


@contextmanager
def recording(served: Served, path: Path, max_mib: float = 10.0) -> Iterator[Callable[[], Recorded]]:
    """A recording under way; what is given ends it."""
    stopping, results = threading.Event(), list[Recorded]()
    thread = threading.Thread(
        target=lambda: results.append(TraceRecording(served.url, path, max_mib).run(stopping))
    )
    thread.start()

    def end() -> Recorded:
        stopping.set()
        thread.join(PATIENCE_S)
        return results[0]

    try:
        yield end
    finally:
        stopping.set()
        thread.join(PATIENCE_S)


def until(is_so: Callable[[], object]) -> None:
    """Return when it is."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_everything_until_it_is_told_to_stop(served: Served, tmp_path: Path) -> None:
    """What the daemon held before, what came meanwhile, and what came in the last moment: each once, in order."""
    path = tmp_path / "trace.jsonl"
    served.tell(1, 2)
    with recording(served, path) as end:
        until(lambda: path.exists() and path.read_bytes().count(b"\n") == 3)
        served.tell(3)
        until(lambda: path.read_bytes().count(b"\n") == 4)
        served.tell(4, 5)
        recorded = end()
    assert numbers_in(path) == [1, 2, 3, 4, 5]
    assert TraceFile(path).header == HEADER
    assert recorded == Recorded(num_events=5, num_lost=0, ended_by="told to stop")


def test_more_than_a_page(served: Served, tmp_path: Path) -> None:
    """A long past is fetched whole before the recording ends."""
    served.tell(*range(1, MAX_PAGE_EVENTS + 100))
    TraceRecording(served.url, tmp_path / "t", 10.0).run(threading.Event(), seconds=0.0)
    assert numbers_in(tmp_path / "t") == list(range(1, MAX_PAGE_EVENTS + 100))


def test_a_rush_at_the_end(served: Served, tmp_path: Path) -> None:
    """Also what comes in the last moment, and is more than a page, is fetched whole."""
    path = tmp_path / "trace.jsonl"
    served.tell(1)
    with recording(served, path) as end:
        until(lambda: path.exists() and path.read_bytes().count(b"\n") == 2)
        served.tell(*range(2, 2 * MAX_PAGE_EVENTS))
        end()
    assert numbers_in(path) == list(range(1, 2 * MAX_PAGE_EVENTS))


def test_what_came_too_early_is_a_gap(tmp_path: Path) -> None:
    """Events that the daemon holds no more leave a line that says how many."""
    running = Served(TraceRing(HEADER, max_held_bytes=1000))
    try:
        running.tell(*range(1, 101))
        recorded = TraceRecording(running.url, tmp_path / "t", 10.0).run(threading.Event(), seconds=0.0)
    finally:
        running.close()
    gap, *held = numbers_in(tmp_path / "t")
    assert held == list(range(1 - gap, 101))
    assert recorded.num_lost == -gap > 0


def test_it_ends_with_the_daemon(served: Served, tmp_path: Path) -> None:
    """Another daemon in the place of the recorded one ends the recording; its events are not mixed in."""
    path = tmp_path / "t"
    served.tell(1)
    with recording(served, path) as end:
        until(lambda: path.exists() and path.read_bytes().count(b"\n") == 2)
        served.ring = TraceRing(replace(HEADER, started_at="later"))
        served.tell(7, 8, 9)
        recorded = end()
    assert numbers_in(path) == [1]
    assert recorded.ended_by == "the daemon ended"


def test_it_ends_at_its_size(served: Served, tmp_path: Path) -> None:
    """A recording does not outgrow its size by more than a page."""
    served.tell(*range(1, 2001))
    recorded = TraceRecording(served.url, tmp_path / "t", 0.05).run(threading.Event())
    assert "size" in recorded.ended_by
    assert len(numbers_in(tmp_path / "t")) == recorded.num_events == 2000


def test_a_recording_is_not_overwritten(served: Served, tmp_path: Path) -> None:
    """A file that holds something is refused by name and stays as it is."""
    path = tmp_path / "t"
    path.write_text("precious")
    with pytest.raises(TraceError, match=f"{path}: is there already"):
        TraceRecording(served.url, path, 1.0).run(threading.Event(), seconds=0.0)
    assert path.read_text() == "precious"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(served: Served) -> None:
    """On a full disk the recording ends with one error that names the file and the remedy; the route goes on."""
    served.tell(*range(1, 500))
    with pytest.raises(TraceError, match=r"/dev/full: cannot be written \(No space left on device\)"):
        TraceRecording(served.url, Path("/dev/full"), 1.0).run(threading.Event(), seconds=0.0)
    assert '"next":499' in served.ring.page_after(0)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0])
def test_no_number(served: Served, tmp_path: Path, number: float) -> None:
    """A time or a size that is none is refused by name, and no file is begun."""
    with pytest.raises(SettingsError, match=r"^seconds="):
        TraceRecording(served.url, tmp_path / "t", 1.0).run(threading.Event(), number)
    with pytest.raises(SettingsError, match=r"^max_mib="):
        TraceRecording(served.url, tmp_path / "t", number)
    assert list(tmp_path.iterdir()) == []


def test_no_folder(served: Served, tmp_path: Path) -> None:
    """A place that is not there is said to be, before anything is recorded."""
    with pytest.raises(TraceError, match="No such file or directory"):
        TraceRecording(served.url, tmp_path / "missing" / "t", 1.0).run(threading.Event(), seconds=0.0)


def test_no_daemon(tmp_path: Path) -> None:
    """Where nothing answers, no file is begun."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(DaemonUnreachableError, match="no daemon answers"):
        TraceRecording(f"http://127.0.0.1:{port}", tmp_path / "t", 1.0).run(threading.Event(), seconds=0.0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_ends_well(served: Served, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM end `dynhat record` with status 0, one line, and the last event in the file."""
    path = tmp_path / "t"
    served.tell(1)
    command = [sys.executable, "-m", "dynhat_runtime", "record", "--url", served.url, "--out", str(path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ})
    until(lambda: path.exists() and path.read_bytes().count(b"\n") == 2)
    served.tell(2)
    process.send_signal(number)
    error = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 0, error
    assert error == f"told to stop: 2 events in {path}\n"
    assert numbers_in(path) == [1, 2]
