"""Child processes that are measured: each in a session of its own, never outliving the benchmark that began it.

Every wait has an end. Knows nothing of what the children do.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from benchmarks.figures import BenchmarkError

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 300.0
"""How long a child may take for any one thing."""
STOP_S = 30.0
POLL_S = 0.005


@dataclass(frozen=True, slots=True)
class Child:
    """A running child."""

    name: str
    popen: subprocess.Popen[bytes]
    started_s: float
    """`time.perf_counter()` just before it was started."""
    log: IO[bytes]

    @property
    def seconds(self) -> float:
        """Time since it was started."""
        return time.perf_counter() - self.started_s

    def say(self, text: str) -> None:
        """Write all of its standard input."""
        assert self.popen.stdin is not None
        with contextlib.suppress(BrokenPipeError), self.popen.stdin as stdin:
            stdin.write(text.encode())

    def first_line(self) -> str:
        """What it writes first.

        Raises:
            BenchmarkError: It ended or took too long.
        """
        assert self.popen.stdout is not None
        received = b""
        while b"\n" not in received:
            left_s = max(0.0, PATIENCE_S - self.seconds)
            is_readable, _, _ = select.select([self.popen.stdout], [], [], left_s)
            chunk = os.read(self.popen.stdout.fileno(), 65536) if is_readable else b""
            if not chunk:
                raise self.failed("wrote no line")
            received += chunk
        return received.partition(b"\n")[0].decode()

    def log_text(self) -> str:
        """What it wrote to standard error so far."""
        return os.pread(self.log.fileno(), 1_000_000, 0).decode(errors="replace")

    def whole_log_text(self) -> str:
        """All of what it wrote to standard error, however long."""
        return os.pread(self.log.fileno(), os.fstat(self.log.fileno()).st_size, 0).decode(errors="replace")

    def pause(self, waiting_for: str) -> None:
        """Wait a moment for something.

        Raises:
            BenchmarkError: It ended or took too long.
        """
        if self.popen.poll() is not None or self.seconds > PATIENCE_S:
            raise self.failed(f"did not come to {waiting_for}")
        time.sleep(POLL_S)

    def failed(self, what: str) -> BenchmarkError:
        """The error that says what it did not do, with the end of its log."""
        status = self.popen.poll()
        state = f"ran {self.seconds:.0f} s" if status is None else f"ended with status {status}"
        last_line = self.log_text().strip().rpartition("\n")[2]
        return BenchmarkError(f"{self.name} {what}, {state}: {last_line or 'it said nothing'}")


@contextlib.contextmanager
def child(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[Child]:
    """Run this Python with `arguments` in the working copy; in the end it is stopped and reaped.

    Args:
        arguments: Of Python.
        environment: Its variables; without it this process's own.
    """
    with program([sys.executable, *arguments], " ".join(arguments[:3]), environment) as started:
        yield started


@contextlib.contextmanager
def program(
    command: Sequence[str], name: str, environment: Mapping[str, str] | None = None
) -> Iterator[Child]:
    """Run any program, as `child` does; what it began itself is ended with it."""
    with tempfile.TemporaryFile() as log:
        started_s = time.perf_counter()
        popen = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,
            start_new_session=True,  # Ctrl-C reaches the benchmark, and the benchmark stops the child
        )
        try:
            yield Child(name, popen, started_s, log)
        finally:
            _stop(popen)


def _stop(popen: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then end it; a second Ctrl-C does not leave it behind either."""
    try:
        popen.terminate()
        popen.wait(STOP_S)
    except subprocess.TimeoutExpired:
        pass  # it had its time
    finally:
        popen.kill()
        popen.wait(STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)  # its own session: only what it left behind
        for pipe in (popen.stdin, popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
