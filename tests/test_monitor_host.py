"""Tests of dynhat_runtime.monitor.host: real small files in a fake root, and this very process."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from dynhat_runtime.monitor.host import HostMonitor
from dynhat_runtime.resource_snapshot import ResourceSnapshot

CPUS = "sys/devices/system/cpu"
V2 = "sys/fs/cgroup"


def write(root: Path, files: dict[str, str]) -> None:
    """Put these texts under `root`, as the kernel would with a newline."""
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")


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


# --- cgroup quota -----------------------------------------------------------------------------------------


def test_v2_quota_of_the_own_cgroup(tmp_path: Path) -> None:
    """cpu.max of the cgroup that /proc/self/cgroup names is the quota."""
    files = {"proc/self/cgroup": "0::/app", f"{V2}/app/cpu.max": "150000 100000"}
    assert read(tmp_path, files).cpu_quota_cpus == 1.5


@pytest.mark.parametrize(
    ("own", "parent", "quota_cpus"), [("max", "50000", 0.5), ("50000", "200000", 0.5), ("max", "max", None)]
)
def test_v2_takes_the_tightest_limit_on_the_way_up(
    tmp_path: Path, own: str, parent: str, quota_cpus: float | None
) -> None:
    """A parent's limit binds its children; `max` is no limit."""
    files = {
        "proc/self/cgroup": "0::/slice/app",
        f"{V2}/slice/app/cpu.max": f"{own} 100000",
        f"{V2}/slice/cpu.max": f"{parent} 100000",
    }
    assert read(tmp_path, files).cpu_quota_cpus == quota_cpus


def test_a_siblings_quota_is_not_ours(tmp_path: Path) -> None:
    """A cgroup that is neither ours nor above us does not count."""
    files = {"proc/self/cgroup": "0::/app", f"{V2}/other/cpu.max": "10000 100000"}
    assert read(tmp_path, files).cpu_quota_cpus is None


@pytest.mark.parametrize("path", ["/docker/0123", "/../../elsewhere", "/"])
def test_a_container_that_hides_its_path_is_limited_by_the_mount(tmp_path: Path, path: str) -> None:
    """Where the named cgroup cannot be seen, the limit at the mount is the container's."""
    files = {"proc/self/cgroup": f"0::{path}", f"{V2}/cpu.max": "25000 100000"}
    assert read(tmp_path, files).cpu_quota_cpus == 0.25


def test_a_path_cannot_lead_out_of_the_mount(tmp_path: Path) -> None:
    """A path with `..` does not read files beside the mount."""
    files = {
        "proc/self/cgroup": "0::/../elsewhere",
        f"{V2}/cgroup.procs": "1",
        "sys/fs/elsewhere/cpu.max": "10000 100000",
    }
    assert read(tmp_path, files).cpu_quota_cpus is None


@pytest.mark.parametrize(("controllers", "mount"), [("cpu", "cpu"), ("cpu,cpuacct", "cpu,cpuacct")])
def test_v1_takes_the_tightest_limit_on_the_way_up(tmp_path: Path, controllers: str, mount: str) -> None:
    """v1's quota over period counts at every level of the cpu controller; -1 is no limit."""
    cpu = f"{V2}/{mount}"
    files = {
        "proc/self/cgroup": f"5:cpuset:/pinned\n4:{controllers}:/docker/abc\n0::/",
        f"{cpu}/docker/abc/cpu.cfs_quota_us": "200000",
        f"{cpu}/docker/abc/cpu.cfs_period_us": "100000",
        f"{cpu}/docker/cpu.cfs_quota_us": "75000",
        f"{cpu}/docker/cpu.cfs_period_us": "50000",
        f"{cpu}/cpu.cfs_quota_us": "-1",
        f"{cpu}/cpu.cfs_period_us": "100000",
    }
    assert read(tmp_path, files).cpu_quota_cpus == 1.5


def test_v1_in_a_container_that_hides_its_path(tmp_path: Path) -> None:
    """v1, too, falls back on the mount; the controllers' joint name may be mounted as plain `cpu`."""
    files = {
        "proc/self/cgroup": "4:cpu,cpuacct:/docker/abc",
        f"{V2}/cpu/cpu.cfs_quota_us": "50000",
        f"{V2}/cpu/cpu.cfs_period_us": "100000",
    }
    assert read(tmp_path, files).cpu_quota_cpus == 0.5


def test_the_unified_mount_of_a_hybrid_host_counts(tmp_path: Path) -> None:
    """With v1 and v2 side by side, v2 is found under `unified`, and the tighter of both binds."""
    files = {
        "proc/self/cgroup": "1:cpu:/app\n0::/app",
        f"{V2}/cpu/app/cpu.cfs_quota_us": "100000",
        f"{V2}/cpu/app/cpu.cfs_period_us": "100000",
        f"{V2}/unified/app/cpu.max": "40000 100000",
    }
    assert read(tmp_path, files).cpu_quota_cpus == 0.4


def test_a_move_to_another_cgroup_is_followed(tmp_path: Path) -> None:
    """When the process moves, and when its cgroup's limit changes, the next reading has the new quota."""
    write(tmp_path, {"proc/self/cgroup": "0::/one", f"{V2}/one/cpu.max": "10000 100000"})
    write(tmp_path, {f"{V2}/two/cpu.max": "20000 100000"})
    monitor = HostMonitor(tmp_path)
    assert monitor.read().cpu_quota_cpus == 0.1
    write(tmp_path, {"proc/self/cgroup": "0::/two"})
    assert monitor.read().cpu_quota_cpus == 0.2
    write(tmp_path, {f"{V2}/two/cpu.max": "max 100000"})
    assert monitor.read().cpu_quota_cpus is None


def test_another_process_is_read_under_its_id(tmp_path: Path) -> None:
    """With a pid given, the quota is that process's."""
    write(tmp_path, {"proc/self/cgroup": "0::/", "proc/4242/cgroup": "0::/app"})
    write(tmp_path, {f"{V2}/app/cpu.max": "30000 100000"})
    assert HostMonitor(tmp_path, pid=4242).read().cpu_quota_cpus == 0.3


# --- clock, pressure, temperature -------------------------------------------------------------------------


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


def thermal(zones: dict[str, str]) -> dict[str, str]:
    """Files of thermal zones, by type."""
    files: dict[str, str] = {}
    for number, (kind, temp) in enumerate(zones.items()):
        files[f"sys/class/thermal/thermal_zone{number}/type"] = kind
        files[f"sys/class/thermal/thermal_zone{number}/temp"] = temp
    return files


def test_temperature_is_the_hottest_zone_in_celsius(tmp_path: Path) -> None:
    """Milli-degrees become degrees, and the hottest zone counts."""
    files = thermal({"CPU-therm": "41500", "GPU-therm": "52250", "AO-therm": "39000"})
    assert read(tmp_path, files).temperature_celsius == 52.25


@pytest.mark.parametrize("nonsense", ["200000", "-127000", "", "off"])
def test_a_nonsensical_zone_does_not_silence_the_others(tmp_path: Path, nonsense: str) -> None:
    """A zone that is absurd or unreadable is passed over."""
    files = thermal({"CPU-therm": "41500", "broken": nonsense})
    assert read(tmp_path, files).temperature_celsius == 41.5


def test_only_nonsense_is_no_temperature(tmp_path: Path) -> None:
    """Without a believable zone there is no temperature."""
    assert read(tmp_path, thermal({"broken": "-127000"})).temperature_celsius is None


def test_the_pmic_zone_is_not_believed(tmp_path: Path) -> None:
    """Jetson's PMIC zone, a constant, never counts as the hottest."""
    files = thermal({"PMIC-Die": "100000", "CPU-therm": "41500"})
    assert read(tmp_path, files).temperature_celsius == 41.5


# --- psutil and the whole ---------------------------------------------------------------------------------


def test_memory_is_told_in_mib() -> None:
    """Host memory and this process's resident memory agree with psutil."""
    snapshot = HostMonitor().read()
    assert snapshot.memory_total_mib == psutil.virtual_memory().total / 2**20
    assert snapshot.memory_available_mib is not None
    assert 0 < snapshot.memory_available_mib <= snapshot.memory_total_mib
    assert snapshot.process_memory_mib == pytest.approx(psutil.Process().memory_info().rss / 2**20, rel=0.1)


def test_load_is_the_busy_share_since_the_last_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle and iowait are not busy, guest time is not counted twice, and only the time between counts."""
    now = psutil.cpu_times()
    first = now._replace(**dict.fromkeys(now._fields, 100.0))
    second = first._replace(user=103.0, guest=103.0, idle=105.0, iowait=102.0)
    times = iter([first, second, second])
    monkeypatch.setattr(psutil, "cpu_times", lambda: next(times))
    monitor = HostMonitor()
    assert monitor.read().cpu_load_fraction is None
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


def test_a_failing_sensor_is_logged_once_and_once_when_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three failing readings are one warning, the return is another, and the other sensors read on."""
    write(tmp_path, {"proc/self/cgroup": "0::/app", f"{V2}/app/cpu.max": "150000 100000"})
    write(tmp_path, {"proc/pressure/cpu": "garbage in"})
    monitor = HostMonitor(tmp_path)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            snapshot = monitor.read()
            assert snapshot.cpu_pressure_fraction is None
            assert snapshot.cpu_quota_cpus == 1.5
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "cpu pressure" in caplog.text
        caplog.clear()
        write(tmp_path, {"proc/pressure/cpu": "some avg10=1.00 avg60=0.00 avg300=0.00 total=0"})
        for _ in range(2):
            assert monitor.read().cpu_pressure_fraction == 0.01
    assert len(caplog.records) == 1
    assert "is back" in caplog.text


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
