"""Tests of dynhat_runtime.monitor.host: real small files in a fake root, and this very process."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from dynhat_runtime.monitor.host import HostMonitor
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from tests.sensor_files import meminfo, write

CPUS = "sys/devices/system/cpu"


def read(root: Path, files: dict[str, str]) -> ResourceSnapshot:
    """One reading of a host that has these files, and no cgroups unless given."""
    write(root, {"proc/self/cgroup": "0::/", **files})
    return HostMonitor(root).read()


# --- affinity ---------------------------------------------------------------------------------------------


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs to give one up")
def test_a_narrowed_affinity_is_seen() -> None:
    """Taking a CPU from this process shows in the next reading, and giving it back in the one after."""
    all_cpus = os.sched_getaffinity(0)
    monitor = HostMonitor()
    try:
        assert monitor.read().usable_cpus == tuple(sorted(all_cpus))
        os.sched_setaffinity(0, {max(all_cpus)})
        assert monitor.read().usable_cpus == (max(all_cpus),)
    finally:
        os.sched_setaffinity(0, all_cpus)
    assert monitor.read().usable_cpus == tuple(sorted(all_cpus))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs to give one up")
def test_another_thread_reads_the_main_threads_affinity() -> None:
    """A thread that started before the main thread was narrowed reports the narrowed CPUs, not its own."""
    all_cpus = os.sched_getaffinity(0)
    narrowed = threading.Event()
    seen: list[tuple[int, ...] | None] = []

    def read_when_narrowed() -> None:
        narrowed.wait(5.0)
        seen.append(HostMonitor().read().usable_cpus)

    thread = threading.Thread(target=read_when_narrowed)
    thread.start()
    try:
        os.sched_setaffinity(os.getpid(), {min(all_cpus)})
        narrowed.set()
        thread.join(5.0)
    finally:
        os.sched_setaffinity(os.getpid(), all_cpus)
    assert seen == [(min(all_cpus),)]


# --- clock and pressure -----------------------------------------------------------------------------------


def test_clock_is_the_fastest_of_the_usable_cpus_in_hz(tmp_path: Path) -> None:
    """Current clock and cap are the largest over the usable CPUs; kHz become Hz; other CPUs do not count."""
    mine = min(os.sched_getaffinity(0))
    files = {
        f"{CPUS}/cpu{mine}/cpufreq/scaling_cur_freq": "102000",
        f"{CPUS}/cpu{mine}/cpufreq/scaling_max_freq": "1479000",
        f"{CPUS}/cpu9999/cpufreq/scaling_cur_freq": "5000000",
        f"{CPUS}/cpu9999/cpufreq/scaling_max_freq": "5000000",
    }
    snapshot = read(tmp_path, files)
    assert snapshot.cpu_current_frequency_hz == 102e6
    assert snapshot.cpu_max_frequency_hz == 1.479e9


def test_an_unreadable_clock_leaves_the_cap(tmp_path: Path) -> None:
    """A driver that says `<unknown>` for the clock makes the clock None and nothing else."""
    mine = min(os.sched_getaffinity(0))
    files = {
        f"{CPUS}/cpu{mine}/cpufreq/scaling_cur_freq": "<unknown>",
        f"{CPUS}/cpu{mine}/cpufreq/scaling_max_freq": "1479000",
    }
    snapshot = read(tmp_path, files)
    assert snapshot.cpu_current_frequency_hz is None
    assert snapshot.cpu_max_frequency_hz == 1.479e9


def test_pressure_is_the_share_of_ten_seconds(tmp_path: Path) -> None:
    """avg10 of the `some` line, in percent, becomes a fraction."""
    text = "some avg10=12.50 avg60=3.00 avg300=1.00 total=9\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=0"
    assert read(tmp_path, {"proc/pressure/cpu": text}).cpu_pressure_fraction == 0.125


def test_pressure_of_another_kind_is_not_taken_for_it(tmp_path: Path) -> None:
    """A file that does not begin with the `some` line is a failure, not a pressure."""
    text = "full avg10=99.00 avg60=0.00 avg300=0.00 total=0"
    assert read(tmp_path, {"proc/pressure/cpu": text}).cpu_pressure_fraction is None


# --- memory, load and the whole ---------------------------------------------------------------------------


def test_psutil_is_told_another_root_for_the_reading_only(tmp_path: Path) -> None:
    """Whoever else asks psutil in this process still asks the real machine, also after a reading that failed."""
    file = tmp_path / "proc/meminfo"
    file.parent.mkdir()
    for text, total_mib in ((meminfo(4194304, 2097152), 4096.0), ("MemTotal: none", None)):
        file.write_text(text)
        assert HostMonitor(tmp_path).read().memory_total_mib == total_mib
        assert psutil.Process().pid == os.getpid()


def test_memory_is_told_in_mib() -> None:
    """Host memory and this process's resident memory agree with psutil."""
    snapshot = HostMonitor().read()
    assert snapshot.memory_total_mib == psutil.virtual_memory().total / 2**20
    assert snapshot.memory_available_mib is not None
    assert 0 < snapshot.memory_available_mib <= snapshot.memory_total_mib
    assert snapshot.process_memory_mib == pytest.approx(psutil.Process().memory_info().rss / 2**20, rel=0.1)


def test_load_is_the_busy_share_since_the_last_reading(tmp_path: Path) -> None:
    """Idle and iowait are not busy, guest time is not counted twice, and only the time between counts."""
    first = "cpu  100 100 100 100 100 100 100 100 100 100"
    later = "cpu  103 100 100 105 102 100 100 100 103 100"
    assert read(tmp_path, {"proc/stat": first}).cpu_load_fraction is None
    monitor = HostMonitor(tmp_path)
    monitor.read()
    write(tmp_path, {"proc/stat": later})
    assert monitor.read().cpu_load_fraction == pytest.approx(0.3)
    assert monitor.read().cpu_load_fraction is None  # no time has passed: nothing to tell


def test_load_starts_at_the_second_reading_in_any_thread() -> None:
    """The first reading has no load; a later one, from another thread too, covers the time between."""
    monitor = HostMonitor()
    assert monitor.read().cpu_load_fraction is None
    end_s = time.monotonic() + 0.2
    while time.monotonic() < end_s:
        pass
    later: list[ResourceSnapshot] = []
    thread = threading.Thread(target=lambda: later.append(monitor.read()))
    thread.start()
    thread.join()
    assert 0.0 < (later[0].cpu_load_fraction or 0.0) <= 1.0


def test_a_bare_host_reads_none_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a device does not have is None, never zero, and nothing to warn of."""
    snapshot = read(tmp_path, {})
    assert snapshot.cpu_quota_cpus is None
    assert snapshot.cpu_current_frequency_hz is None
    assert snapshot.cpu_max_frequency_hz is None
    assert snapshot.cpu_pressure_fraction is None
    assert snapshot.temperature_celsius is None
    assert snapshot.usable_cpus
    assert not caplog.records


def test_a_dead_process_still_reads_the_host() -> None:
    """A process id that nobody has makes its own sensors None, and no exception."""
    snapshot = HostMonitor(pid=2**22 + 1).read()
    assert snapshot.usable_cpus is None
    assert snapshot.process_memory_mib is None
    assert snapshot.memory_total_mib is not None


def test_the_clock_stamps_the_snapshot(tmp_path: Path) -> None:
    """The injected clock is the snapshot's time, and the source is named."""
    snapshot = HostMonitor(tmp_path, clock=lambda: 12.5).read()
    assert (snapshot.monotonic_s, snapshot.source) == (12.5, "host")


def test_a_reading_takes_under_5_ms() -> None:
    """The quickest of ten readings of this host takes under 5 ms."""
    monitor = HostMonitor()
    times_s = []
    for _ in range(10):
        start_s = time.perf_counter()
        monitor.read()
        times_s.append(time.perf_counter() - start_s)
    assert min(times_s) < 0.005
