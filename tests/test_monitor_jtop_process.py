"""Tests of dynhat_runtime.monitor.jtop_process: the shapes jtop's answers have on boards we cannot simulate.

What a Nano says is tested with the real service in test_jtop_service.py; the shapes here are from jtop's documents.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

from dynhat_runtime.monitor.jtop_link import FIELDS
from dynhat_runtime.monitor.jtop_process import values

NANO: dict[str, Any] = {
    "cpu": {
        "cpu": [
            {"online": True, "freq": {"min": 102000, "max": 918000, "cur": 102000}},
            {"online": True, "freq": {"min": 102000, "max": 918000, "cur": 204000}},
            {"online": False, "model": "ARMv8", "freq": {"min": 102000, "max": 1479000, "cur": 1479000}},
        ]
    },
    "gpu": {
        "gpu": {"freq": {"cur": 76800, "max": 640000}, "status": {"load": 35.0}, "power_control": "auto"}
    },
    "nvpmodel": SimpleNamespace(id=1, name="5W"),
    "power": {"tot": {"power": 4500}},
    "temperature": {"CPU": {"temp": 41.5, "online": True}, "GPU": {"temp": -256, "online": False}},
    "memory": {"RAM": {"tot": 4194304, "used": 1048576}},
}


def said(**changes: Any) -> dict[str, object]:
    """What we make of a Nano's tick with these changes."""
    return values(SimpleNamespace(**{**NANO, **changes}))


def test_a_nano_in_our_units() -> None:
    """kHz become Hz, percent a fraction, kB MiB; an offline core has no clock, an offline zone no heat."""
    assert said() == {
        "online_cpus": [0, 1],
        "cpu_current_frequency_hz": 204e6,
        "cpu_max_frequency_hz": 918e6,
        "gpu_current_frequency_hz": 76.8e6,
        "gpu_max_frequency_hz": 640e6,
        "gpu_load_fraction": 0.35,
        "power_mode": "5W",
        "power_mw": 4500.0,
        "temperature_celsius": 41.5,
        "memory_total_mib": 4096.0,
        "memory_available_mib": 3072.0,
    }


def test_a_thor_counts_in_mhz() -> None:
    """A GPU that is controlled by NVML has its clocks in MHz."""
    gpu = {"gpu": {"freq": {"cur": 315, "max": 1575}, "status": {"load": 5}, "power_control": "nvml"}}
    thor = said(gpu=gpu)
    assert (thor["gpu_current_frequency_hz"], thor["gpu_max_frequency_hz"]) == (315e6, 1575e6)


def test_what_a_board_lacks_is_none() -> None:
    """Missing keys, None and empty parts are None each, and nothing else is."""
    bare = said(cpu={"cpu": []}, gpu={}, nvpmodel=None, power={}, temperature={}, memory={})
    assert set(bare.values()) == {None}
    assert said(gpu={"gpu": {"freq": {}, "status": {}}})["power_mode"] == "5W"


def test_every_number_has_bounds() -> None:
    """The reader of these lines knows each field, so that none is refused as unknown."""
    assert set(said()) - {"online_cpus", "power_mode"} == set(FIELDS)


def test_without_jtops_service_it_says_why_and_ends() -> None:
    """The process says in one line what is wrong, whatever it is, and ends by itself."""
    command = [sys.executable, "-m", "dynhat_runtime.monitor.jtop_process"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    assert process.wait(30.0) == 1
    assert process.stdin is not None
    process.stdin.close()
    assert [list(json.loads(line)) for line in lines] == [["error"]]


def test_it_ends_when_nobody_listens() -> None:
    """Whoever started it may die without a word: a closed stdin is enough."""
    hanging = "import sys; sys.modules['jtop'] = None; import dynhat_runtime.monitor.jtop_process as it; "
    hanging += "it._follow = lambda: __import__('time').sleep(600); it.main()"
    process = subprocess.Popen([sys.executable, "-c", hanging], stdin=subprocess.PIPE)
    time.sleep(0.2)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(30.0) == 0
