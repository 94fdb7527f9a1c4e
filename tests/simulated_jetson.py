"""A Jetson Nano made of files, and the real jtop service on it.

Three private mount namespaces, so that nothing outside changes: `outside` sees this machine as it is, but a /run
of its own, where the service's socket appears; `board` sees the simulated /sys, /proc/stat, nvpmodel and
nvpmodel's files besides. The service is jetson-stats as installed, unaltered. Needs root (or its rights to mount).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

View = Literal["outside", "board"]

REPOSITORY = Path(__file__).resolve().parent.parent
GPU = "57000000.gpu"
DEVFREQ = f"devices/{GPU}/devfreq/{GPU}"
CPUS = "devices/system/cpu"
RAILS = "bus/i2c/devices/6-0040/hwmon/hwmon1"
NUM_CPUS = 4
STAT_BYTES = 1024
JTOP_GROUP_ID = 990
PATIENCE_S = 30.0
POLL_S = 0.02


@dataclass(frozen=True)
class Mode:
    """What nvpmodel switches."""

    name: str
    num_cpus: int
    cpu_khz: int
    gpu_hz: int


MODES = (
    Mode("MAXN", 4, 1_479_000, 921_600_000),
    Mode("10W", 3, 1_224_000, 768_000_000),
    Mode("5W", 2, 918_000, 640_000_000),
)

NVPMODEL = """#!/bin/sh
case "$1" in
  -q) set -- $(cat "{folder}/mode"); printf 'NV Power Mode: %s\\n%s\\n' "$2" "$1";;
  -p) echo "NVPM VERB: POWER_MODEL: ID=0 NAME=MAXN"; echo "NVPM VERB: POWER_MODEL: ID=1 NAME=10W"
      echo "NVPM VERB: POWER_MODEL: ID=2 NAME=5W"; echo "NVPM VERB: PM_CONFIG: DEFAULT=MAXN(0)";;
esac
"""

JETSON_CLOCKS = """#!/bin/sh
case "$1" in
  --show) for n in 0 1 2 3; do
            echo "cpu$n: Online=1 Governor=schedutil MinFreq=102000 MaxFreq=1479000 CurrentFreq=1479000"; done
          echo "GPU MinFreq=76800000 MaxFreq=921600000 CurrentFreq=921600000";;
esac
"""

ENTER_OUTSIDE = """
mount --bind "{folder}/run" /run
"""

ENTER_BOARD = """
mount -t tmpfs tmpfs "{folder}/over"
mkdir "{folder}/over/upper" "{folder}/over/work"
mount -t overlay overlay -o "lowerdir={prefix},upperdir={folder}/over/upper,workdir={folder}/over/work" "{prefix}"
mount -t overlay overlay -o "lowerdir={folder}/bin:/usr/bin" /usr/bin
mount -t overlay overlay -o "lowerdir={folder}/etc:/etc" /etc
mount --bind "{folder}/var-lib" /var/lib
mount --bind "{folder}/stat" /proc/stat
mount --bind "{folder}/sys" /sys
"""


@cache
def why_not() -> str | None:
    """What keeps this machine from simulating a board; None if nothing does."""
    for command in ("unshare", "nsenter", "mount"):
        if shutil.which(command) is None:
            return f"no command {command}"
    tried = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode != 0:
        return f"no private mounts here: {tried.stderr.strip()}"
    if Path("/run/jtop.sock").exists():
        return "this machine has a jtop service of its own"
    return None


def has_jtop() -> bool:
    """Whether jetson-stats is installed."""
    tried = [sys.executable, "-c", "import jtop"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


class SimulatedJetson:
    """The board's files; `build` before use. Changes are seen at once, by whoever reads the simulated /sys."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sys = folder / "sys"
        self._jiffies = 100_000
        self._namespaces: dict[View, subprocess.Popen[str]] = {}
        self._service: subprocess.Popen[str] | None = None
        self._started: list[subprocess.Popen[str]] = []

    # --- its files ------------------------------------------------------------------------------------------

    def put(self, name: str, value: object, end: str = "\n") -> None:
        """Write a file of /sys; a reader sees the old or the new one, never an empty one."""
        _swap(self.sys / name, f"{value}{end}")

    def build(self, *, has_nvpmodel_status: bool = True, has_rails: bool = True) -> None:
        """Make the board in MAXN."""
        for name in ("run", "over", "bin", "etc", "var-lib/nvpmodel"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self._build_commands()
        self._has_status = has_nvpmodel_status
        for cpu in range(NUM_CPUS):
            folder = f"{CPUS}/cpu{cpu}/cpufreq"
            self.put(f"{folder}/scaling_governor", "schedutil")
            for kind in ("scaling", "cpuinfo"):
                for what, khz in (("min", 102_000), ("max", 1_479_000), ("cur", 1_479_000)):
                    self.put(f"{folder}/{kind}_{what}_freq", khz)
        self.put(f"devices/{GPU}/of_node/name", "gpu", end="\0")
        for name, value in (
            ("load", 350), ("railgate_enable", 0), ("tpc_pg_mask", 0), ("enable_3d_scaling", 1),
            ("power/control", "auto"),
        ):  # fmt: skip
            self.put(f"devices/{GPU}/{name}", value)
        self.put(f"{DEVFREQ}/min_freq", 76_800_000)
        self.put(f"{DEVFREQ}/governor", "nvhost_podgov")
        zones = (("CPU-therm", 41_500), ("GPU-therm", 39_000))
        for number, (kind, milli) in enumerate(zones):
            self.put(f"devices/virtual/thermal/thermal_zone{number}/type", kind)
            self.put(f"devices/virtual/thermal/thermal_zone{number}/temp", milli)
            self._link(
                f"class/thermal/thermal_zone{number}", f"../../devices/virtual/thermal/thermal_zone{number}"
            )
        self._link(f"{DEVFREQ}/device", f"../../../{GPU}")
        self._link(f"class/devfreq/{GPU}", f"../../{DEVFREQ}")
        for name, hz in (
            ("rate", 1.6e9),
            ("min_rate", 204e6),
            ("max_rate", 1.6e9),
            ("mrq_rate_locked", 0),
        ):
            self.put(f"kernel/debug/bpmp/debug/clk/emc/{name}", int(hz))
        self.put("kernel/actmon_avg_activity/mc_all", 160_000)
        self.put("class/hwmon/hwmon2/name", "pwm_fan")
        self.put("class/hwmon/hwmon2/pwm1", 128)
        self.put("devices/virtual/dmi/id/product_name", "simulated-jetson")  # asked for on x86 only
        if has_rails:
            self._build_rails()
        (self.folder / "stat").write_bytes(b"\n" * STAT_BYTES)
        self.mode(0)

    def mode(self, number: int) -> None:
        """What `nvpmodel -m` does: cores, ceilings, and what nvpmodel says."""
        mode = MODES[number]
        for cpu in range(NUM_CPUS):
            self.put(f"{CPUS}/cpu{cpu}/online", int(cpu < mode.num_cpus))
            self.put(f"{CPUS}/cpu{cpu}/cpufreq/scaling_max_freq", mode.cpu_khz)
            self.put(f"{CPUS}/cpu{cpu}/cpufreq/scaling_cur_freq", mode.cpu_khz)
        self.put(f"{CPUS}/online", f"0-{mode.num_cpus - 1}")
        self.gpu_max(mode.gpu_hz)
        self.put(f"{DEVFREQ}/cur_freq", mode.gpu_hz)
        _swap(self.folder / "mode", f"{number} {mode.name}\n")
        if self._has_status:
            _swap(self.folder / "var-lib/nvpmodel/status", f"pmode:{number:04}\n")
        self._tick()

    def core(self, number: int, is_online: bool) -> None:
        """Switch one core."""
        self.put(f"{CPUS}/cpu{number}/online", int(is_online))
        self.put(f"{CPUS}/online", ",".join(str(cpu) for cpu in self._online()))
        self._tick()

    def gpu_max(self, hz: int) -> None:
        """Cap the GPU."""
        self.put(f"{DEVFREQ}/max_freq", hz)

    def _build_rails(self) -> None:
        self.put("bus/i2c/devices/6-0040/name", "ina3221x")
        for n, (rail, millivolts, milliamperes) in enumerate(
            (("POM_5V_IN", 5000, 900), ("POM_5V_GPU", 5000, 200), ("POM_5V_CPU", 5000, 300)), 1
        ):
            for name, value in (
                (f"in{n}_label", rail), (f"in{n}_input", millivolts), (f"curr{n}_input", milliamperes),
                (f"curr{n}_max", 4000), (f"curr{n}_crit", 5000),
            ):  # fmt: skip
                self.put(f"{RAILS}/{name}", value)

    def _build_commands(self) -> None:
        for name, text in (("nvpmodel", NVPMODEL), ("jetson_clocks", JETSON_CLOCKS)):
            file = self.folder / "bin" / name
            file.write_text(text.replace("{folder}", str(self.folder)), encoding="utf-8")
            file.chmod(0o755)
        group = [line for line in Path("/etc/group").read_text().splitlines() if not line.startswith("jtop:")]
        (self.folder / "etc/group").write_text("\n".join([*group, f"jtop:x:{JTOP_GROUP_ID}:", ""]))
        modes = [
            f"< POWER_MODEL ID={n} NAME={mode.name} >\nCPU_ONLINE CORE_0 1\n" for n, mode in enumerate(MODES)
        ]
        (self.folder / "etc/nvpmodel.conf").write_text("\n".join([*modes, "< PM_CONFIG DEFAULT=0 >", ""]))

    def _link(self, name: str, target: str) -> None:
        link = self.sys / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)

    def _online(self) -> list[int]:
        return [
            cpu
            for cpu in range(NUM_CPUS)
            if (self.sys / f"{CPUS}/cpu{cpu}/online").read_text().strip() == "1"
        ]

    def _tick(self) -> None:
        """Let time pass in /proc/stat: it is mounted as one file, so it keeps its inode and its length."""
        self._jiffies += 100
        busy, idle = self._jiffies // 4, self._jiffies * 3 // 4
        online = self._online()
        lines = [f"cpu  {busy * len(online)} 0 0 {idle * len(online)} 0 0 0 0 0 0"]
        lines += [f"cpu{cpu} {busy} 0 0 {idle} 0 0 0 0 0 0" for cpu in online]
        text = "\n".join([*lines, "intr 0", ""]).encode().ljust(STAT_BYTES, b"\n")
        descriptor = os.open(self.folder / "stat", os.O_WRONLY)
        try:
            os.pwrite(descriptor, text, 0)
        finally:
            os.close(descriptor)

    # --- its namespaces and programs ------------------------------------------------------------------------

    def enter(self) -> None:
        """Make the namespaces."""
        fields = {"folder": str(self.folder), "prefix": sys.base_prefix}
        self._namespaces["outside"] = self._hold([], ENTER_OUTSIDE.format(**fields))
        self._namespaces["board"] = self._hold(self._into("outside"), ENTER_BOARD.format(**fields))

    def popen(
        self,
        command: Sequence[str],
        view: View = "board",
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> subprocess.Popen[str]:
        """Start a program that sees what `view` says; it is ended with the board."""
        process = subprocess.Popen(
            [*self._into(view), *command],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **(environment or {})},
            text=True,
            start_new_session=True,
            **options,
        )
        self._started.append(process)
        return process

    def start_service(self, library: Path | None = None) -> None:
        """Start the real jtop service and wait until it is ready.

        Args:
            library: Folder of another jetson-stats for it to be of; None is the installed one.
        """
        log = self.folder / "service.log"
        socket = self.folder / "run/jtop.sock"
        with log.open("w") as file:
            self._service = self.popen(
                [sys.executable, "-m", "jtop", "--force"],
                environment={
                    "JTOP_SERVICE": "True",
                    **({} if library is None else {"PYTHONPATH": str(library)}),
                },
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        wait_until(
            lambda: "service ready" in log.read_text() and socket.exists(),
            f"the jtop service was not ready: {log}",
        )

    def kill_service(self) -> None:
        """End it with all its processes, as a crash would."""
        assert self._service is not None, "no service was started"
        os.killpg(self._service.pid, signal.SIGKILL)
        self._service.wait(PATIENCE_S)

    def signal_service(self, signal_number: int) -> None:
        """Stop (SIGSTOP) or continue (SIGCONT) all its processes."""
        assert self._service is not None, "no service was started"
        os.killpg(self._service.pid, signal_number)

    def down(self) -> None:
        """End everything that was started here."""
        for process in reversed(self._started):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE_S)
        for namespace in reversed(self._namespaces.values()):
            namespace.kill()
            namespace.wait(PATIENCE_S)

    def _hold(self, prefix: list[str], mounts: str) -> subprocess.Popen[str]:
        """A process that keeps a namespace with these mounts."""
        script = f"set -e\n{mounts}\necho ready\nexec sleep infinity"
        process = subprocess.Popen(
            [*prefix, "unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "the board's files could not be mounted"
        return process

    def _into(self, view: View) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self._namespaces[view].pid}/ns/mnt", f"--wd={REPOSITORY}"]


def wait_until(is_true: Any, complaint: str, patience_s: float = PATIENCE_S) -> Any:
    """What `is_true` returns, once that is true."""
    give_up_s = time.monotonic() + patience_s
    while not (value := is_true()):
        assert time.monotonic() < give_up_s, complaint
        time.sleep(POLL_S)
    return value


def _swap(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}~")
    new.write_text(text, encoding="utf-8")
    new.replace(file)


@contextlib.contextmanager
def board_with_service(folder: Path) -> Iterator[SimulatedJetson]:
    """A board whose files tell all, with its jtop service; in the end all of it is taken down."""
    board = SimulatedJetson(folder)
    board.build()
    try:
        board.enter()
        board.start_service()
        yield board
    finally:
        board.down()
