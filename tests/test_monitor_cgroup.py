"""Tests of dynhat_runtime.monitor.cgroup: what v1 and v2 leave to a process, in a fake root and for real."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from dynhat_runtime.monitor.cgroup import NO_QUOTA, Cgroups
from dynhat_runtime.monitor.host import HostMonitor
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from tests.sensor_files import MINE, meminfo, write

V2 = "sys/fs/cgroup"
MIB = 2**20


def read(root: Path, files: dict[str, str]) -> ResourceSnapshot:
    """One reading of a host that has these files."""
    write(root, files)
    return HostMonitor(root).read()


# --- cgroup quota -----------------------------------------------------------------------------------------


def test_v2_quota_of_the_own_cgroup(tmp_path: Path) -> None:
    """cpu.max of the cgroup that /proc/self/cgroup names is the quota."""
    files = {"proc/self/cgroup": "0::/app", f"{V2}/app/cpu.max": "150000 100000"}
    snapshot = read(tmp_path, files)
    assert (snapshot.cpu_quota_cpus, snapshot.cpu_quota_period_ms) == (1.5, 100.0)


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
        f"{V2}/unified/app/cpu.max": "4000 10000",
    }
    snapshot = read(tmp_path, files)
    assert (snapshot.cpu_quota_cpus, snapshot.cpu_quota_period_ms) == (0.4, 10.0)


def test_a_move_to_another_cgroup_is_followed(tmp_path: Path) -> None:
    """When the process moves, and when its cgroup's limit changes, the next reading has the new quota."""
    write(tmp_path, {"proc/self/cgroup": "0::/one", f"{V2}/one/cpu.max": "10000 100000"})
    write(tmp_path, {f"{V2}/two/cpu.max": "20000 100000"})
    monitor = HostMonitor(tmp_path)
    assert monitor.read().cpu_quota_cpus == 0.1
    write(tmp_path, {"proc/self/cgroup": "0::/two"})
    assert monitor.read().cpu_quota_cpus == 0.2
    write(tmp_path, {f"{V2}/two/cpu.max": "max 100000"})
    snapshot = monitor.read()
    assert (snapshot.cpu_quota_cpus, snapshot.cpu_quota_period_ms) == (None, None)


def test_another_process_is_read_under_its_id(tmp_path: Path) -> None:
    """With a pid given, the quota is that process's."""
    write(tmp_path, {"proc/self/cgroup": "0::/", "proc/4242/cgroup": "0::/app"})
    write(tmp_path, {f"{V2}/app/cpu.max": "30000 100000"})
    assert HostMonitor(tmp_path, pid=4242).read().cpu_quota_cpus == 0.3


# --- cpuset -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("membership", "file"),
    [
        ("0::/app", f"{V2}/app/cpuset.cpus.effective"),
        ("0::/hidden/by/container", f"{V2}/cpuset.cpus.effective"),
        ("3:cpuset:/app", f"{V2}/cpuset/app/cpuset.effective_cpus"),
        ("3:cpuset:/app", f"{V2}/cpuset/app/cpuset.cpus"),
    ],
)
def test_cpuset_narrows_the_affinity(tmp_path: Path, membership: str, file: str) -> None:
    """A cpuset of v1 or v2 leaves only those of the affinity's CPUs that it has."""
    snapshot = read(tmp_path, {"proc/self/cgroup": membership, file: f"{MINE},512-1023"})
    assert snapshot.usable_cpus == (MINE,)


def test_the_nearest_cpuset_counts(tmp_path: Path) -> None:
    """Effective sets hold what is above them, so the nearest one is the process's."""
    write(tmp_path, {"proc/self/cgroup": "0::/slice/app"})
    write(
        tmp_path, {f"{V2}/slice/app/cpuset.cpus.effective": "2", f"{V2}/slice/cpuset.cpus.effective": "0-3"}
    )
    assert Cgroups(tmp_path, tmp_path / "proc/self/cgroup").cpuset() == (2,)


def test_a_cpuset_of_other_cpus_is_not_believed(tmp_path: Path) -> None:
    """A cpuset that leaves none of the affinity's CPUs is another namespace's: the affinity stands."""
    snapshot = read(tmp_path, {"proc/self/cgroup": "0::/", f"{V2}/cpuset.cpus.effective": "8000-8001"})
    assert "cpuset" in {state.name for state in snapshot.sensors if state.is_up}
    assert snapshot.usable_cpus == tuple(sorted(os.sched_getaffinity(0)))


# --- memory -----------------------------------------------------------------------------------------------

HOST_MEMORY = {"proc/meminfo": meminfo(8388608, 4194304)}


def test_v2_memory_limit_bounds_the_hosts_memory(tmp_path: Path) -> None:
    """memory.max is the total, what is not used of it the available; cache given up first counts as free."""
    files = {
        "proc/self/cgroup": "0::/app",
        f"{V2}/app/memory.max": str(1024 * MIB),
        f"{V2}/app/memory.current": str(768 * MIB),
        f"{V2}/app/memory.stat": f"anon 1\ninactive_file {256 * MIB}\nactive_file 7",
    }
    snapshot = read(tmp_path, {**HOST_MEMORY, **files})
    assert (snapshot.memory_total_mib, snapshot.memory_available_mib) == (1024.0, 512.0)


def test_v1_memory_limit_of_a_parent_bounds_too(tmp_path: Path) -> None:
    """v1: the tightest level counts, and the huge number that means no limit does not."""
    v1 = f"{V2}/memory"
    files = {
        "proc/self/cgroup": "4:memory:/parent/app",
        f"{v1}/parent/app/memory.limit_in_bytes": "9223372036854771712",
        f"{v1}/parent/memory.limit_in_bytes": str(512 * MIB),
        f"{v1}/parent/memory.usage_in_bytes": str(384 * MIB),
        f"{v1}/parent/memory.stat": f"inactive_file 5\ntotal_inactive_file {64 * MIB}",
    }
    snapshot = read(tmp_path, {**HOST_MEMORY, **files})
    assert (snapshot.memory_total_mib, snapshot.memory_available_mib) == (512.0, 192.0)


def test_a_limit_above_what_the_host_has_changes_nothing(tmp_path: Path) -> None:
    """A cgroup that grants more than there is leaves the host's own figures."""
    files = {
        "proc/self/cgroup": "0::/app",
        f"{V2}/app/memory.max": str(2**40),
        f"{V2}/app/memory.current": str(MIB),
    }
    snapshot = read(tmp_path, {**HOST_MEMORY, **files})
    assert (snapshot.memory_total_mib, snapshot.memory_available_mib) == (8192.0, 4096.0)


# --- none at all, and for real ----------------------------------------------------------------------------


def test_a_kernel_without_cgroups(tmp_path: Path) -> None:
    """Without /proc/PID/cgroup there is nothing to tell, and no failure."""
    cgroups = Cgroups(tmp_path, tmp_path / "proc/self/cgroup")
    assert (cgroups.cpu_time(), cgroups.cpuset(), cgroups.memory_room()) == (None, None, None)


def test_no_limit_is_infinite(tmp_path: Path) -> None:
    """Cgroups without a limit grant everything."""
    write(tmp_path, {"proc/self/cgroup": "0::/app"})
    cgroups = Cgroups(tmp_path, tmp_path / "proc/self/cgroup")
    room = cgroups.memory_room()
    assert cgroups.cpu_time() == NO_QUOTA
    assert room is not None
    assert room.limit_mib == math.inf


def own_v1_cpu_cgroup() -> Path | None:
    """Directory of this process's cgroup under the v1 cpu controller, if it can be seen."""
    lines = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    path = next((path for _, controllers, path in lines if controllers == "cpu"), None)
    folder = Path(f"/sys/fs/cgroup/cpu{path}")
    return folder if path is not None and folder.is_dir() else None


def test_a_real_v1_quota_is_seen() -> None:
    """A quota that this kernel enforces on this very process is read as such, and its end too."""
    own = own_v1_cpu_cgroup()
    if own is None:
        pytest.skip("no v1 cpu controller here")
    group = own / f"dynhat-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    monitor = HostMonitor()
    try:
        (group / "cpu.cfs_quota_us").write_text("150000")
        (group / "cgroup.procs").write_text(str(os.getpid()))
        assert monitor.read().cpu_quota_cpus == 1.5
    finally:
        (own / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()
    assert monitor.read().cpu_quota_cpus != 1.5
