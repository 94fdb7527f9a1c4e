"""`./run.sh bench`: run the benchmarks, say how far they are, and write one dated report."""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if not __package__:
    sys.path[0] = str(ROOT)  # run as a script: the folder above is where both packages are

from benchmarks.entry import by_names, exit_status, write_report  # noqa: E402  # needs the path
from benchmarks.figures import Result, Task  # noqa: E402  # needs the path

BENCHMARKS = {
    "switching": "time of a switch of the operating point while 4 clients keep the engine busy",
    "memory": "memory of all operating points together against the largest alone",
    "startup": "time from process start to the first translation, of the command and of the daemon",
}


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    names = "\n".join(f"  {name:11}{what}" for name, what in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="./run.sh bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"Measure the run time on this device and write a dated report.\n\nbenchmarks:\n{names}",
        epilog=(
            "The report holds what this run measured and replaces an earlier one of the same day (UTC). For figures\n"
            "to quote let the device do nothing else meanwhile, and fix its power mode.\n\n"
            "exit status: 0 measured, even where an aim was missed; 1 a check did not hold, or a benchmark could\n"
            "not come to its figures; 2 the command line or the bundle is wrong\n\n"
            "examples:\n"
            "  ./run.sh bench --quick\n"
            "  ./run.sh bench switching memory --out /tmp/reports\n"
            "  ./run.sh bench startup --json | python3 -m json.tool"
        ),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="benchmarks to run (all)")
    parser.add_argument("--quick", action="store_true", help="fewer runs: to try it out, not to quote")
    parser.add_argument("--bundle", type=Path, help="bundle folder, without it the shipped one")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs/benchmarks", help="folder of the report (docs/benchmarks)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the report")
    asked = parser.parse_args(arguments)
    for name in asked.names:
        if name not in BENCHMARKS:
            parser.error(f"no benchmark {name!r}: choose among {', '.join(BENCHMARKS)}")
    asked.names = [name for name in BENCHMARKS if name in asked.names] or list(BENCHMARKS)
    return asked


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; the exit status."""
    asked = parse(arguments)
    return exit_status(lambda: run(asked, shlex.join(["./run.sh", "bench", *by_names(arguments)])), _tell)


def run(asked: argparse.Namespace, command: str) -> int:
    """Measure and report; the exit status.

    Raises:
        DynhatError: The bundle cannot be used.
        BenchmarkError: A benchmark could not come to its figures, or the report cannot be written.
    """
    # Imported here: torch takes seconds, and help should not.
    from benchmarks.report import Environment, as_json, as_markdown
    from dynhat_runtime.model.checkpoint import Bundle, shipped_bundle_path

    bundle = Bundle.open((asked.bundle or shipped_bundle_path()).resolve())
    bundle.table()
    environment = Environment.read(bundle.manifest.name, bundle.weights_sha256)
    results = [_run_one(name, bundle.path, asked.quick) for name in asked.names]
    report = as_markdown(environment, command, results)
    file = asked.out / f"{environment.measured_at[:10]}-runtime.md"
    write_report(file, report, _tell)
    print(json.dumps(as_json(environment, command, results), indent=1) if asked.json else report)
    return 0 if all(check.holds for result in results for check in result.checks) else 1


def _run_one(name: str, bundle: Path, is_quick: bool) -> Result:
    """One benchmark, with a line as it begins, on its way, and as it ends."""
    _tell(f"{name}: {BENCHMARKS[name]}")
    began_s = time.monotonic()
    measure: Callable[[Task], Result] = importlib.import_module(f"benchmarks.{name}").measure
    result = measure(Task(bundle, is_quick, lambda line: _tell(f"{name}: {line}")))
    _tell(f"{name}: done in {time.monotonic() - began_s:.0f} s")
    return result


def _tell(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
