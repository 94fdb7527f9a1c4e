"""A device made of files, and a clock that tests move: for tests of monitors under another root."""

from __future__ import annotations

import os
from pathlib import Path

from dynhat_runtime.resource_snapshot import ResourceSnapshot, SensorState

MINE = min(os.sched_getaffinity(0))
CPUS = "sys/devices/system/cpu"
CGROUP = "sys/fs/cgroup/app"
GPU = "sys/class/devfreq/17000000.gpu"
RAILS = "sys/bus/i2c/devices/1-0040/hwmon/hwmon3"
BATTERY = "sys/class/power_supply/BAT0"
MODES = "< POWER_MODEL ID=0 NAME=MAXN >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=5W >\n< PM_CONFIG DEFAULT=0 >"


def meminfo(total_kb: int, available_kb: int) -> str:
    """What /proc/meminfo says of so much memory; the lines psutil asks for."""
    rest = {"MemFree": 1, "Buffers": 0, "Cached": 0, "Shmem": 0, "Active": 0, "Inactive": 0}
    lines = {"MemTotal": total_kb, **rest, "MemAvailable": available_kb}
    return "\n".join(f"{name}: {kb} kB" for name, kb in lines.items())


HOST = {
    "proc/self/cgroup": "0::/app",
    "proc/self/statm": "5000 2560 100 1 0 300 0",
    "proc/stat": "cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 100 0 100 800 0 0 0 0 0 0",
    "proc/meminfo": meminfo(4194304, 2097152),
    "proc/pressure/cpu": "some avg10=12.50 avg60=3.00 avg300=1.00 total=9",
    f"{CPUS}/online": "0-3",
    f"{CPUS}/cpu{MINE}/cpufreq/scaling_max_freq": "1479000",
    f"{CPUS}/cpu{MINE}/cpufreq/scaling_cur_freq": "102000",
    f"{CGROUP}/cpu.max": "150000 100000",
    f"{CGROUP}/cpuset.cpus.effective": f"{MINE}",
    f"{CGROUP}/memory.max": "1073741824",
    f"{CGROUP}/memory.current": "536870912",
    "sys/class/thermal/thermal_zone0/type": "CPU-therm",
    "sys/class/thermal/thermal_zone0/temp": "41500",
    "sys/class/thermal/cooling_device0/type": "thermal-cpufreq-0",
    "sys/class/thermal/cooling_device0/cur_state": "1",
    "sys/class/thermal/cooling_device0/max_state": "4",
    f"{BATTERY}/type": "Battery",
    f"{BATTERY}/status": "Discharging",
    f"{BATTERY}/capacity": "75",
}
BOARD = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "var/lib/nvpmodel/status": "pmode:0002",
    "etc/nvpmodel.conf": MODES,
    f"{GPU}/cur_freq": "306000000",
    f"{GPU}/max_freq": "612000000",
    f"{GPU}/device/load": "350",
    f"{GPU}/device/of_node/name": "gpu\0",
    f"{RAILS}/in1_label": "VDD_IN",
    f"{RAILS}/in1_input": "5000",
    f"{RAILS}/curr1_input": "900",
}


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.now_s

    def move(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


def write(root: Path, files: dict[str, str]) -> None:
    """Put these texts under `root`, as the kernel would with a newline."""
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")


def state_of(snapshot: ResourceSnapshot, name: str) -> SensorState | None:
    """What the snapshot says of one sensor; None if it lists none by this name."""
    return next((state for state in snapshot.sensors if state.name == name), None)


class Hanging:
    """A file whose reader hangs, as in a driver: a fifo that nobody writes to."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        os.mkfifo(file)
        self._fifo = file

    def restore(self, text: str) -> None:
        """Put a plain file in its place, and let whoever hangs read the same text."""
        aside = self._fifo.with_name(f"{self._fifo.name}.aside")
        self._fifo.rename(aside)
        self._fifo.write_text(text + "\n", encoding="utf-8")
        descriptor = os.open(aside, os.O_WRONLY | os.O_NONBLOCK)  # fails where nobody hangs
        try:
            os.write(descriptor, f"{text}\n".encode())
        finally:
            os.close(descriptor)
            aside.unlink()
