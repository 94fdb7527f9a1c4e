"""The link to the jtop service: a process that follows it, watched, ended when it hangs, started again later.

Says what the service says, each field checked. Imports no jtop: `jtop_process.py` does, in its own process.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dynhat_runtime.monitor.files import (
    COLDEST_BELIEVED_CELSIUS,
    FASTEST_BELIEVED_HZ,
    HOTTEST_BELIEVED_CELSIUS,
    MOST_CPUS_BELIEVED,
    believable,
)
from dynhat_runtime.monitor.sensor import NotYetError, Pauses

logger = logging.getLogger(__name__)

SOCKET = "run/jtop.sock"
COMMAND = (sys.executable, "-m", "dynhat_runtime.monitor.jtop_process")
LONGEST_START_S = 15.0
"""Until the first line: interpreter, import, `start()`. It takes a second; where it hangs, it hangs for good."""
LONGEST_SILENCE_S = 3.5
"""Between two lines, which come once a second."""
PAUSES = Pauses(first_s=3.0, shortest_s=3.0, longest_s=60.0)
"""The service keeps a lost client's settings for 3 s; a process costs a quarter of a second of a CPU to start."""
MOST_BYTES = 1 << 16

FIELDS: Mapping[str, tuple[float, float]] = {
    "cpu_current_frequency_hz": (1.0, FASTEST_BELIEVED_HZ),
    "cpu_max_frequency_hz": (1.0, FASTEST_BELIEVED_HZ),
    "gpu_current_frequency_hz": (0.0, FASTEST_BELIEVED_HZ),
    "gpu_max_frequency_hz": (1.0, FASTEST_BELIEVED_HZ),
    "gpu_load_fraction": (0.0, 1.0),
    "power_mw": (0.0, 1e6),
    "temperature_celsius": (COLDEST_BELIEVED_CELSIUS, HOTTEST_BELIEVED_CELSIUS),
    "memory_total_mib": (1.0, 1e9),
    "memory_available_mib": (0.0, 1e9),
}
"""Numbers a line may hold, by their names in the snapshot, and what is believed of each."""

JtopValues = Mapping[str, float | str | tuple[int, ...]]
"""What the service says, by field of the snapshot; what it does not say is not in it."""


class JtopLink:
    """One process at a time that follows the service. Asked by one thread at a time."""

    def __init__(
        self,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
        command: Sequence[str] = COMMAND,
    ) -> None:
        """Start nothing yet.

        Args:
            root: Where the service's socket is looked for.
            clock: Measures silence, in seconds.
            command: Follows the service, as `jtop_process` does.
        """
        self._socket = root / SOCKET
        self._clock = clock
        self._command = tuple(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._heard_s = 0.0
        self._values: JtopValues | None = None
        self._rest = b""
        self._doubted: set[str] = set()
        self._known_socket: tuple[int, int] | None = None

    def read(self) -> JtopValues | None:
        """The service's last word; None where there is neither jtop nor its service. Does not wait.

        Raises:
            NotYetError: The connection is being made.
            PermissionError: The service is for another group.
            ConnectionError: It broke, and why; asked again, another is made.
            TimeoutError: It hangs; the same.
        """
        if self._process is None:
            if not self._socket.exists() or importlib.util.find_spec("jtop") is None:
                return None
            if not os.access(self._socket, os.R_OK | os.W_OK):
                raise PermissionError(f"{self._socket} is not for this user: add it to the socket's group")
            self._start()
        try:
            return self._listen()
        except NotYetError:
            raise
        except Exception:
            self.close()
            raise

    def has_new_socket(self) -> bool:
        """Whether the service has opened another socket since this was last asked: it was started again."""
        try:
            status = self._socket.stat()
        except OSError:
            return False
        before, self._known_socket = self._known_socket, (status.st_ino, status.st_mtime_ns)
        return before != self._known_socket

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def _start(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603  # this Python and our own module, no shell
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._heard_s, self._values, self._rest = self._clock(), None, b""

    def _listen(self) -> JtopValues:
        """Take in the lines that have come."""
        lines, is_over = self._lines()
        for line in lines:
            said = json.loads(line)
            if not isinstance(said, dict):
                raise ConnectionError(f"jtop's process says {line[:80]!r}")
            if "error" in said:
                raise ConnectionError(str(said["error"]))
            self._values, self._heard_s = self._checked(said), self._clock()
        if is_over:
            raise ConnectionError("jtop's process ended without a word")
        silence_s = self._clock() - self._heard_s
        if self._values is None:
            if silence_s > LONGEST_START_S:
                raise TimeoutError(f"jtop's start() hangs, ended after {silence_s:.0f} s")
            raise NotYetError
        if silence_s > LONGEST_SILENCE_S:
            raise TimeoutError(f"jtop says nothing for {silence_s:.1f} s")
        return self._values

    def _lines(self) -> tuple[list[bytes], bool]:
        """Whole lines since the last time, and whether no more will come."""
        assert self._process is not None
        assert self._process.stdout is not None
        chunks = [self._rest]
        is_over = False
        while True:
            try:
                chunk = os.read(self._process.stdout.fileno(), MOST_BYTES)
            except BlockingIOError:
                break
            if not chunk:
                is_over = True
                break
            chunks.append(chunk)
        *lines, self._rest = b"".join(chunks).split(b"\n")
        return lines, is_over

    def _checked(self, said: Mapping[str, object]) -> JtopValues:
        """The believable fields; the log hears once of one that is not."""
        values: dict[str, float | str | tuple[int, ...]] = {}
        for name, value in said.items():
            if value is None:
                continue
            try:
                values[name] = _believed(name, value)
            except (ValueError, TypeError) as error:
                if name not in self._doubted:
                    self._doubted.add(name)
                    logger.warning("jtop's %s is not believed, reads None while it is so: %s", name, error)
            else:
                self._doubted.discard(name)
        return values


def _believed(name: str, value: object) -> float | str | tuple[int, ...]:
    if name in FIELDS:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{value!r} is no number")
        return believable(float(value), *FIELDS[name], name)
    if name == "power_mode" and isinstance(value, str):
        return value
    if name == "online_cpus" and isinstance(value, list):
        if not all(isinstance(cpu, int) and 0 <= cpu < MOST_CPUS_BELIEVED for cpu in value):
            raise ValueError(f"{value!r} are no CPU numbers")
        return tuple(sorted(value))
    raise ValueError(f"{value!r} under this name is not known")
