"""`python -m benchmarks.monitors`: what sensing costs. One reading in ms, the whole control loop in share of a core.

A reading is timed in this process, on this machine and on a Jetson made of files. The loop's share is that of the
real daemon without requests at two decisions a second, less that of the same daemon at one a minute; on a simulated
board only as root. Prints one JSON object. Switches nothing on this machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from dynhat_runtime.monitor import choose_monitor
from dynhat_runtime.monitor.identity import device_name
from tests.board_daemon import BoardDaemon
from tests.sensor_files import BOARD, HOST, write
from tests.simulated_jetson import SimulatedJetson, board_with_service, has_jtop, why_not

AIMS = {"reading_ms": 5.0, "loop_share_of_a_core": 0.005}
NUM_READINGS = 400
PAUSE_S = 0.02
LOOP_INTERVAL_S, IDLE_INTERVAL_S = 0.5, 60.0
SETTLE_S = 8.0
NS_PER_S = 1e9


def time_readings(root: Path) -> dict[str, float]:
    """Wall-clock and CPU time of single readings of the monitor that a daemon would choose."""
    monitor = choose_monitor("auto", root)
    monitor.read()
    walls_ms: list[float] = []
    cpu_s = 0.0
    for _ in range(NUM_READINGS):
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        monitor.read()
        walls_ms.append((time.perf_counter() - begun_s) * 1000)
        cpu_s += time.process_time() - begun_cpu_s
        time.sleep(PAUSE_S)
    monitor.close()
    walls_ms.sort()
    return {
        "median_ms": round(median(walls_ms), 3),
        "p99_ms": round(walls_ms[int(0.99 * NUM_READINGS)], 3),
        "max_ms": round(walls_ms[-1], 3),
        "cpu_ms": round(cpu_s / NUM_READINGS * 1000, 3),
    }


def loop_share(board: SimulatedJetson, view: Any, monitor: str, seconds: float) -> dict[str, float]:
    """Share of one core that sensing and deciding take of the daemon, and of the process it follows jtop with."""
    busy = _shares(board, view, monitor, LOOP_INTERVAL_S, seconds)
    idle = _shares(board, view, monitor, IDLE_INTERVAL_S, seconds)
    return {
        "loop_share_of_a_core": round(busy["daemon"] - idle["daemon"], 5),
        "jtop_process_share_of_a_core": round(busy["children"], 5),
        "daemon_idle_share_of_a_core": round(idle["daemon"], 5),
    }


def _shares(
    board: SimulatedJetson, view: Any, monitor: str, interval_s: float, seconds: float
) -> dict[str, float]:
    daemon = BoardDaemon(board, view, monitor, {"DYNHAT_CONTROL_INTERVAL_S": str(interval_s)})
    try:
        time.sleep(SETTLE_S)
        before, begun_s = _cpu_s(daemon.pid), time.monotonic()
        time.sleep(seconds)
        after, elapsed_s = _cpu_s(daemon.pid), time.monotonic() - begun_s
    finally:
        daemon.stop()
    return {name: (after[name] - before[name]) / elapsed_s for name in after}


def _cpu_s(pid: int) -> dict[str, float]:
    """CPU time of a process, over its threads, and of its children."""
    children: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        children += [int(child) for child in file.read_text().split()]
    return {"daemon": _own_cpu_s(pid), "children": sum(_own_cpu_s(child) for child in children)}


def _own_cpu_s(pid: int) -> float:
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files) / NS_PER_S


def main(arguments: Sequence[str]) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0, help="time each daemon is watched (30)")
    asked = parser.parse_args(arguments)
    found: dict[str, Any] = {"device": device_name(), "aims": AIMS}
    with tempfile.TemporaryDirectory(prefix="dynhat-monitors-") as name:
        files = Path(name) / "files"
        write(files, {**HOST, **BOARD})
        found["reading"] = {"this machine": time_readings(Path("/")), "Jetson of files": time_readings(files)}
        reason = why_not() or (None if has_jtop() else "jetson-stats is not installed")
        if reason is not None:
            found["loop"] = f"not measured: {reason}"
        else:
            folder = Path(name) / "board"
            folder.mkdir()
            with board_with_service(folder) as board:
                found["loop"] = {
                    "this machine": loop_share(board, "outside", "host", asked.seconds),
                    "Jetson on files": loop_share(board, "board", "auto", asked.seconds),
                    "Jetson through jtop": loop_share(board, "outside", "jetson", asked.seconds),
                }
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
