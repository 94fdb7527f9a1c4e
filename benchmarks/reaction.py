"""`python -m benchmarks.reaction`: from a change of a board's resources to the daemon's new operating point.

The real daemon, the real jtop service, a simulated Jetson (`tests/simulated_jetson.py`); so as root. Prints one
JSON object: seconds from the change to the first answer of `GET /v1/operating-point` that has another point.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from dynhat_runtime.monitor.identity import device_name
from tests.board_daemon import BoardDaemon
from tests.simulated_jetson import NUM_CPUS, SimulatedJetson, board_with_service, has_jtop, why_not

AIMS_S = {"files": 0.7, "jtop": 2.0}
LONGEST_PAUSE_S = 1.5
"""Changes come at random moments of jtop's tick and of the control loop's."""
LONGEST_WAIT_S = 90.0
"""For the best point to be back: there are six steps up in a minute at most."""
SEED = 1


def react(
    daemon: BoardDaemon, board: SimulatedJetson, change: Callable[[], None], repeats: int, draw: random.Random
) -> dict[str, Any]:
    """Reaction to one kind of change away from MAXN, in seconds."""
    times_s: list[float] = []
    best = daemon.points()[-1]
    for _ in range(repeats):
        board.mode(0)
        daemon.wait_for(lambda status: status["active"] == best, "the best point", LONGEST_WAIT_S)
        time.sleep(draw.uniform(0.5, LONGEST_PAUSE_S))
        times_s.append(daemon.reaction_s(change, lambda status: status["active"] != best, "another point"))
    return {"median_s": round(median(times_s), 3), "max_s": round(max(times_s), 3), "num": repeats}


def measure(board: SimulatedJetson, repeats: int) -> dict[str, Any]:
    """All kinds of change, seen through files and through jtop."""
    draw = random.Random(SEED)

    def cores_off() -> None:
        for cpu in range(1, NUM_CPUS):
            board.core(cpu, is_online=False)

    found: dict[str, Any] = {}
    on_files = BoardDaemon(board, "board", "auto")
    try:
        found["files, power mode MAXN to 5W"] = react(on_files, board, lambda: board.mode(2), repeats, draw)
        found["files, all cores but one offline"] = react(on_files, board, cores_off, repeats, draw)
    finally:
        on_files.stop()
    on_jtop = BoardDaemon(board, "outside", "jetson")
    try:
        found["jtop, power mode MAXN to 5W"] = react(on_jtop, board, lambda: board.mode(2), repeats, draw)
    finally:
        on_jtop.stop()
    return found


def main(arguments: Sequence[str]) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=10, help="changes of each kind (10)")
    asked = parser.parse_args(arguments)
    reason = why_not() or (
        None if has_jtop() else "jetson-stats is not installed: install the extra [jetson]"
    )
    if reason is not None:
        print(f"reaction: error: needs a simulated board: {reason}", file=sys.stderr)
        return 1
    with (
        tempfile.TemporaryDirectory(prefix="dynhat-reaction-") as name,
        board_with_service(Path(name)) as board,
    ):
        found = {"device": device_name(), "aims_s": AIMS_S, "reaction": measure(board, asked.repeats)}
    print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
