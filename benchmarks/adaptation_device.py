"""Takes CPUs, CPU time and quiet away from a running process, and gives them back. Measures nothing.

Affinity is set for all threads of the process, the quota through the cgroup v1 cpu controller, and the busy
processes are stress-ng's. Whatever was made is removed in the end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from benchmarks.adaptation_phases import AT_REST, QUOTA_PERIOD_MS, Resources
from benchmarks.children import POLL_S, Child, program
from benchmarks.figures import BenchmarkError

STRESS = "stress-ng"
CPU_CONTROLLER = "cpu"
US_PER_MS = 1000
NO_QUOTA_US = -1
REMOVE_S = 5.0
LONGEST_STRESS_S = 3600
"""It ends by itself should nobody be left to end it."""


def check_stress() -> None:
    """See that there is something to compete with.

    Raises:
        BenchmarkError: Naming the package.
    """
    if shutil.which(STRESS) is None:
        raise BenchmarkError(
            f"{STRESS} is not installed, and makes the competing load: install the package {STRESS} "
            f"(Debian, Ubuntu: apt-get install {STRESS})"
        )


class CpuQuota:
    """A cgroup of our own (v1 cpu controller) with one process in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @classmethod
    @contextlib.contextmanager
    def made(cls, root: Path = Path("/")) -> Iterator[CpuQuota]:
        """A new cgroup below this process's; in the end what is in it moves out, and it is removed.

        Args:
            root: Where `proc` and `sys` are looked for.

        Raises:
            OSError: There is no such controller here, or it may not be used.
        """
        parent = _own_cgroup(root)
        folder = parent / f"dynhat-benchmark-{os.getpid()}"
        folder.mkdir()
        try:
            quota = cls(folder)
            quota.set(None)
            yield quota
        finally:
            _remove(folder, parent)

    def take_in(self, pid: int) -> None:
        """Put a process and all its threads under the quota."""
        (self._folder / "cgroup.procs").write_text(f"{pid}\n")

    def set(self, quota_cpus: float | None) -> None:
        """Grant so much CPU time, in CPUs; None is no limit."""
        period_us = round(QUOTA_PERIOD_MS * US_PER_MS)
        quota_us = NO_QUOTA_US if quota_cpus is None else round(quota_cpus * period_us)
        (self._folder / "cpu.cfs_period_us").write_text(f"{period_us}\n")
        (self._folder / "cpu.cfs_quota_us").write_text(f"{quota_us}\n")


def _own_cgroup(root: Path) -> Path:
    """The folder of this process's cgroup under the v1 cpu controller.

    Raises:
        OSError: There is none.
    """
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if CPU_CONTROLLER in controllers.split(","):
            mounts = root / "sys/fs/cgroup"
            mount = mounts / controllers if (mounts / controllers).is_dir() else mounts / CPU_CONTROLLER
            inside = mount / PurePosixPath(path).relative_to("/")
            # In a container the path may be the host's: then the mount itself is ours.
            return inside if inside.is_dir() else mount
    raise FileNotFoundError("no cgroup v1 cpu controller")


def _remove(folder: Path, parent: Path) -> None:
    """Move out what is in a cgroup, and remove it; a process that is ending takes a moment."""
    deadline_s = time.monotonic() + REMOVE_S
    while folder.exists():
        with contextlib.suppress(OSError):
            for pid in (folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(OSError):
                    (parent / "cgroup.procs").write_text(f"{pid}\n")
        try:
            folder.rmdir()
        except OSError as error:
            if time.monotonic() > deadline_s:
                raise BenchmarkError(f"{folder}: cannot be removed ({error.strerror}): rmdir it") from error
            time.sleep(POLL_S)


def why_no_quota() -> str | None:
    """Why no quota can be set here; None if it can."""
    try:
        with CpuQuota.made():
            return None
    except OSError as error:
        return f"the cgroup v1 cpu controller cannot be used ({error.strerror or error})"


class Device:
    """What one process is left with. At rest again at the end of its block."""

    def __init__(self, pid: int, quota: CpuQuota | None) -> None:
        self._pid = pid
        self._quota = quota
        self._cpus = sorted(os.sched_getaffinity(0))
        self._resources = AT_REST
        self._stress = contextlib.ExitStack()

    @classmethod
    @contextlib.contextmanager
    def of(cls, process: Child, *, with_quota: bool) -> Iterator[Device]:
        """The resources of a child.

        Args:
            process: Running.
            with_quota: Make a cgroup, too; without it no resources with a quota can be given.
        """
        pid = process.popen.pid
        with contextlib.ExitStack() as stack:
            quota = stack.enter_context(CpuQuota.made()) if with_quota else None
            if quota is not None:
                quota.take_in(pid)
            device = cls(pid, quota)
            stack.enter_context(device._stress)
            try:
                yield device
            finally:
                with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # it may have ended
                    device.give(AT_REST)

    def give(self, resources: Resources) -> float:
        """Leave the process with these resources; the monotonic time when it is so."""
        before, self._resources = self._resources, resources
        cpus = self._cpus[: resources.num_cpus or len(self._cpus)]
        if (before.num_busy, before.num_cpus) != (resources.num_busy, resources.num_cpus):
            self._stress.close()
        if before.num_cpus != resources.num_cpus:
            _set_affinity(self._pid, cpus)
        if self._quota is not None:
            self._quota.set(resources.quota_cpus)
        else:
            assert resources.quota_cpus is None, "no cgroup was made"
        if resources.num_busy and (before.num_busy, before.num_cpus) != (
            resources.num_busy,
            resources.num_cpus,
        ):
            command = [STRESS, "--cpu", str(resources.num_busy), "--taskset", ",".join(map(str, cpus))]
            command += ["--timeout", str(LONGEST_STRESS_S), "--quiet"]
            started = self._stress.enter_context(program(command, STRESS))
            _wait_for_children(started, resources.num_busy)
        return time.monotonic()


def _set_affinity(pid: int, cpus: list[int]) -> None:
    """Of all threads; one that ends meanwhile needs none."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(thread), cpus)


def _wait_for_children(process: Child, num_children: int) -> None:
    """Until a process has begun so many others.

    Raises:
        BenchmarkError: It ended or took too long.
    """
    pid = process.popen.pid
    while len(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()) < num_children:
        process.pause("its workers")
