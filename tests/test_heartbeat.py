"""Tests of dynhat_runtime.heartbeat: when the watchdog is fed, and what systemd is told."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynhat_runtime.decoding_progress import DecodingProgress
from dynhat_runtime.heartbeat import Heartbeat, StallLimits
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from dynhat_runtime.systemd_notify import Notifier
from tests.service_fakes import FakeControl, FakeEngine

NOW_S = 1000.0


class Watched:
    """A heartbeat between a fake engine and a manager's socket."""

    def __init__(self, manager: socket.socket) -> None:
        self._manager = manager
        self.engine = FakeEngine()
        self.control = FakeControl(self.engine)
        self.lifecycle = Lifecycle()
        notifier = Notifier(manager.getsockname())
        self.heartbeat = Heartbeat(notifier, self.lifecycle, lambda: StallLimits(400.0, 5.0))

    def work(self, since_s: float, point_id: str = "p1") -> None:
        """Let the engine be at work on a point, and have got on so long ago."""
        self.engine.progress = DecodingProgress(
            is_busy=True, advanced_s=NOW_S - since_s, point_id=point_id, num_src_tokens=(5,)
        )

    def beat(self) -> list[str]:
        """What one beat says."""
        self.heartbeat.beat(NOW_S)
        return self.heard()

    def heard(self) -> list[str]:
        """What has been said since."""
        said = []
        while True:
            try:
                said.append(self._manager.recv(999, socket.MSG_DONTWAIT).decode())
            except BlockingIOError:
                return said


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """The heartbeat of a daemon that has just become ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        watched = Watched(manager)
        watched.lifecycle.ready(Serving(watched.engine, watched.control))
        yield watched


def test_idle(watched: Watched) -> None:
    """Idle it is fed, however long ago the last sentence was; the state is told once."""
    status = "STATUS=serving: operating point p1 of 3, chosen by the governor"
    assert watched.beat() == ["WATCHDOG=1", status]
    assert watched.beat() == ["WATCHDOG=1"]


def test_another_point(watched: Watched) -> None:
    """Another operating point, or another who chooses, is told."""
    watched.beat()
    watched.control.pin("p2")
    assert watched.beat()[1:] == ["STATUS=serving: operating point p2 of 3, chosen by hand"]


def test_at_work(watched: Watched) -> None:
    """At work it is fed as long as it gets on."""
    watched.work(since_s=4.0)
    assert "WATCHDOG=1" in watched.beat()


def test_stuck(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    """Stuck it goes unfed and says so, in the log once; going on it is fed again."""
    caplog.set_level(logging.INFO)
    watched.work(since_s=6.0)
    assert watched.beat() == ["STATUS=stuck: nothing decoded for 6 s"]
    assert watched.beat() == []
    assert watched.lifecycle.is_stuck
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    watched.work(since_s=0.0)
    assert watched.beat()[0] == "WATCHDOG=1"
    assert not watched.lifecycle.is_stuck
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]


def test_draining(watched: Watched) -> None:
    """On its way out it is fed while it finishes its work, and what it said of itself stands."""
    watched.lifecycle.drain()
    assert watched.beat() == ["WATCHDOG=1"]


def test_loading(tmp_path: Path) -> None:
    """As long as nothing is loaded nothing is said."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        assert Watched(manager).beat() == []


def test_a_long_batch_gets_its_time(watched: Watched) -> None:
    """What is predicted to take 30 ms may stand still for 400 times that, though the shortest time is over."""
    watched.work(since_s=11.0, point_id="p3")
    assert "WATCHDOG=1" in watched.beat()
    watched.work(since_s=13.0, point_id="p3")
    assert "WATCHDOG=1" not in watched.beat()


def test_beats_several_times_a_period(watched: Watched) -> None:
    """It beats often enough for a short period."""

    async def beat_for_a_while() -> None:
        beating = asyncio.ensure_future(watched.heartbeat.run(watchdog_period_s=0.04))
        await asyncio.sleep(0.5)
        beating.cancel()

    asyncio.run(beat_for_a_while())
    assert watched.heard().count("WATCHDOG=1") >= 4
