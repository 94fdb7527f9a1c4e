"""A real systemd, booted as process 1 of its own name spaces over a throw-away copy of this machine's file system.

What is written there is gone with it, and nothing outside changes but one cgroup, which is removed. Needs root, the
cgroup v2 hierarchy and overlay mounts; `why_not` says what is missing. Python and its packages are bound to /opt, since
a home folder is out of reach of a sandboxed service.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

REPOSITORY = Path(__file__).resolve().parent.parent
SYSTEMD = Path("/lib/systemd/systemd")
PATIENCE_S = 30.0
POLL_S = 0.05
PREFIX = Path("/opt/dynhat")
"""Where the package is installed inside."""
BASE = Path("/opt/python")
PYTHON = PREFIX / "bin/python"
ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
    "PYTHONPATH": str(PREFIX / "src"),
    "LD_LIBRARY_PATH": str(BASE / "lib"),  # of a Python that was built to find its library elsewhere
}

Value = TypeVar("Value")

# Process 1's file systems, as in a container: an overlay of / on tmpfs, its own /proc, /dev, /run and /tmp, cgroup v2.
# /proc/sys stays read-only, so that systemd-sysctl does not reach this machine's kernel; / is shared, without which
# LoadCredential= leaves an unreadable folder.
BOOT = r"""
state=$1; shift
mount -t tmpfs -o mode=755 tmpfs "$state"
mkdir -p "$state"/upper "$state"/work "$state"/root
root=$state/root
mount -t overlay overlay -o lowerdir=/,upperdir="$state/upper",workdir="$state/work" "$root"
mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$root/sys"
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$root/run"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$root/tmp"
mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev"
node() { mknod -m 666 "$root/dev/$1" c "$2" "$3"; }
node null 1 3; node zero 1 5; node full 1 7; node random 1 8; node urandom 1 9; node tty 5 0
mkdir -p "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue"
ln -s pts/ptmx "$root/dev/ptmx"; ln -s /proc/self/fd "$root/dev/fd"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
for pair in "$@"; do
  mkdir -p "$root${pair#*:}"
  mount --bind "${pair%%:*}" "$root${pair#*:}"
done
for unit in sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount dev-hugepages.mount \
    systemd-modules-load.service; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
rm -rf "$root/var/log/journal"; : > "$root/etc/machine-id"; hostname booted; mkdir -p "$root/run/old"
cd "$root"; pivot_root . run/old
exec env -i container=unshare PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 chroot . /bin/sh -c '
  umount -l /run/old; rmdir /run/old; mount --make-rshared /
  exec /lib/systemd/systemd --system --unit=basic.target --log-target=journal'
"""


@functools.cache
def why_not() -> str | None:
    """What keeps this machine from booting a systemd; None if nothing does."""
    if os.geteuid() != 0:
        return "not root"
    if not SYSTEMD.exists():
        return f"no {SYSTEMD}"
    for command in ("unshare", "nsenter", "pivot_root", "systemd-analyze"):
        if shutil.which(command) is None:
            return f"no command {command}"
    if (hierarchy := _cgroup2()) is None or not os.access(hierarchy, os.W_OK):
        return "no cgroup v2 hierarchy to write to"
    tried = subprocess.run(
        ["unshare", "--mount", "--cgroup", "--pid", "--fork", "--net", "--propagation", "private", "sh", "-ec",
         "mount -t tmpfs tmpfs /mnt; mkdir /mnt/u /mnt/w /mnt/r;"
         "mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/u,workdir=/mnt/w /mnt/r;"
         "mount -t cgroup2 cgroup2 /mnt/r/mnt"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return None if tried.returncode == 0 else f"no private mounts here: {tried.stderr.strip()}"


def _cgroup2() -> Path | None:
    """The cgroup v2 hierarchy, alone or beside v1."""
    for folder in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")):
        if (folder / "cgroup.controllers").exists():
            return folder
    return None


def wait_until(probe: Callable[[], Value], what: str, patience_s: float = PATIENCE_S) -> Value:
    """What `probe` returns, once it is true."""
    deadline_s = time.monotonic() + patience_s
    while not (value := probe()):
        assert time.monotonic() < deadline_s, f"never: {what}"
        time.sleep(POLL_S)
    return value


class BootedSystemd:
    """One instance. Make it with `booted`."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.root = Path(f"/proc/{pid}/root")
        """Its file system, as seen from outside."""

    def run(self, *command: str, check: bool = True, stdin: str | None = None) -> str:
        """Standard output of a command run inside as root, with standard error behind it."""
        done = subprocess.run(
            [*self._enter("-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"), "env", "-i",
             *(f"{name}={value}" for name, value in ENVIRONMENT.items()), *command],
            capture_output=True, text=True, check=False, input=stdin, timeout=2 * PATIENCE_S,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def network(self, *command: str, **options: Any) -> subprocess.Popen[str]:
        """A program of this machine in the instance's network."""
        return subprocess.Popen([*self._enter("-n"), *command], text=True, **options)

    def _enter(self, *spaces: str) -> list[str]:
        return ["nsenter", "-t", str(self._pid), *spaces]

    def write(self, path: str, text: str) -> None:
        """A file inside, readable to all."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(0o644)

    def remove(self, path: str) -> None:
        """No such file inside any more."""
        (self.root / path.lstrip("/")).unlink(missing_ok=True)

    def property(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "-p", name, "--value", unit).strip()

    def wait_for(self, unit: str, wanted: Mapping[str, str], patience_s: float = PATIENCE_S) -> None:
        """Return when a unit's properties are these."""

        def are_there() -> bool:
            return all(self.property(unit, name) == value for name, value in wanted.items())

        try:
            wait_until(are_there, f"{unit} {dict(wanted)}", patience_s)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.run('systemctl', 'status', unit, check=False)}") from None

    def journal(self, unit: str) -> list[dict[str, Any]]:
        """A unit's entries, oldest first."""
        self.run("journalctl", "--sync")
        lines = self.run("journalctl", "-u", unit, "-o", "json", "--no-pager").splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


@contextmanager
def booted(folder: Path) -> Iterator[BootedSystemd]:
    """A booted systemd with this Python, its packages and this working copy in /opt; ended with the context."""
    hierarchy = _cgroup2()
    assert hierarchy is not None
    cgroup = hierarchy / f"dynhat-booted-{os.getpid()}"
    cgroup.mkdir()
    (folder / "state").mkdir(parents=True, exist_ok=True)
    log = (folder / "boot.log").open("w")
    outer = subprocess.Popen(
        ["sh", "-c", 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"', "sh", str(cgroup),
         "unshare", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--pid", "--fork", "--kill-child",
         "--propagation", "private", "bash", "-euc", BOOT, "bash", str(folder / "state"), *_binds()],
        stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    instance = None
    try:
        instance = BootedSystemd(wait_until(lambda: _systemd_below(outer.pid), "systemd as process 1"))
        states = ("running", "degraded")
        wait_until(
            lambda: instance.run("systemctl", "is-system-running", check=False).strip() in states, "booted"
        )
        instance.run("ip", "link", "set", "lo", "up")
        _install_python(instance)
        yield instance
    finally:
        if (pid := _systemd_below(outer.pid)) is not None:
            os.kill(pid, signal.SIGKILL)
        outer.kill()
        outer.wait()
        log.close()
        _remove(cgroup)


def _binds() -> list[str]:
    pairs = {
        Path(sysconfig.get_path("purelib")): PREFIX / _site_packages(),
        **{
            REPOSITORY / name: PREFIX / "src" / name
            for name in ("dynhat_runtime", "operating_points", "systemd", "tests")
        },
    }
    if sys.base_prefix != "/usr":
        pairs[Path(sys.base_prefix)] = BASE
    return [f"{source}:{target}" for source, target in pairs.items()]


def _site_packages() -> str:
    return f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"


def _install_python(instance: BootedSystemd) -> None:
    """A virtual environment around the packages that are bound there."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    base = Path("/usr") if sys.base_prefix == "/usr" else BASE
    instance.write(str(PREFIX / "pyvenv.cfg"), f"home = {base}/bin\ninclude-system-site-packages = false\n")
    instance.run("mkdir", "-p", str(PYTHON.parent))
    instance.run("ln", "-sf", f"{base}/bin/python{version}", str(PYTHON))


def _systemd_below(pid: int) -> int | None:
    """The child of `pid`, once systemd runs in it."""
    with contextlib.suppress(OSError):
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
    return None


def _remove(cgroup: Path) -> None:
    """Remove what systemd made below `cgroup`, once its processes are gone."""

    def is_removed() -> bool:
        for folder in [*sorted(cgroup.rglob("*/"), reverse=True), cgroup]:
            with contextlib.suppress(OSError):
                folder.rmdir()
        return not cgroup.exists()

    wait_until(is_removed, f"{cgroup} removed")
