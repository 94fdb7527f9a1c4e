"""Work that is killed with SIGKILL at random moments and begun again until it ends: `killed_at_random.py KIND JSON`.

KIND is train, search or profile. Each attempt is a fork of this process, which has everything imported and computes
nothing itself. Prints how often it was killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from dynhat_runtime.offline.train import train
from tests.search_runner import run_search
from tests.test_profile_dataset import Device, steady
from tests.toy_training import toy_recipe

PAUSE_S = 0.01
"""Between two measurements that would take no time: so that there is a time to be killed in."""
SETTLED = 60
"""After so many attempts something does not get on."""


def _train(settings: dict[str, Any]) -> None:
    train(toy_recipe(), Path(settings["data_dir"]), Path(settings["run_dir"]), device_name="cpu")


def _search(settings: dict[str, Any]) -> None:
    run_search(Path(settings["bundle"]), Path(settings["dev"]), Path(settings["run_dir"]))


def _profile(settings: dict[str, Any]) -> None:
    device = Device()

    def slowly(config: Any) -> Any:
        time.sleep(PAUSE_S)
        return steady(config)

    device.measure = slowly  # type: ignore[method-assign]
    device.fill(Path(settings["run_dir"]) / "dataset.csv")


WORK: dict[str, Callable[[dict[str, Any]], None]] = {"train": _train, "search": _search, "profile": _profile}


def attempt(work: Callable[[], None], at_most_s: float) -> bool:
    """Whether the work came to its end within that time; it is killed otherwise."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            work()
            status = 0
        finally:
            os._exit(status)
    deadline_s = time.monotonic() + at_most_s
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert os.waitstatus_to_exitcode(status) == 0, "it ended with an error of its own"
            return True
        if time.monotonic() >= deadline_s:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.001)


def main(kind: str, settings: dict[str, Any]) -> int:
    """How many attempts were killed."""
    chance = random.Random(settings["seed"])
    torch.set_num_threads(1)
    num_kills = 0
    while not attempt(
        lambda: WORK[kind](settings),
        chance.uniform(0.0, settings["longest_s"]) if num_kills < settings["num_kills"] else 120.0,
    ):
        num_kills += 1
        assert num_kills < SETTLED
    return num_kills


if __name__ == "__main__":
    print(main(sys.argv[1], json.loads(sys.argv[2])))
