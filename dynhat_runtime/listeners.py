"""The sockets that the daemon listens on: inherited from systemd, or opened as the settings say. Answers nothing."""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import Callable
from dataclasses import dataclass

from dynhat_runtime.errors import SettingsError
from dynhat_runtime.systemd_notify import inherited_sockets

MANY_DESCRIPTORS = 65_536


@dataclass(frozen=True, slots=True)
class Listeners:
    """Listening sockets, all served alike."""

    sockets: tuple[socket.socket, ...]
    are_inherited: bool
    """The manager opened them and keeps them open: they outlive the daemon."""

    @classmethod
    def open(cls, host: str, port: int, check: Callable[[socket.socket], None]) -> Listeners:
        """Those that systemd passed on; without any, one on `host` and `port`.

        Args:
            host: Address.
            port: Its port.
            check: Raises for a socket that is not to be listened on; all are closed then.

        Raises:
            SettingsError: Host or port cannot be used, and which to change; or what `check` raises.
        """
        inherited = inherited_sockets()
        listeners = cls(inherited or (open_listener(host, port),), bool(inherited))
        try:
            listeners.each(check)
        except SettingsError:
            listeners.each(socket.socket.close)
            raise
        return listeners

    def each(self, act: Callable[[socket.socket], None]) -> None:
        """Do the same to every socket."""
        for listener in self.sockets:
            act(listener)

    def urls(self, scheme: str) -> str:
        """Where the daemon is reached, with the ports it really has."""
        return " ".join(_url_of(listener, scheme) for listener in self.sockets)


def allow_many_connections() -> None:
    """Let this process hold as many connections as it may: every one takes a descriptor, and shells often allow 1,024.

    With none left, nobody is accepted until somebody goes.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MANY_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def open_listener(host: str, port: int) -> socket.socket:
    """A listening TCP socket.

    Raises:
        SettingsError: Host or port cannot be used, and which to change.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise SettingsError(f"host {host!r} cannot be resolved ({error}): give --host an address") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise SettingsError(_why_not_listening(host, port, error)) from error
    return listener


def _why_not_listening(host: str, port: int, error: OSError) -> str:
    """What to do about a socket that would not open."""
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use: stop the other program or give --port"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} is for privileged programs: give --port 1024 or above"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"host {host} is not an address of this machine: give --host another one"
    return f"cannot listen on port {port} of {host} ({error.strerror}): give --host or --port"


def _url_of(listener: socket.socket, scheme: str) -> str:
    """Where one socket is reached; a unix socket by its path."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    address = f"[{host}]" if listener.family == socket.AF_INET6 else host
    return f"{scheme}://{address}:{port}"
