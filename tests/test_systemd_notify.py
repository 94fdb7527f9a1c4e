"""Tests of dynhat_runtime.systemd_notify: datagrams to a socket of our own, and sockets handed to a process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynhat_runtime.systemd_notify import Notifier, inherited_sockets, watchdog_period_s


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's socket, with a file or in the abstract name space."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify") if request.param == "path" else f"\0dynhat-test-{os.getpid()}")
        manager.settimeout(5.0)
        yield manager


def notifier_to(manager: socket.socket) -> Notifier:
    """A notifier told of the manager as systemd tells it."""
    name = manager.getsockname()
    address = name if isinstance(name, str) else f"@{name[1:].decode()}"
    return Notifier.from_environment({"NOTIFY_SOCKET": address})


def test_ready(manager: socket.socket) -> None:
    """Ready comes with one line of status, whatever line breaks it had."""
    notifier_to(manager).ready("point l6\nREADY=0")
    assert manager.recv(999) == b"READY=1\nSTATUS=point l6 READY=0"


def test_reloading_has_its_time(manager: socket.socket) -> None:
    """Reloading carries the monotonic time that newer managers want to see."""
    notifier_to(manager).reloading()
    words = dict(line.split("=") for line in manager.recv(999).decode().splitlines())
    assert words["RELOADING"] == "1"
    assert words["MONOTONIC_USEC"].isdecimal()


def test_the_other_words(manager: socket.socket) -> None:
    """Stopping, status and watchdog are said as the protocol has them."""
    notifier = notifier_to(manager)
    notifier.stopping("draining")
    notifier.status("busy")
    notifier.feed_watchdog()
    assert [manager.recv(999) for _ in range(3)] == [
        b"STOPPING=1\nSTATUS=draining", b"STATUS=busy", b"WATCHDOG=1"
    ]  # fmt: skip


def test_a_manager_that_does_not_listen(manager: socket.socket) -> None:
    """A manager that takes nothing out of its queue holds up nobody."""
    notifier = notifier_to(manager)
    for _ in range(2000):  # far more than any queue is long
        notifier.feed_watchdog()
    assert manager.recv(999) == b"WATCHDOG=1"


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/no/such/socket"}])
def test_without_a_manager(environment: dict[str, str]) -> None:
    """Where nobody listens nothing happens."""
    Notifier.from_environment(environment).ready("ready")


@pytest.mark.parametrize(
    ("environment", "period_s"),
    [
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None), ({"WATCHDOG_USEC": "soon"}, None), ({}, None),
    ],
)  # fmt: skip
def test_watchdog_period(environment: dict[str, str], period_s: float | None) -> None:
    """The watchdog's period is ours only if it is meant for this process."""
    assert watchdog_period_s(environment) == period_s


@pytest.mark.parametrize("environment", [{}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {"LISTEN_FDS": "x"}])
def test_sockets_that_are_not_ours(environment: dict[str, str]) -> None:
    """Sockets meant for another process are left alone, and no child hears of them."""
    assert inherited_sockets(environment) == ()
    assert environment == {}


def test_sockets_of_a_process() -> None:
    """A process gets the sockets its manager opened, TCP and unix, and its children do not."""
    program = (
        "import os, subprocess\n"
        "from dynhat_runtime.systemd_notify import inherited_sockets\n"
        "print(*(each.family.name for each in inherited_sockets()), 'LISTEN_FDS' in os.environ, flush=True)\n"
        "print(subprocess.run(['test', '-e', '/proc/self/fd/3'], close_fds=False).returncode)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind("")
        unix.listen()
        done = with_sockets([tcp, unix], [sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert done.communicate(timeout=30)[0].splitlines() == ["AF_INET AF_UNIX False", "1"]


def with_sockets(
    sockets: list[socket.socket], command: list[str], **options: object
) -> subprocess.Popen[str]:
    """A program with these sockets from descriptor 3 on, started as systemd does it."""
    fds = [str(each.fileno()) for each in sockets]
    # Descriptors are moved away first: one of them may be in the other's place.
    shell = 'export LISTEN_PID=$$; eval "exec $1"; shift; exec "$@"'
    moves = [f"{100 + n}<&{fd}" for n, fd in enumerate(fds)] + [
        f"{3 + n}<&{100 + n}" for n in range(len(fds))
    ]
    moves += [f"{100 + n}<&-" for n in range(len(fds))]
    return subprocess.Popen(
        ["bash", "-c", shell, "bash", " ".join(moves), *command],
        pass_fds=[each.fileno() for each in sockets],
        env={**os.environ, "LISTEN_FDS": str(len(sockets)), "PYTHONPATH": str(Path(__file__).parent.parent)},
        text=True,
        **options,  # type: ignore[call-overload]
    )
