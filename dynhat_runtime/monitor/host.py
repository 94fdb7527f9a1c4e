"""A Linux host as a monitor: affinity, cgroup quota, cpufreq, load, pressure, memory and temperature.

Reads what any Linux tells without privileges, in under 5 ms. Knows no GPU and no power mode. Each sensor
stands alone: one that fails is None in the snapshot, and the others still read.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TypeVar

import psutil

from dynhat_runtime.resource_snapshot import ResourceSnapshot

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CgroupLevel = tuple[Callable[[Path], float | None], Path]
"""How to read a cgroup's limit, and its directory."""

BYTES_PER_MIB = 2**20
HZ_PER_KHZ = 1000.0
LARGEST_FILE_BYTES = 64 * 1024
COLDEST_BELIEVED_CELSIUS = -40.0
HOTTEST_BELIEVED_CELSIUS = 150.0


class HostMonitor:
    """Reads this process's share of the host. Not thread-safe: one caller at a time."""

    def __init__(
        self,
        root: Path = Path("/"),
        pid: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Find the sensors.

        Args:
            root: Where `proc` and `sys` are looked for.
            pid: The process whose affinity, quota and memory are read; None is this one.
            clock: Stamps the snapshots, in seconds.
        """
        self._root = root
        self._pid = os.getpid() if pid is None else pid
        self._clock = clock
        self._process: psutil.Process | None = None
        self._cgroup_file = root / "proc" / ("self" if pid is None else str(pid)) / "cgroup"
        self._cgroup_membership: str | None = None
        self._cgroup_levels: tuple[_CgroupLevel, ...] = ()
        self._pressure_file = root / "proc/pressure/cpu"
        self._cpu_directory = root / "sys/devices/system/cpu"
        self._thermal_files = tuple(_thermal_files(root / "sys/class/thermal"))
        self._previous_cpu_times_s: tuple[float, float] | None = None
        self._failing: set[str] = set()

    def read(self) -> ResourceSnapshot:
        """One reading. Never raises for a failing sensor."""
        usable_cpus = self._ask("affinity", self._usable_cpus)
        quota_cpus = self._ask("cgroup quota", self._cpu_quota_cpus)
        current_hz = self._ask("cpu frequency", lambda: self._frequency_hz("scaling_cur_freq", usable_cpus))
        max_hz = self._ask("cpu frequency cap", lambda: self._frequency_hz("scaling_max_freq", usable_cpus))
        load_fraction = self._ask("cpu load", self._cpu_load_fraction)
        pressure_fraction = self._ask("cpu pressure", self._cpu_pressure_fraction)
        available_mib, total_mib = self._ask("memory", _memory_mib) or (None, None)
        process_mib = self._ask("process memory", self._process_memory_mib)
        temperature = self._ask("temperature", self._temperature_celsius)
        return ResourceSnapshot(
            monotonic_s=self._clock(),
            source="host",
            usable_cpus=usable_cpus,
            cpu_quota_cpus=quota_cpus,
            cpu_current_frequency_hz=current_hz,
            cpu_max_frequency_hz=max_hz,
            cpu_load_fraction=load_fraction,
            cpu_pressure_fraction=pressure_fraction,
            memory_available_mib=available_mib,
            memory_total_mib=total_mib,
            process_memory_mib=process_mib,
            temperature_celsius=temperature,
        )

    def _ask(self, name: str, sensor: Callable[[], T | None]) -> T | None:
        """The sensor's value, or None if it fails; the log hears of a failure's start and of its end."""
        try:
            value = sensor()
        except Exception as error:  # whatever a driver throws at us must not take the other sensors along
            if name not in self._failing:
                self._failing.add(name)
                logger.warning("sensor %s fails, reads None until it comes back: %r", name, error)
            return None
        if name in self._failing:
            self._failing.discard(name)
            logger.warning("sensor %s is back", name)
        return value

    # --- caps: what work may use ----------------------------------------------------------------------------

    def _usable_cpus(self) -> tuple[int, ...]:
        # By process id, which means the main thread: that is the one `taskset -p` moves. 0 would mean the
        # thread that reads, which was started earlier and keeps its old affinity.
        return tuple(sorted(os.sched_getaffinity(self._pid)))

    def _cpu_quota_cpus(self) -> float | None:
        """The tightest limit from the process's cgroup up to the root, v1 or v2; None if there is none."""
        membership = _read(self._cgroup_file)
        if membership != self._cgroup_membership:
            lines = membership.splitlines()
            self._cgroup_levels = tuple(level for line in lines for level in self._levels_of(line))
            self._cgroup_membership = membership
        limits = (limit_cpus(directory) for limit_cpus, directory in self._cgroup_levels)
        return min((limit for limit in limits if limit is not None), default=None)

    def _levels_of(self, line: str) -> Iterator[_CgroupLevel]:
        """What may limit CPU time: the cgroup that `line` of /proc/self/cgroup names, and all above it."""
        hierarchy, controllers, path = line.split(":", 2)
        mounts = self._root / "sys/fs/cgroup"
        limit_cpus: Callable[[Path], float | None]
        if "cpu" in controllers.split(","):
            limit_cpus, named = _v1_limit_cpus, mounts / controllers
            mount = named if named.is_dir() else mounts / "cpu"
        elif hierarchy == "0" and not controllers:
            limit_cpus, unified = _v2_limit_cpus, mounts / "unified"
            mount = unified if unified.is_dir() else mounts
        else:
            return
        # In a container the path may be the host's, and lead nowhere here (or out, by ".."); then the mount
        # itself is the container's cgroup, and the only level to be seen.
        relative = PurePosixPath(path.lstrip("/"))
        if ".." not in relative.parts:
            for level in (relative, *relative.parents):
                if level.parts:
                    yield limit_cpus, mount / level
        yield limit_cpus, mount

    def _frequency_hz(self, file_name: str, usable_cpus: tuple[int, ...] | None) -> float | None:
        """The largest value over the usable CPUs (all, if unknown); None without cpufreq."""
        if usable_cpus is None:
            directories: Iterable[Path] = self._cpu_directory.glob("cpu[0-9]*")
        else:
            directories = (self._cpu_directory / f"cpu{cpu}" for cpu in usable_cpus)
        texts = (_read_if_there(directory / "cpufreq" / file_name) for directory in directories)
        return max((int(text) * HZ_PER_KHZ for text in texts if text is not None), default=None)

    # --- momentary: what is used now ------------------------------------------------------------------------

    def _cpu_load_fraction(self) -> float | None:
        # Not psutil.cpu_percent: it remembers per calling thread, and a thread's first call says 0.0.
        times: dict[str, float] = psutil.cpu_times()._asdict()
        # Linux counts guest time in user time already.
        total_s = sum(value for name, value in times.items() if not name.startswith("guest"))
        idle_s = times["idle"] + times.get("iowait", 0.0)
        previous, self._previous_cpu_times_s = self._previous_cpu_times_s, (total_s, idle_s)
        if previous is None or total_s <= previous[0]:
            return None
        idle_fraction = (idle_s - previous[1]) / (total_s - previous[0])
        return min(max(1.0 - idle_fraction, 0.0), 1.0)

    def _cpu_pressure_fraction(self) -> float | None:
        text = _read_if_there(self._pressure_file)
        if text is None:
            return None
        kind, average_10s, *_ = text.split()
        if kind != "some" or not average_10s.startswith("avg10="):
            raise ValueError(f"{self._pressure_file} begins with {kind} {average_10s}, not with some avg10=")
        return float(average_10s.removeprefix("avg10=")) / 100.0

    def _process_memory_mib(self) -> float:
        if self._process is None:
            self._process = psutil.Process(self._pid)
        return float(self._process.memory_info().rss) / BYTES_PER_MIB

    def _temperature_celsius(self) -> float | None:
        """The hottest believable zone; a zone that is switched off or absurd does not silence the others."""
        believed = []
        failure: OSError | ValueError | None = None
        for file in self._thermal_files:
            try:
                celsius = int(_read(file)) / 1000.0
            except (OSError, ValueError) as error:
                failure = error
                continue
            if COLDEST_BELIEVED_CELSIUS <= celsius <= HOTTEST_BELIEVED_CELSIUS:
                believed.append(celsius)
        if not believed and failure is not None:
            raise failure
        return max(believed, default=None)


def _thermal_files(directory: Path) -> Iterator[Path]:
    """The zones' temperature files, in order."""
    for zone in sorted(directory.glob("thermal_zone*")):
        # Jetson's PMIC-Die is no measurement: tegrastats shows PMIC@100C or @50C whatever the load.
        if "pmic" not in (_read_if_there(zone / "type") or "").lower():
            yield zone / "temp"


def _v2_limit_cpus(directory: Path) -> float | None:
    """CPU time that a v2 cgroup grants, in CPUs; None if it is unlimited or absent."""
    text = _read_if_there(directory / "cpu.max")
    if text is None:
        return None
    quota_us, period_us = text.split()
    return None if quota_us == "max" else int(quota_us) / int(period_us)


def _v1_limit_cpus(directory: Path) -> float | None:
    """CPU time that a v1 cgroup grants, in CPUs; None if it is unlimited or absent."""
    quota_us = _read_if_there(directory / "cpu.cfs_quota_us")
    if quota_us is None or int(quota_us) <= 0:
        return None
    return int(quota_us) / int(_read(directory / "cpu.cfs_period_us"))


def _memory_mib() -> tuple[float, float]:
    """Memory available to new work, and all there is, on the whole host."""
    memory = psutil.virtual_memory()
    return memory.available / BYTES_PER_MIB, memory.total / BYTES_PER_MIB


def _read(path: Path) -> str:
    """The text of one of the kernel's small files, in three system calls; open() would make eight."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, LARGEST_FILE_BYTES).decode()
    finally:
        os.close(descriptor)


def _read_if_there(path: Path) -> str | None:
    """The file's text; None if there is no such file. Any other trouble is raised."""
    try:
        return _read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
