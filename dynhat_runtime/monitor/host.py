"""A Linux host as a monitor: affinity, control groups, cpufreq, load, pressure, memory, heat and battery.

Reads what any Linux tells without privileges, in under 5 ms. Knows no GPU and no power mode. Each sensor
stands alone, supervised by `sensor.py`: one that fails or hangs is None in the snapshot, and the others still read.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from dynhat_runtime.monitor.cgroup import NO_QUOTA, Cgroups, MemoryRoom
from dynhat_runtime.monitor.files import (
    BYTES_PER_MIB,
    HZ_PER_KHZ,
    believable,
    cpu_list,
    frequency_hz,
    read_text_if_there,
)
from dynhat_runtime.monitor.power import Batteries
from dynhat_runtime.monitor.sensor import SLOW_S, Sensor, SensorReader
from dynhat_runtime.monitor.thermal import CoolingDevices, ThermalZones
from dynhat_runtime.resource_snapshot import ResourceSnapshot

NUM_COUNTED_TIMES = 8
USUAL_PROC: str = psutil.PROCFS_PATH
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class _CpuTimes:
    """What /proc/stat has counted since boot, over all CPUs, in the kernel's ticks."""

    total: int
    idle: int


@dataclass(frozen=True, slots=True)
class _Memory:
    """The whole host's, in MiB."""

    available_mib: float
    total_mib: float


class HostMonitor:
    """Reads this process's share of the host. Not thread-safe: one caller at a time."""

    def __init__(
        self,
        root: Path = Path("/"),
        pid: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Name the sensors; each is looked for when it is first read.

        Args:
            root: Where `proc` and `sys` are looked for. Only the affinity is always the real machine's.
            pid: The process whose affinity, cgroups and memory are read; None is this one.
            clock: Stamps the snapshots, in seconds.
        """
        self._pid = os.getpid() if pid is None else pid
        self._process = root / "proc" / ("self" if pid is None else str(pid))
        self._proc = root / "proc"
        self._cpus = root / "sys/devices/system/cpu"
        self._previous_times: _CpuTimes | None = None
        cgroups = Cgroups(root, self._process / "cgroup")
        # Those that answer from the kernel's own memory come first, those that ask a driver last. Caps are read
        # every time; what only people look at, what changes slowly, and the cpuset, whose changes the affinity shows at
        # once, once a second.
        self._affinity = Sensor("affinity", self._usable_cpus)
        self._cpuset = Sensor("cpuset", cgroups.cpuset, period_s=SLOW_S)
        self._quota = Sensor("cgroup quota", cgroups.cpu_time)
        self._online = Sensor("online cpus", self._online_cpus)
        self._cpu_times = Sensor("cpu load", self._read_cpu_times)
        self._pressure = Sensor("cpu pressure", self._cpu_pressure_fraction, period_s=SLOW_S)
        self._memory = Sensor("memory", self._read_memory, period_s=SLOW_S)
        self._memory_room = Sensor("cgroup memory", cgroups.memory_room, period_s=SLOW_S)
        self._process_memory = Sensor("process memory", self._process_memory_mib, period_s=SLOW_S)
        self._cpu_cap = Sensor("cpu frequency cap", lambda: self._cpu_frequency_hz("scaling_max_freq"))
        self._cpu_clock = Sensor(
            "cpu frequency", lambda: self._cpu_frequency_hz("scaling_cur_freq"), period_s=SLOW_S
        )
        self._cooling = Sensor("cooling", CoolingDevices(root).engaged_fraction, period_s=SLOW_S)
        self._temperature = Sensor("temperature", ThermalZones(root).hottest_celsius, period_s=SLOW_S)
        self._battery = Sensor("battery", Batteries(root).read, period_s=SLOW_S)
        self._reader = SensorReader(
            (
                self._affinity, self._cpuset, self._quota, self._online, self._cpu_times, self._pressure,
                self._memory, self._memory_room, self._process_memory, self._cpu_cap, self._cpu_clock,
                self._cooling, self._temperature, self._battery,
            ),
            clock,
        )  # fmt: skip

    def read(self) -> ResourceSnapshot:
        """One reading. Never raises for a failing sensor, never waits long for one that hangs."""
        return self.snapshot(self._reader.refresh())

    @property
    def sensors(self) -> tuple[Sensor[Any], ...]:
        """Those that `snapshot` tells of."""
        return self._reader.sensors

    def snapshot(self, now_s: float) -> ResourceSnapshot:
        """What the sensors last answered."""
        usable_cpus, cpuset = self._affinity.value(now_s), self._cpuset.value(now_s)
        if usable_cpus is not None and cpuset is not None:
            # A cpuset that contradicts the affinity is another namespace's.
            usable_cpus = tuple(cpu for cpu in usable_cpus if cpu in cpuset) or usable_cpus
        cpu_time = self._quota.value(now_s) or NO_QUOTA
        available_mib, total_mib = _bounded(self._memory.value(now_s), self._memory_room.value(now_s))
        battery = self._battery.value(now_s)
        return ResourceSnapshot(
            monotonic_s=now_s,
            source="host",
            usable_cpus=usable_cpus,
            online_cpus=self._online.value(now_s),
            cpu_quota_cpus=None if cpu_time.period_ms is None else cpu_time.cpus,
            cpu_quota_period_ms=cpu_time.period_ms,
            cpu_current_frequency_hz=self._cpu_clock.value(now_s),
            cpu_max_frequency_hz=self._cpu_cap.value(now_s),
            cpu_load_fraction=self._load_fraction(self._cpu_times.value(now_s)),
            cpu_pressure_fraction=self._pressure.value(now_s),
            memory_available_mib=available_mib,
            memory_total_mib=total_mib,
            process_memory_mib=self._process_memory.value(now_s),
            temperature_celsius=self._temperature.value(now_s),
            cooling_state_fraction=self._cooling.value(now_s),
            battery_fraction=None if battery is None else battery.charge_fraction,
            on_battery=None if battery is None else battery.is_on_battery,
            sensors=self._reader.states(),
        )

    def close(self) -> None:
        """End the reading thread."""
        self._reader.close()

    # --- caps: what work may use ----------------------------------------------------------------------------

    def _usable_cpus(self) -> tuple[int, ...]:
        # By process id, which means the main thread: that is the one `taskset -p` moves. 0 would mean the
        # thread that reads, which was started earlier and keeps its old affinity.
        return tuple(sorted(os.sched_getaffinity(self._pid)))

    def _online_cpus(self) -> tuple[int, ...] | None:
        file = f"{self._cpus}/online"
        text = read_text_if_there(file)
        if text is None:
            return None
        cpus = cpu_list(text, file)
        if not cpus:
            raise ValueError(f"{file} names no CPU")
        return cpus

    def _cpu_frequency_hz(self, file_name: str) -> float | None:
        """The largest value over the usable CPUs (all, if none of them has cpufreq); None without cpufreq."""
        try:
            cpus = os.sched_getaffinity(self._pid)
        except OSError:
            files = [f"{directory}/cpufreq/{file_name}" for directory in self._cpus.glob("cpu[0-9]*")]
        else:
            files = [f"{self._cpus}/cpu{cpu}/cpufreq/{file_name}" for cpu in cpus]
        texts = ((file, read_text_if_there(file)) for file in files)
        return max(
            (frequency_hz(int(text) * HZ_PER_KHZ, file) for file, text in texts if text is not None),
            default=None,
        )

    # --- momentary: what is used now ------------------------------------------------------------------------

    def _read_cpu_times(self) -> _CpuTimes | None:
        # Not psutil: its cpu_percent remembers per calling thread, and its cpu_times cost four times as much.
        file = f"{self._proc}/stat"
        text = read_text_if_there(file)
        if text is None:
            return None
        name, *counts = text.partition("\n")[0].split()
        if name != "cpu" or len(counts) < NUM_COUNTED_TIMES:
            raise ValueError(f"{file} begins with {text[:40]!r}, not with the times of all CPUs")
        # user, nice, system, idle, iowait, irq, softirq, steal; guests' times after them are in the first two already.
        times = [int(count) for count in counts[:NUM_COUNTED_TIMES]]
        if min(times) < 0:
            raise ValueError(f"{file} counts {min(times)} ticks")
        return _CpuTimes(sum(times), times[3] + times[4])

    def _load_fraction(self, times: _CpuTimes | None) -> float | None:
        """Busy share since the previous reading; None where no time has passed."""
        previous, self._previous_times = self._previous_times, times
        if previous is None or times is None or times.total <= previous.total:
            return None
        idle_fraction = (times.idle - previous.idle) / (times.total - previous.total)
        return min(max(1.0 - idle_fraction, 0.0), 1.0)

    def _cpu_pressure_fraction(self) -> float | None:
        file = f"{self._proc}/pressure/cpu"
        text = read_text_if_there(file)
        if text is None:
            return None
        kind, average_10s, *_ = text.split() or ("nothing", "")
        if kind != "some" or not average_10s.startswith("avg10="):
            raise ValueError(f"{file} begins with {kind} {average_10s}, not with some avg10=")
        return believable(float(average_10s.removeprefix("avg10=")), 0.0, 100.0, file) / 100.0

    def _read_memory(self) -> _Memory | None:
        if not (self._proc / "meminfo").exists():
            return None
        with _psutil(self._proc) as told:
            memory = told.virtual_memory()
        available_mib, total_mib = memory.available / BYTES_PER_MIB, memory.total / BYTES_PER_MIB
        if not 0 <= available_mib <= total_mib:
            raise ValueError(f"{available_mib:g} of {total_mib:g} MiB of memory are available")
        return _Memory(available_mib, total_mib)

    def _process_memory_mib(self) -> float | None:
        text = read_text_if_there(f"{self._process}/statm")
        if text is None:
            return None
        return believable(int(text.split()[1]), 0, 2**48, "resident pages") * PAGE_BYTES / BYTES_PER_MIB


@contextmanager
def _psutil(proc: Path) -> Iterator[ModuleType]:
    """psutil, told for the while where `proc` is: it keeps that in a global, by which everybody else asks, too."""
    psutil.PROCFS_PATH = str(proc)
    try:
        yield psutil
    finally:
        psutil.PROCFS_PATH = USUAL_PROC


def _bounded(memory: _Memory | None, room: MemoryRoom | None) -> tuple[float | None, float | None]:
    """Memory available and in total: the host's, or what the process's cgroups leave of it."""
    if memory is None:
        return None, None
    if room is None:
        return memory.available_mib, memory.total_mib
    return min(memory.available_mib, room.available_mib), min(memory.total_mib, room.limit_mib)
