"""What passes between the daemon and systemd: datagrams over NOTIFY_SOCKET, and the sockets that LISTEN_FDS names.

The protocol of sd_notify(3) and sd_listen_fds(3), over the standard library. Decides nothing, and does nothing at all
where the process was not started by systemd.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

PATIENCE_S = 1.0
"""What a manager with a full queue gets for a word that will not come again; the others are just lost."""
FIRST_FD = 3
"""sd_listen_fds(3): inherited sockets are numbered from here."""


class Notifier:
    """Tells the service manager how the daemon is; silent where there is none."""

    def __init__(self, address: str | None) -> None:
        """Talk to the datagram socket `address`, whose leading @ stands for the abstract name space; None is silent."""
        self._address = None if not address else "\0" + address[1:] if address[0] == "@" else address

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str] = os.environ) -> Notifier:
        """The notifier that the manager asked for, if it did."""
        return cls(environment.get("NOTIFY_SOCKET"))

    def ready(self, status: str) -> None:
        """Translations work: after loading, and again after a reload."""
        self._send("READY=1", f"STATUS={_one_line(status)}", patience_s=PATIENCE_S)

    def reloading(self) -> None:
        """Settings are being read anew; `ready` ends it, whether they were taken or refused."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", patience_s=PATIENCE_S)

    def stopping(self, status: str) -> None:
        """No more requests are taken."""
        self._send("STOPPING=1", f"STATUS={_one_line(status)}", patience_s=PATIENCE_S)

    def status(self, status: str) -> None:
        """One line for `systemctl status`."""
        self._send(f"STATUS={_one_line(status)}")

    def feed_watchdog(self) -> None:
        """Say that work is getting done."""
        self._send("WATCHDOG=1")

    def _send(self, *assignments: str, patience_s: float = 0.0) -> None:
        """Say it, or give up: a manager that is gone, or does not listen, must not hold up the daemon."""
        if self._address is None:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(patience_s)
            sender.connect(self._address)
            sender.sendall("\n".join(assignments).encode())


def _one_line(text: str) -> str:
    """A line break would begin another assignment."""
    return " ".join(text.split())


def watchdog_period_s(environment: MutableMapping[str, str] = os.environ) -> float | None:
    """Silence after which the manager kills this process, in s; None where it does not."""
    period_us = environment.get("WATCHDOG_USEC", "")
    if not period_us.isdecimal() or int(period_us) == 0:
        return None
    is_meant = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(period_us) / 1e6 if is_meant else None


def inherited_sockets(environment: MutableMapping[str, str] = os.environ) -> tuple[socket.socket, ...]:
    """Listening sockets that the manager opened for this process; none where it did not.

    Takes their variables out of `environment` and keeps the sockets from child processes, so that no process started
    later takes them for its own.
    """
    count, pid = environment.pop("LISTEN_FDS", ""), environment.pop("LISTEN_PID", "")
    environment.pop("LISTEN_FDNAMES", None)
    if not count.isdecimal() or pid != str(os.getpid()):
        return ()
    numbers = range(FIRST_FD, FIRST_FD + int(count))
    for number in numbers:
        os.set_inheritable(number, False)
    return tuple(socket.socket(fileno=number) for number in numbers)
