"""Tests of dynhat_runtime.monitor.jetson and jetson_sysfs: boards of files, with and without jtop."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from dynhat_runtime.monitor.jetson import JetsonMonitor, is_jetson
from dynhat_runtime.monitor.jetson_sysfs import DevfreqGpu, PowerMode
from dynhat_runtime.resource_snapshot import ResourceSnapshot
from tests.sensor_files import BOARD, GPU, MODES, RAILS, Clock, state_of, write

PATIENCE_S = 20.0
SAID = '{"gpu_max_frequency_hz": 1, "power_mode": "jtops", "power_mw": 1, "temperature_celsius": 39}'
SAYS_ALL = f"import time; print({SAID!r}, flush=True); time.sleep(600)"


def gpu(root: Path, files: dict[str, str]) -> DevfreqGpu:
    """The GPU of a board with these devfreq files."""
    write(root, {f"sys/class/devfreq/{name}": text for name, text in files.items()})
    return DevfreqGpu(root)


def test_all_without_jtop(tmp_path: Path) -> None:
    """Plain files give GPU, cap, load, power mode by name, and the board's power, in our units."""
    write(tmp_path, BOARD)
    monitor = JetsonMonitor(tmp_path)
    snapshot = monitor.read()
    assert (snapshot.gpu_current_frequency_hz, snapshot.gpu_max_frequency_hz) == (306e6, 612e6)
    assert (snapshot.gpu_load_fraction, snapshot.power_mode, snapshot.power_mw) == (0.35, "5W", 4500.0)
    assert [state.name for state in snapshot.sensors] == ["power mode", "gpu", "power"]
    assert snapshot.source == "jetson"
    monitor.close()


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("57000000.gpu", "gpu"), ("17000000.ga10b", "ga10b"), ("17000000.gv11b", "gv11b"), ("1.x", "gp10b"),
        ("gpu-gpc-0", None),
    ],
)  # fmt: skip
def test_the_gpu_of_every_generation(tmp_path: Path, device: str, name: str | None) -> None:
    """Found by its device-tree name, or by its own where it has none, among devices that are no GPU."""
    files = {
        "15340000.vic/cur_freq": "1", "15340000.vic/max_freq": "2", "15340000.vic/device/of_node/name": "vic\0",
        f"{device}/cur_freq": "306000000", f"{device}/max_freq": "612000000",
    }  # fmt: skip
    if name is not None:
        files[f"{device}/device/of_node/name"] = f"{name}\0"
    reading = gpu(tmp_path, files).read()
    assert reading is not None
    assert (reading.current_hz, reading.max_hz, reading.load_fraction) == (306e6, 612e6, None)


def test_a_gpu_that_is_switched_off(tmp_path: Path) -> None:
    """A railgated GPU has clock 0: that is a reading, and its cap stands."""
    reading = gpu(tmp_path, {"1.gpu/cur_freq": "0", "1.gpu/max_freq": "612000000"}).read()
    assert reading is not None
    assert (reading.current_hz, reading.max_hz) == (0.0, 612e6)


@pytest.mark.parametrize(
    ("status", "conf", "mode"),
    [
        ("pmode:0000", MODES, "MAXN"), ("pmode:0002 fmode:cool", MODES, "5W"), ("pmode:0007", MODES, "7"),
        ("pmode:0002", None, "2"), ("pmode:0002", "not a conf", "2"),
    ],
)  # fmt: skip
def test_power_mode(tmp_path: Path, status: str, conf: str | None, mode: str) -> None:
    """The name in nvpmodel.conf, or the number where no name is known."""
    write(tmp_path, {"var/lib/nvpmodel/status": status})
    if conf is not None:
        write(tmp_path, {"etc/nvpmodel.conf": conf})
    assert PowerMode(tmp_path).read() == mode


@pytest.mark.parametrize(
    ("files", "is_board"),
    [
        ({"proc/device-tree/model": "NVIDIA Jetson Nano Developer Kit\0"}, True),
        ({"proc/device-tree/model": "Carrier\0", "proc/device-tree/compatible": "acme\0nvidia,tegra234\0"}, True),
        ({"etc/nv_tegra_release": "# R35"}, True),
        ({"run/jtop.sock": ""}, True),
        ({f"{GPU}/device/of_node/name": "gpu\0"}, True),
        ({"proc/device-tree/model": "Raspberry Pi 4 Model B\0"}, False),
        ({}, False),
    ],
)  # fmt: skip
def test_is_jetson(tmp_path: Path, files: dict[str, str], is_board: bool) -> None:
    """Known by device tree, release file, GPU or jtop's socket; in a container one of them is left."""
    write(tmp_path, files)
    assert is_jetson(tmp_path) is is_board


# --- beside jtop ------------------------------------------------------------------------------------------


def with_service(root: Path, files: dict[str, str]) -> JetsonMonitor:
    """A board with these files whose jtop says all it can."""
    write(root, {**files, "run/jtop.sock": ""})
    return JetsonMonitor(root, jtop_command=(sys.executable, "-c", SAYS_ALL))


def read_until_jtop(monitor: JetsonMonitor) -> ResourceSnapshot:
    """The first reading in which jtop has answered."""
    give_up_s = time.monotonic() + PATIENCE_S
    while state_of(snapshot := monitor.read(), "jtop") is None:
        assert time.monotonic() < give_up_s, "jtop never answered"
        time.sleep(0.01)
    return snapshot


def test_jtop_fills_what_files_lack(tmp_path: Path) -> None:
    """Where a rail is missing jtop is asked; what files say stands all the same."""
    pytest.importorskip("jtop", reason="jetson-stats is not installed")
    monitor = with_service(
        tmp_path, {name: text for name, text in BOARD.items() if not name.startswith(RAILS)}
    )
    snapshot = read_until_jtop(monitor)
    assert (snapshot.power_mw, snapshot.temperature_celsius) == (1.0, 39.0)
    assert (snapshot.gpu_max_frequency_hz, snapshot.power_mode) == (612e6, "5W")
    monitor.close()


def test_jtop_is_not_asked_where_files_tell_all(tmp_path: Path) -> None:
    """Every tick of jtop costs the board a process: a board whose files are complete does not start it."""
    pytest.importorskip("jtop", reason="jetson-stats is not installed")
    clock = Clock()
    write(tmp_path, {**BOARD, "run/jtop.sock": ""})
    monitor = JetsonMonitor(tmp_path, clock, jtop_command=("/no/such/program",))
    monitor.read()
    assert state_of(monitor.read(), "jtop") is None
    (tmp_path / RAILS / "in1_label").unlink()
    (tmp_path / RAILS / "in1_input").unlink()
    clock.move(2.0)
    state = state_of(monitor.read(), "jtop")  # now it is asked, and fails as it must here
    assert state is not None
    assert not state.is_up
    monitor.close()
