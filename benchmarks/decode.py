"""`python -m benchmarks.decode`: how fast we decode, beside CTranslate2 on the same weights and the machine's limit.

Sections: latency of single sentences (rows with ratio and floor), the same as served, throughput, contention,
switching, memory, start-up.
Writes a dated report. Needs ctranslate2 (extra `[bench]`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.entry import INTERRUPTED, command_of, exit_status, write_report
from benchmarks.figures import BenchmarkError, Check, Result, Task
from benchmarks.run import ROOT

if TYPE_CHECKING:
    from benchmarks.decode_floor import Roof
    from benchmarks.decode_latency import Case, Row
    from benchmarks.decode_shapes import Shapes
    from benchmarks.report import Environment
    from dynhat_runtime.model.checkpoint import Bundle

LATENCY = "latency"
SECTIONS = {
    LATENCY: "single sentences, both engines in turns, with ratio, floor and eager baseline",
    "served": "single sentences as the daemon decodes them against CTranslate2 with its vocabulary map",
    "throughput": "8 clients against CTranslate2's translate_batch",
    "contention": "both engines beside a busy neighbour on every CPU",
    "switching": "a switch of the operating point under load",
    "memory": "all operating points together against the largest alone",
    "startup": "process start to the first translation against importing torch and reading the weights",
}
LENGTHS, BEAMS = (10, 30, 60), (1, 4)
QUICK_LENGTHS = (30,)
QUICK_S = 34.0
"""From its begin until --quick begins no further row: it has to end within 50 s."""
REPORT = "decode"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    names = "\n".join(f"  {name:11}{what}" for name, what in SECTIONS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decode",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"{__doc__}\nsections:\n{names}",
        epilog=(
            "Everything takes about an hour on two CPUs; let the device do nothing else meanwhile. Ctrl-C ends with a\n"
            "report of what is finished. With --rows FILE the same command goes on where it was stopped.\n\n"
            "exit status: 0 measured, even where an aim was missed; 1 it could not be measured, or a check does not\n"
            "hold; 2 the command line or the bundle is wrong; 130 interrupted\n\n"
            "examples:\n"
            "  python -m benchmarks.decode --quick --json\n"
            "  python -m benchmarks.decode latency --shapes l6,paper-512-2048-3 --tokens 30 --threads 1\n"
            "  python -m benchmarks.decode --rows rows.jsonl"
        ),
    )
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help="what to measure (all; with --quick latency)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="few rows, few rounds, 50 s: to try it out, not to quote"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the report")
    parser.add_argument("--bundle", type=Path, help="bundle folder, without it the shipped one")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of the report (docs/benchmarks; with --quick there is none without it)",
    )
    parser.add_argument(
        "--rows", type=Path, metavar="FILE", help="keep finished rows here, and go on from them"
    )
    parser.add_argument(
        "--shapes", type=_names, help="points and paper's shapes to decode with, comma-separated (all)"
    )
    parser.add_argument("--tokens", type=_numbers, help="sentence lengths (10,30,60; with --quick 30)")
    parser.add_argument("--beams", type=_numbers, default=BEAMS, help="beam sizes (1,4)")
    parser.add_argument("--threads", type=_numbers, help="threads (1,2 as far as there are CPUs)")
    parser.add_argument("--precisions", type=_names, help="fp32, int8 (both)")
    parser.add_argument("--rounds", type=int, help="turns of each engine per row (9; with --quick 3)")
    asked = parser.parse_args(arguments)
    for name in asked.sections:
        if name not in SECTIONS:
            parser.error(f"no section {name!r}: choose among {', '.join(SECTIONS)}")
    if asked.rounds is not None and asked.rounds < 1:
        parser.error(f"--rounds {asked.rounds}: give 1 or more")
    asked.sections = [name for name in SECTIONS if name in asked.sections] or (
        [LATENCY] if asked.quick else list(SECTIONS)
    )
    return asked


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(word) for word in text.split(","))
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: give numbers above 0")
    return numbers


def main(arguments: Sequence[str]) -> int:
    """Measure and report; the exit status."""
    asked = parse(arguments)
    return exit_status(
        lambda: run(asked, command_of("decode", arguments)),
        _tell,
        stopped="stopped before anything was finished",
        on_sigterm=_interrupt,
    )


@dataclass(slots=True)
class _Finished:
    """What is finished so far; survives an interruption."""

    rows: list[Row] = field(default_factory=list)
    not_measured: list[Case] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)


def run(asked: argparse.Namespace, command: str) -> int:
    """Measure and report; the exit status.

    Raises:
        DynhatError: The bundle cannot be used.
        BenchmarkError: It could not be measured, or the report cannot be written.
    """
    until_s = time.monotonic() + QUICK_S if asked.quick else math.inf
    # Imported here: torch takes seconds, and help should not.
    from benchmarks.decode_engines import check_ctranslate2
    from benchmarks.decode_floor import Roof
    from benchmarks.decode_report import Found, found_as_json, found_as_markdown
    from benchmarks.decode_shapes import PAPER_POINTS, Shapes
    from benchmarks.report import Environment
    from dynhat_runtime.model.checkpoint import Bundle, shipped_bundle_path

    version = check_ctranslate2()
    bundle = Bundle.open((asked.bundle or shipped_bundle_path()).resolve())
    shapes = Shapes(bundle)
    environment = Environment.read(bundle.manifest.name, bundle.weights_sha256)
    roof = Roof(measuring_s=0.1 if asked.quick else 0.3)
    finished = _Finished()
    is_interrupted = False
    try:
        for name in asked.sections:
            if name == LATENCY:
                _measure_latency(asked, shapes, roof, environment, version, finished, until_s)
            else:
                finished.results.append(_measured_or_not(name, bundle, asked.quick))
    except KeyboardInterrupt:
        is_interrupted = True
        if not finished.rows and not finished.results:
            raise
        _tell("stopped: reporting what is finished")
    found = Found(
        environment, version, command, finished.rows, finished.not_measured, shapes.not_compared, roof,
        finished.results, [point.id for point in PAPER_POINTS],
    )  # fmt: skip
    report = found_as_markdown(found)
    _write(asked, environment, report)
    print(json.dumps(found_as_json(found), indent=None if asked.quick else 1) if asked.json else report)
    if is_interrupted:
        return INTERRUPTED
    return 0 if all(check.holds for result in finished.results for check in result.checks) else 1


def _write(asked: argparse.Namespace, environment: Environment, report: str) -> None:
    """The dated report; a quick run has one only where it was told to put it."""
    if asked.quick and asked.out is None:
        return
    file = (asked.out or ROOT / "docs/benchmarks") / f"{environment.measured_at[:10]}-{REPORT}.md"
    write_report(file, report, _tell)


def _measure_latency(
    asked: argparse.Namespace,
    shapes: Shapes,
    roof: Roof,
    environment: Environment,
    ctranslate2_version: str,
    finished: _Finished,
    until_s: float,
) -> None:
    """Fill `finished` with rows as they come; begin none after `until_s` on the monotonic clock."""
    from benchmarks.decode_engines import Engines
    from benchmarks.decode_latency import Effort, RowFile, measure_rows

    cases = cases_of(asked, shapes)
    effort = (
        Effort(asked.rounds or 3, row_s=0.6, num_eager_rounds=0, fewest_rounds=1)
        if asked.quick
        else Effort(asked.rounds or 9, row_s=12.0, num_eager_rounds=3)
    )
    kept = RowFile(
        asked.rows,
        {
            "device": environment.device,
            "commit": environment.git_commit,
            "weights_sha256": environment.weights_sha256,
            "torch_version": environment.torch_version,
            "ctranslate2_version": ctranslate2_version,
            "is_quick": asked.quick,
        },
    )
    missing = [case for case in cases if kept.row_of(case) is None]
    try:
        with tempfile.TemporaryDirectory(prefix="dynhat-decode-") as folder:
            rows = measure_rows(
                missing,
                lambda name: Engines(shapes[name], Path(folder)),
                roof,
                effort,
                lambda: time.monotonic() > until_s,
            )
            for number, row in enumerate(rows, start=1):
                kept.add(row)
                _tell(f"{number} of {len(missing)}: {_line(row)}")
    finally:
        found = [(case, kept.row_of(case)) for case in cases]
        finished.rows = [row for _, row in found if row is not None]
        finished.not_measured = [case for case, row in found if row is None]


def cases_of(asked: argparse.Namespace, shapes: Shapes) -> list[Case]:
    """The rows asked for; --quick without more has the bundle's largest point and the paper's smallest.

    Raises:
        BenchmarkError: A shape or precision does not exist.
    """
    from benchmarks.decode_engines import PRECISIONS
    from benchmarks.decode_latency import all_cases

    num_shipped = len(shapes.shipped_names)
    usual = [shapes.shipped_names[-1], shapes.names[num_shipped]] if asked.quick else shapes.names
    for name in asked.shapes or ():
        if name not in shapes.names:
            shapes[name]  # says why not
    unknown = set(asked.precisions or ()) - set(PRECISIONS)
    if unknown:
        raise BenchmarkError(f"no precision {min(unknown)!r}: choose among {', '.join(PRECISIONS)}")
    num_cpus = len(os.sched_getaffinity(0))
    return all_cases(
        asked.shapes or usual,
        asked.tokens or (QUICK_LENGTHS if asked.quick else LENGTHS),
        asked.beams,
        asked.threads or tuple(range(1, min(2, num_cpus) + 1)),
        [one for one in PRECISIONS if asked.precisions is None or one in asked.precisions],
    )


def _measured_or_not(name: str, bundle: Bundle, is_quick: bool) -> Result:
    """A section, or what kept it from being measured: that must not cost the others their report."""
    try:
        return _measure_section(name, bundle, is_quick)
    except BenchmarkError as error:
        _tell(f"{name}: error: {error}")
        return Result(
            name=name,
            title=f"Not measured: {name}",
            how=SECTIONS[name],
            figures=(),
            checks=(Check(f"it could be measured: {error}", holds=False),),
        )


def _measure_section(name: str, bundle: Bundle, is_quick: bool) -> Result:
    """One of the other sections."""
    from benchmarks import decode_load, decode_served

    measures: dict[str, Callable[[Task], Result]] = {
        "served": decode_served.measure,
        "throughput": decode_load.measure_throughput,
        "contention": decode_load.measure_contention,
    }
    measure = measures.get(name) or importlib.import_module(f"benchmarks.{name}").measure
    _tell(f"{name}: {SECTIONS[name]}")
    result: Result = measure(Task(bundle.path, is_quick, lambda line: _tell(f"{name}: {line}")))
    return result


def _line(row: Row) -> str:
    """One row in words."""
    ours = "ours –" if row.ours_ms is None else f"ours {row.ours_ms:.1f} ms"
    ratio = "" if row.ratio_to_ctranslate2 is None else f", ratio {row.ratio_to_ctranslate2:.2f}"
    return (
        f"{row.shape}, {row.num_tokens} tokens, beam {row.beam}, {row.threads} threads, {row.precision}: {ours}, "
        f"CTranslate2 {row.ctranslate2_ms:.1f} ms{ratio}, floor {row.floor_ms:.1f} ms"
    )


def _tell(line: str) -> None:
    print(f"decode: {time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def _interrupt(signal_number: int, frame: object) -> None:
    """End on SIGTERM as on Ctrl-C: with a report of what is finished."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
