"""What control groups, v1 and v2, leave to one process: CPU time, CPUs and memory. Reads only; sets no limit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from dynhat_runtime.monitor.files import BYTES_PER_MIB, cpu_list, read_text, read_text_if_there

Controller = Literal["cpu", "cpuset", "memory"]

US_PER_MS = 1000.0
UNLIMITED_BYTES = 2**60
"""v1 writes no limit as the largest number its pages can count."""


@dataclass(frozen=True, slots=True)
class CpuTime:
    """CPU time that a process's cgroups grant.

    Attributes:
        cpus: In CPUs; infinite without a quota.
        period_ms: Within which it is granted anew; None without a quota.
    """

    cpus: float
    period_ms: float | None


NO_QUOTA = CpuTime(math.inf, None)


@dataclass(frozen=True, slots=True)
class MemoryRoom:
    """Memory that a process's cgroups grant; infinite without a limit."""

    limit_mib: float
    available_mib: float
    """What is left of it, counting file cache that the kernel would give up first."""


@dataclass(frozen=True, slots=True)
class _Level:
    """A directory on the way from a process's cgroup up to the mount."""

    is_v2: bool
    directory: str
    """As text: joining paths would take longer than reading them."""


class Cgroups:
    """The control groups of one process. Limits of all levels bind; the tightest counts."""

    def __init__(self, root: Path, cgroup_file: Path) -> None:
        """Name the process by its file.

        Args:
            root: Where `sys` is looked for.
            cgroup_file: Its /proc/PID/cgroup.
        """
        self._mounts = root / "sys/fs/cgroup"
        self._file = cgroup_file
        self._known: tuple[str, dict[Controller, tuple[_Level, ...]]] = ("", {})

    def cpu_time(self) -> CpuTime | None:
        """The tightest quota; None on a system without cgroups."""
        levels = self._levels("cpu")
        if levels is None:
            return None
        quotas = [quota for level in levels if (quota := _quota(level)) is not None]
        return min(quotas, key=lambda quota: quota.cpus, default=NO_QUOTA)

    def memory_room(self) -> MemoryRoom | None:
        """Memory limit and what is left of it; None on a system without cgroups."""
        levels = self._levels("memory")
        if levels is None:
            return None
        rooms = [room for level in levels if (room := _memory_room(level)) is not None]
        return MemoryRoom(
            min((room.limit_mib for room in rooms), default=math.inf),
            min((room.available_mib for room in rooms), default=math.inf),
        )

    def cpuset(self) -> tuple[int, ...] | None:
        """CPUs that the nearest cpuset allows; None if no cpuset is to be seen."""
        for level in self._levels("cpuset") or ():
            # Effective sets have the limits of the levels above in them already.
            names = ("cpuset.cpus.effective",) if level.is_v2 else ("cpuset.effective_cpus", "cpuset.cpus")
            for name in names:
                text = read_text_if_there(f"{level.directory}/{name}")
                if text is not None and (cpus := cpu_list(text, name)):
                    return cpus
        return None

    def _levels(self, controller: Controller) -> tuple[_Level, ...] | None:
        """Where `controller` may limit the process; looked for again when it has moved."""
        membership = read_text_if_there(self._file)
        if membership is None:
            return None
        known_membership, by_controller = self._known
        if membership != known_membership:
            by_controller = {}
        if controller not in by_controller:
            lines = membership.splitlines()
            found = tuple(level for line in lines for level in self._levels_of(line, controller))
            # One assignment: the sensors of a hanging cgroup file may be read by two threads.
            by_controller = {**by_controller, controller: found}
            self._known = (membership, by_controller)
        return by_controller[controller]

    def _levels_of(self, line: str, controller: Controller) -> Iterator[_Level]:
        """The cgroup that `line` of /proc/PID/cgroup names, and all above it, nearest first."""
        hierarchy, controllers, path = line.split(":", 2)
        is_v2 = hierarchy == "0" and not controllers
        if is_v2:
            unified = self._mounts / "unified"
            mount = unified if unified.is_dir() else self._mounts
        elif controller in controllers.split(","):
            named = self._mounts / controllers
            mount = named if named.is_dir() else self._mounts / controller
        else:
            return
        # In a container the path may be the host's, and lead nowhere here (or out, by ".."); then the mount
        # itself is the container's cgroup, and the only level to be seen.
        relative = PurePosixPath(path.lstrip("/"))
        if ".." not in relative.parts:
            for level in (relative, *relative.parents):
                if level.parts:
                    yield _Level(is_v2, str(mount / level))
        yield _Level(is_v2, str(mount))


def _quota(level: _Level) -> CpuTime | None:
    """CPU time that one cgroup grants; None if it is unlimited or absent."""
    if level.is_v2:
        text = read_text_if_there(f"{level.directory}/cpu.max")
        if text is None:
            return None
        quota_us, period_us = text.split()
        if quota_us == "max":
            return None
    else:
        v1_text = read_text_if_there(f"{level.directory}/cpu.cfs_quota_us")
        if v1_text is None or int(v1_text) == -1:
            return None
        quota_us, period_us = v1_text, read_text(f"{level.directory}/cpu.cfs_period_us")
    quota, period = int(quota_us), int(period_us)
    if quota <= 0 or period <= 0:
        raise ValueError(f"{level.directory} grants {quota} of {period} us, which is no quota")
    return CpuTime(quota / period, period / US_PER_MS)


def _memory_room(level: _Level) -> MemoryRoom | None:
    """Memory that one cgroup grants; None if it is unlimited or absent."""
    names = (
        ("memory.max", "memory.current", "inactive_file ")
        if level.is_v2
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ")
    )
    limit_name, usage_name, cache_name = names
    text = read_text_if_there(f"{level.directory}/{limit_name}")
    if text is None or text.strip() == "max" or int(text) >= UNLIMITED_BYTES:
        return None
    limit_bytes = int(text)
    usage_bytes = int(read_text(f"{level.directory}/{usage_name}"))
    statistics = read_text_if_there(f"{level.directory}/memory.stat") or ""
    cached = (line for line in statistics.splitlines() if line.startswith(cache_name))
    cache_bytes = sum(int(line.split()[1]) for line in cached)
    if limit_bytes < 0 or usage_bytes < 0:
        raise ValueError(f"{level.directory} grants {limit_bytes} bytes and uses {usage_bytes}")
    available_bytes = min(max(limit_bytes - usage_bytes + cache_bytes, 0), limit_bytes)
    return MemoryRoom(limit_bytes / BYTES_PER_MIB, available_bytes / BYTES_PER_MIB)
