"""A daemon under mixed traffic, disturbances and reloads for a long time: does it leak, and is everybody answered?

Writes a dated report and, when asked, JSON. The daemon is the real one, as a process of its own.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
if not __package__:
    sys.path[0] = str(ROOT)  # run as a script: the folder above is where both packages are

from benchmarks.children import Child, child  # noqa: E402  # needs the path
from benchmarks.entry import command_of, exit_status  # noqa: E402
from benchmarks.figures import BenchmarkError  # noqa: E402
from benchmarks.report import Environment, as_json, environment_lines, section  # noqa: E402
from benchmarks.soak_disturbances import LONGEST_S, SHORTEST_S, Disturber  # noqa: E402
from benchmarks.soak_figures import Size, Soaked, result_of  # noqa: E402
from benchmarks.soak_traffic import Client, Seen  # noqa: E402
from dynhat_runtime.model.checkpoint import Bundle, shipped_bundle_path  # noqa: E402

NUM_CLIENTS = 4
SAMPLE_S = 1.0
WARM_UP_SHARE = 0.2
"""Of the time: allocators, pools and rings fill."""
REST_S = 3.0
"""Without traffic before the daemon is looked at: what it had begun has ended."""
SETTLE_S = 20.0
"""What threads and descriptors get at the last rest to be as few as at the first: pools let idle threads go."""
PATIENCE_S = 60.0
HOW = (
    f"The real daemon as a process; {NUM_CLIENTS} clients, each on a connection of its own, ask one thing after the "
    f"other, with up to 50 ms between two. Every {SHORTEST_S:g} to {LONGEST_S:g} s something is done to the daemon. "
    f"Memory is what belongs to the process alone (USS), looked at after {REST_S:g} s without traffic: once after a "
    f"warm-up of {WARM_UP_SHARE:.0%} of the time, once in the end."
)
BYTES_PER_MIB = 2**20


class Soak:
    """One daemon, its clients and whoever disturbs it, from the warm-up to the end."""

    def __init__(
        self, daemon: Child, address: str, config: Path, point_ids: Sequence[str], seed: int
    ) -> None:
        """Set up; nobody asks anything yet.

        Args:
            daemon: Ready.
            address: Where it listens.
            config: Its settings file.
            point_ids: What it serves.
            seed: Of everything drawn by chance.
        """
        self._process = psutil.Process(daemon.popen.pid)
        self._address, self._config, self._point_ids, self._seed = address, config, point_ids, seed
        self._going = threading.Event()
        self._clients = [
            Client(address, point_ids, seed * 100 + number, self._going) for number in range(NUM_CLIENTS)
        ]
        self.num_disturbances: Counter[str] = Counter()
        self.failures: list[str] = []

    def load(self, duration_s: float) -> list[Size]:
        """Traffic and disturbances for so long, then rest; sizes meanwhile."""
        self._seed += 1
        disturber = Disturber(self._process.pid, self._address, self._config, self._point_ids, self._seed)
        self._going.set()
        sizes, ends_s = [], time.monotonic() + duration_s
        while time.monotonic() < ends_s:
            time.sleep(SAMPLE_S)
            sizes.append(self.size())
        disturber.stop()
        self._going.clear()
        for client in self._clients:
            client.wait_idle()
        time.sleep(REST_S)
        self.num_disturbances += disturber.num_done
        self.failures += disturber.failures
        return sizes

    def size(self) -> Size:
        """The daemon's, now."""
        process = self._process
        return Size(process.memory_full_info().uss / BYTES_PER_MIB, process.num_fds(), process.num_threads())

    def settled(self, num_fds: int, num_threads: int) -> Size:
        """Its size at rest, once it has no more descriptors and threads than these, or has had its time."""
        gives_up_s = time.monotonic() + SETTLE_S
        while True:
            size = self.size()
            is_settled = size.num_fds <= num_fds and size.num_threads <= num_threads
            if is_settled or time.monotonic() > gives_up_s:
                return size
            time.sleep(SAMPLE_S)

    def stop(self) -> Seen:
        """End the clients; what they met with."""
        seen = Seen()
        for client in self._clients:
            client.stop()
            seen.add(client.seen)
        return seen


def soak(bundle: Path, minutes: float, seed: int) -> Soaked:
    """Run it.

    Raises:
        BenchmarkError: The daemon did not come up.
        DynhatError: The bundle cannot be used.
    """
    ids = [point.id for point in Bundle.open(bundle).table()]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "dynhat.toml"
        config.write_text("", encoding="utf-8")
        arguments = ["-m", "dynhat_runtime", "serve", "--port", "0", "--bundle", str(bundle)]
        with child([*arguments, "--config", str(config)]) as daemon:
            while not (found := re.search(r"ready: http://(\S+) operating", daemon.log_text())):
                daemon.pause("readiness")
            run = Soak(daemon, found[1], config, ids, seed)
            try:
                warm_up = run.load(minutes * 60 * WARM_UP_SHARE)
                before, most_threads = run.size(), max(size.num_threads for size in warm_up)
                loaded = run.load(minutes * 60 * (1 - WARM_UP_SHARE))
                after = run.settled(before.num_fds, most_threads)
            finally:
                seen = run.stop()
            daemon.popen.terminate()
            status = daemon.popen.wait(PATIENCE_S)
            num_tracebacks = daemon.log_text().count("Traceback")
    return Soaked(
        minutes=minutes,
        seen=seen,
        disturbances=run.num_disturbances,
        failures=run.failures,
        loaded=loaded,
        before=before,
        most_threads=most_threads,
        after=after,
        exit_status=status,
        num_tracebacks=num_tracebacks,
    )


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
        epilog=(
            "exit status: 0 measured and every check holds; 1 a check does not hold, or it could not be measured;\n"
            "2 the command line or the bundle is wrong\n\n"
            "examples:\n"
            "  python -m benchmarks.soak --minutes 30\n"
            "  python -m benchmarks.soak --minutes 2 --json soak.json"
        ),
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="how long (30)")
    parser.add_argument("--seed", type=int, default=1, help="of everything drawn by chance (1)")
    parser.add_argument("--bundle", type=Path, help="bundle folder, without it the shipped one")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs/benchmarks", help="folder of the report (docs/benchmarks)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, too")
    asked = parser.parse_args(arguments)
    if not 0.1 <= asked.minutes <= 10_000:
        parser.error(f"--minutes {asked.minutes:g}: give minutes from 0.1 to 10000")
    return asked


def main(arguments: Sequence[str]) -> int:
    """Soak and report; the exit status."""
    asked = parse(arguments)
    return exit_status(lambda: run(asked, command_of("soak", arguments)), _tell)


def run(asked: argparse.Namespace, command: str) -> int:
    """Soak, and write the report; the exit status.

    Raises:
        DynhatError: The bundle cannot be used.
        BenchmarkError: It could not be measured, or the report cannot be written.
    """
    bundle = Bundle.open((asked.bundle or shipped_bundle_path()).resolve())
    environment = Environment.read(bundle.manifest.name, bundle.weights_sha256)
    _tell(f"{asked.minutes:g} minutes")
    result = result_of(soak(bundle.path, asked.minutes, asked.seed), HOW)
    report = "\n\n".join(
        [
            f"# Soak, {environment.measured_at[:10]}",
            "\n".join(environment_lines(environment)),
            f"Reproduce with:\n\n    {command}",
            section(result),
        ]
    )
    file = asked.out / f"{environment.measured_at[:10]}-soak.md"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(report + "\n", encoding="utf-8")
        if asked.json is not None:
            asked.json.write_text(
                json.dumps(as_json(environment, command, [result]), indent=1), encoding="utf-8"
            )
    except OSError as error:
        raise BenchmarkError(
            f"{error.filename}: cannot be written ({error.strerror}): choose another"
        ) from error
    print(report)
    _tell(f"wrote {file}")
    return 0 if all(check.holds for check in result.checks) else 1


def _tell(line: str) -> None:
    print(f"soak: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
