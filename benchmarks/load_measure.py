"""The daemon as a process, under more clients than its queue holds: what each hears, how quick, at what memory.

Clients and the asker after its health are processes of their own. Formats nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.children import Child, child
from benchmarks.figures import BenchmarkError

BYTES_PER_MIB = 2**20
SAMPLE_S = 0.5
"""Between two looks at the daemon's memory."""
EXIT_S = 60.0
"""How long the daemon may take to leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much is asked.

    Attributes:
        num_clients: At once.
        seconds: How long.
        warm_up_s: Of these, until memory is expected to stay.
        drain_after_s: How long clients ask before SIGTERM in the drain.
        pause_s: How long a refused client waits before it asks again; None does as Retry-After says.
        queue_limit_requests: How many requests may wait in the daemon.
    """

    num_clients: int = 200
    seconds: float = 60.0
    warm_up_s: float = 20.0
    drain_after_s: float = 6.0
    pause_s: float | None = None
    queue_limit_requests: int = 64


@dataclass(frozen=True, slots=True)
class Probe:
    """One question after the daemon's health."""

    path: str
    status: int | None
    elapsed_ms: float


@dataclass(frozen=True, slots=True)
class Memory:
    """The daemon's resident memory at one moment."""

    at_s: float
    """Since the clients began."""
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a minute of load was like."""

    fates: Mapping[str, Any]
    """As `load_clients.Fates` has them."""
    probes: tuple[Probe, ...]
    memory: tuple[Memory, ...]
    warm_up_s: float
    server_cpu_s: float
    """CPU time of the daemon meanwhile."""

    @property
    def rss_growth_mib(self) -> float:
        """From the first third after the warm-up to the last, medians."""
        after = [sample.rss_mib for sample in self.memory if sample.at_s >= self.warm_up_s]
        third = max(1, len(after) // 3)
        return statistics.median(after[-third:]) - statistics.median(after[:third])


@dataclass(frozen=True, slots=True)
class Drained:
    """What a SIGTERM under load was like."""

    fates: Mapping[str, Any]
    exit_status: int
    exit_s: float
    """From SIGTERM to the end of the process."""
    num_answered: int
    """Translations that the daemon says it has answered with 200, over its whole life."""
    num_abandoned: int
    """Requests whose clients had gone before their answer, as the daemon has it."""
    gave_up: bool
    """Whether the daemon says that it left requests behind."""


@contextlib.contextmanager
def serving(bundle: Path, queue_limit_requests: int | None = None) -> Iterator[tuple[Child, str]]:
    """A fresh daemon on a free port, ready, and its address; in the end it is stopped.

    Args:
        bundle: What it serves.
        queue_limit_requests: How many requests may wait; None leaves it at the default.

    Raises:
        BenchmarkError: It did not come up.
    """
    # Only what is said here: no DYNHAT_ variables of the shell's.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DYNHAT_")}
    if queue_limit_requests is not None:
        environment["DYNHAT_QUEUE_LIMIT_REQUESTS"] = str(queue_limit_requests)
    environment["DYNHAT_LOG_FORMAT"] = "json"
    arguments = ["-m", "dynhat_runtime", "serve", "--port", "0", "--bundle", str(bundle)]
    with child(arguments, environment) as process:
        while not (found := re.search(r"ready: (http://[^\s\"]+)", process.log_text())):
            process.pause("readiness")
        yield process, found[1]


def load(process: Child, url: str, effort: Effort) -> Loaded:
    """All clients for the time there is, and the questions after its health beside them.

    Raises:
        BenchmarkError: A process did not come to its end.
    """
    memory = []
    pid = process.popen.pid
    cpu_before_s = _cpu_s(pid)
    with child(["-m", "benchmarks.load_health", url]) as health:
        with _clients(url, effort, effort.seconds) as clients:
            began_s = time.monotonic()
            while (at_s := time.monotonic() - began_s) < effort.seconds:
                if process.popen.poll() is not None:
                    raise process.failed("did not survive the load")
                memory.append(Memory(round(at_s, 1), round(rss_mib(pid), 2)))
                time.sleep(SAMPLE_S)
            fates = json.loads(clients.first_line())
        cpu_s = _cpu_s(pid) - cpu_before_s
        health.say("")
        probes = tuple(Probe(*answer) for answer in json.loads(health.first_line()))
    return Loaded(fates, probes, tuple(memory), effort.warm_up_s, cpu_s)


def drain(process: Child, url: str, effort: Effort) -> Drained:
    """SIGTERM while all clients ask as fast as they can.

    Raises:
        BenchmarkError: A process did not come to its end.
    """
    with _clients(url, effort, EXIT_S) as clients:
        time.sleep(effort.drain_after_s)
        process.popen.send_signal(signal.SIGTERM)
        began_s = time.monotonic()
        exit_status = process.popen.wait(EXIT_S)
        exit_s = time.monotonic() - began_s
        fates = json.loads(clients.first_line())
    log = process.whole_log_text()
    codes = [entry.get("code") for entry in _answers(log)]
    return Drained(fates, exit_status, exit_s, codes.count(200), codes.count(499), "giving up" in log)


@contextlib.contextmanager
def _clients(url: str, effort: Effort, seconds: float) -> Iterator[Child]:
    """All clients, in a process of their own."""
    asked = ["--clients", str(effort.num_clients), "--seconds", str(seconds)]
    if effort.pause_s is not None:
        asked += ["--pause-s", str(effort.pause_s)]
    with child(["-m", "benchmarks.load_clients", url, *asked]) as clients:
        yield clients


def _answers(log: str) -> Iterator[dict[str, Any]]:
    """The log's lines about answered translations."""
    for line in log.splitlines():
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            if isinstance(entry, dict) and entry.get("event") == "answered" and entry.get("method") == "POST":
                yield entry


def rss_mib(pid: int) -> float:
    """Resident memory of a process.

    Raises:
        BenchmarkError: There is no such process.
    """
    try:
        pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    except OSError as error:
        raise BenchmarkError(f"process {pid} cannot be looked at ({error.strerror})") from error
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / BYTES_PER_MIB


def _cpu_s(pid: int) -> float:
    """CPU time of a process, with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
