"""`python -m dynhat_runtime.monitor.jtop_process`: one connection to the jtop service, as JSON lines on stdout.

A process of its own, because jtop's `start()` may hang for good and only a process can be ended then. The only
importer of jtop. One line per tick with the fields of `jtop_link.FIELDS`; a last line `{"error": ...}` when the
connection ends. Judges no value and never reconnects: `jtop_link.py` does. Ends when its stdin is closed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

INTERVAL_S = 1.0
"""jtop's own rate: faster polling costs the service more than it tells (27 % of a CPU at 0.1 s)."""
STALE_INTERVALS = 3
"""Ticks without news of the service's own clock that mean it is stuck, whatever `ok()` says."""
STDIN = 0
KIB_PER_MIB = 1024.0
HZ_PER_KHZ = 1000.0
HZ_PER_MHZ = 1e6


def main() -> int:
    """Follow the service until it or the reader of our lines is gone; the exit status."""
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        _follow()
    except Exception as error:  # jtop raises its own, and raw errors of sockets and pickles
        _tell({"error": f"{type(error).__name__}: {' '.join(str(error).split())}"})
    return 1


def _end_with_stdin() -> None:
    """Whoever started us holds our stdin open; if it ends, however, so do we, even where jtop hangs."""
    # Not sys.stdin: its buffer's lock, held here, would abort the interpreter's own end.
    while os.read(STDIN, 4096):
        pass
    os._exit(0)


def _follow() -> None:
    from jtop import jtop

    connection = jtop(interval=INTERVAL_S)
    try:
        connection.start()
        service_clock, since_s = None, time.monotonic()
        while connection.ok():
            now_s = time.monotonic()
            if connection.uptime != service_clock:
                service_clock, since_s = connection.uptime, now_s
            elif now_s - since_s > STALE_INTERVALS * INTERVAL_S:
                raise TimeoutError(f"the service repeats itself since {now_s - since_s:.1f} s")
            _tell(values(connection))
        raise TimeoutError("the service gives no news")
    finally:
        connection.close()


def values(connection: Any) -> dict[str, object]:
    """What a tick says, in our units; None is what it does not say."""
    gpu = _first_gpu(connection)
    cpus = _or_none(lambda: connection.cpu["cpu"]) or []
    online = [number for number, cpu in enumerate(cpus) if cpu.get("online")]
    ram = _or_none(lambda: connection.memory["RAM"]) or {}
    # An NVML GPU (Thor) counts its clocks in MHz, every other in kHz.
    gpu_unit_hz = HZ_PER_MHZ if gpu.get("power_control") == "nvml" else HZ_PER_KHZ
    return {
        "online_cpus": online or None,
        "cpu_current_frequency_hz": _largest_hz(cpus, "cur"),
        "cpu_max_frequency_hz": _largest_hz(cpus, "max"),
        "gpu_current_frequency_hz": _or_none(lambda: gpu["freq"]["cur"] * gpu_unit_hz),
        "gpu_max_frequency_hz": _or_none(lambda: gpu["freq"]["max"] * gpu_unit_hz),
        "gpu_load_fraction": _or_none(lambda: gpu["status"]["load"] / 100.0),
        "power_mode": _or_none(lambda: str(connection.nvpmodel.name or connection.nvpmodel.id)),
        "power_mw": _or_none(lambda: float(connection.power["tot"]["power"])),
        "temperature_celsius": _or_none(lambda: _hottest(connection.temperature)),
        "memory_total_mib": _or_none(lambda: ram["tot"] / KIB_PER_MIB),
        "memory_available_mib": _or_none(lambda: (ram["tot"] - ram["used"]) / KIB_PER_MIB),
    }


def _first_gpu(connection: Any) -> Mapping[str, Any]:
    gpus = _or_none(lambda: dict(connection.gpu.items())) or {}
    return next((gpus[name] for name in sorted(gpus)), {})


def _largest_hz(cpus: list[Any], what: str) -> float | None:
    """Over the CPUs that are on: one that is off has no clock."""
    frequencies = [cpu.get("freq") or {} for cpu in cpus if cpu.get("online")]
    clocks = [float(frequency[what]) for frequency in frequencies if frequency.get(what) is not None]
    return max(clocks) * HZ_PER_KHZ if clocks else None


def _hottest(zones: Mapping[str, Any]) -> float | None:
    return max((zone["temp"] for zone in zones.values() if zone.get("online")), default=None)


def _or_none(take: Callable[[], Any]) -> Any:
    """jtop leaves out, or sets to None, what a board lacks."""
    try:
        return take()
    except (KeyError, TypeError, AttributeError, IndexError, ValueError):
        return None


def _tell(line: Mapping[str, object]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
