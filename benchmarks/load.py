"""`python -m benchmarks.load`: many more clients than the daemon has room for, a stop in their midst, and nonsense.

The real daemon (`dynhat serve`) as a process. Sections: load (every answer 200, 429 or 503, memory, health answers
meanwhile), drain (SIGTERM under that load), fuzz (requests made up from the OpenAPI description). Writes a report.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if not __package__:
    sys.path[0] = str(ROOT)  # run as a script: the folder above is where both packages are

from benchmarks.entry import command_of, exit_status, write_report  # noqa: E402  # needs the path
from benchmarks.figures import Result  # noqa: E402
from benchmarks.load_measure import Effort  # noqa: E402

SECTIONS = {
    "load": "200 clients for 60 s against a queue of 64 requests",
    "drain": "SIGTERM while all of them ask",
    "fuzz": "10,000 requests made up from docs/openapi.json, no 5xx among the answers but documented 503 and 504",
}
FULL, QUICK = Effort(), Effort(num_clients=40, seconds=4.0, warm_up_s=1.0, drain_after_s=1.5)
NUM_CASES, NUM_CASES_QUICK = 10_000, 300
REPORT = "load"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    names = "\n".join(f"  {name:7}{what}" for name, what in SECTIONS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{__doc__}\nsections:\n{names}",
        epilog=(
            "About eight minutes on two CPUs; let the device do nothing else meanwhile. The fuzz section needs\n"
            "schemathesis (extra [dev]).\n\n"
            "exit status: 0 measured, even where an aim was missed; 1 a check does not hold, or it could not be\n"
            "measured; 2 the command line or the bundle is wrong; 130 interrupted\n\n"
            "examples:\n"
            "  python -m benchmarks.load --quick --json\n"
            "  python -m benchmarks.load load drain --clients 200 --seconds 60\n"
            "  python -m benchmarks.load load --pause-s 0.1     # clients that do not read Retry-After"
        ),
    )
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="what to measure (all)")
    parser.add_argument("--quick", action="store_true", help="half a minute: to try it out, not to quote")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the report")
    parser.add_argument("--bundle", type=Path, help="bundle folder, without it the shipped one")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the report (docs/benchmarks; with --quick there is none without it)",
    )
    parser.add_argument("--clients", type=_count, help="at once (200; with --quick 40)")
    parser.add_argument("--seconds", type=_seconds, help="how long they ask (60; with --quick 4)")
    parser.add_argument(
        "--pause-s",
        type=_seconds,
        help="wait of a refused client; without it what Retry-After says, a quarter more or less",
    )
    parser.add_argument("--cases", type=_count, help="requests made up (10000; with --quick 300)")
    asked = parser.parse_args(arguments)
    for name in asked.sections:
        if name not in SECTIONS:
            parser.error(f"no section {name!r}: choose among {', '.join(SECTIONS)}")
    asked.sections = [name for name in SECTIONS if name in asked.sections] or list(SECTIONS)
    return asked


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number above 0")
    return int(text)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: give seconds above 0, at most 3600")
    return seconds


def effort_of(asked: argparse.Namespace) -> Effort:
    """How much is asked of the daemon."""
    usual = QUICK if asked.quick else FULL
    seconds = asked.seconds or usual.seconds
    return Effort(
        num_clients=asked.clients or usual.num_clients,
        seconds=seconds,
        warm_up_s=min(usual.warm_up_s, seconds / 3),
        drain_after_s=usual.drain_after_s,
        pause_s=asked.pause_s,
        queue_limit_requests=usual.queue_limit_requests if not asked.quick else 16,
    )


def main(arguments: Sequence[str]) -> int:
    """Measure and report; the exit status."""
    asked = parse(arguments)
    return exit_status(lambda: run(asked, command_of("load", arguments)), _tell)


def run(asked: argparse.Namespace, command: str) -> int:
    """Measure and report; the exit status.

    Raises:
        DynhatError: The bundle cannot be used.
        BenchmarkError: It could not be measured, or the report cannot be written.
    """
    # Imported here: torch takes seconds, and help should not.
    from benchmarks.load_report import as_report
    from benchmarks.report import Environment, as_json
    from dynhat_runtime.model.checkpoint import Bundle, shipped_bundle_path

    bundle = Bundle.open((asked.bundle or shipped_bundle_path()).resolve())
    environment = Environment.read(bundle.manifest.name, bundle.weights_sha256)
    results = []
    for name in asked.sections:
        _tell(f"{name}: {SECTIONS[name]}")
        results.append(_sections(asked)[name](bundle.path))
    report = as_report(environment, command, results)
    if not asked.quick or asked.out is not None:
        folder = asked.out or ROOT / "docs/benchmarks"
        write_report(folder / f"{environment.measured_at[:10]}-{REPORT}.md", report, _tell)
    print(json.dumps(as_json(environment, command, results), indent=1) if asked.json else report)
    return 0 if all(check.holds for result in results for check in result.checks) else 1


def _sections(asked: argparse.Namespace) -> dict[str, Callable[[Path], Result]]:
    """What measures each section on a bundle."""
    from benchmarks import load_fuzz, load_report
    from benchmarks.load_measure import drain, load, serving

    effort = effort_of(asked)

    def measure_load(bundle: Path) -> Result:
        with serving(bundle, effort.queue_limit_requests) as (process, url):
            return load_report.of_load(effort, load(process, url, effort))

    def measure_drain(bundle: Path) -> Result:
        with serving(bundle, effort.queue_limit_requests) as (process, url):
            return load_report.of_drain(effort, drain(process, url, effort))

    def measure_fuzz(bundle: Path) -> Result:
        num_cases = asked.cases or (NUM_CASES_QUICK if asked.quick else NUM_CASES)
        with serving(bundle) as (_, url):
            return load_report.of_fuzz(load_fuzz.fuzz(url, num_cases))

    return {"load": measure_load, "drain": measure_drain, "fuzz": measure_fuzz}


def _tell(line: str) -> None:
    print(f"load: {time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
