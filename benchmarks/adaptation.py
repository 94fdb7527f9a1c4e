"""Figure 1 for real: the running daemon, while CPUs, CPU time and quiet are taken away and given back.

One client sends sentences of about 30 words, one after the other, without a budget of their own. Four arms: the
largest point, the smallest, the governor's choice, and an oracle. Writes a dated report with a plot.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if not __package__:
    sys.path[0] = str(ROOT)  # run as a script: the folder above is where both packages are

from benchmarks import adaptation_measure as measure  # noqa: E402  # needs the path
from benchmarks.adaptation_device import check_stress, why_no_quota  # noqa: E402
from benchmarks.adaptation_figures import Request  # noqa: E402
from benchmarks.adaptation_measure import LARGEST, OURS, SMALLEST, Calibration, Plan  # noqa: E402
from benchmarks.adaptation_outcome import DrawnOutcome, Outcome  # noqa: E402
from benchmarks.adaptation_phases import Resources, course, distinct, drawn_course  # noqa: E402
from benchmarks.adaptation_plot import draw  # noqa: E402
from benchmarks.entry import command_of, exit_status  # noqa: E402
from benchmarks.figures import BenchmarkError  # noqa: E402
from benchmarks.sentences import sentences_of_30_words  # noqa: E402
from dynhat_runtime.operating_point import OperatingPointTable  # noqa: E402

PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    phase_s: float
    num_rounds: int
    warm_up_s: float
    sweep_requests: int
    sweep_every: int
    """1 sweeps over all points, 4 over every fourth."""
    num_sentences: int


FULL = Size(phase_s=13.0, num_rounds=2, warm_up_s=3.0, sweep_requests=10, sweep_every=1, num_sentences=40)
QUICK = Size(phase_s=2.5, num_rounds=1, warm_up_s=1.0, sweep_requests=2, sweep_every=4, num_sentences=12)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.adaptation",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
        epilog=(
            "Needs stress-ng, and for the quota the right to make a cgroup (v1 cpu controller); without that the\n"
            "phase is left out and the report says so. About 12 minutes; let the device do nothing else meanwhile.\n\n"
            "exit status: 0 measured, even where an aim was missed; 1 it could not be measured; 2 the command line\n"
            "or the bundle is wrong\n\n"
            "examples:\n"
            "  python -m benchmarks.adaptation --quick\n"
            "  python -m benchmarks.adaptation --json figures.json\n"
            "  python -m benchmarks.adaptation --random-minutes 10 --seed 1"
        ),
    )
    parser.add_argument(
        "--quick", action="store_true", help="short phases, one round: to try it out, not to quote"
    )
    parser.add_argument(
        "--random-minutes",
        type=float,
        metavar="M",
        help="instead: disturbances drawn by chance for M minutes",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the disturbances drawn by chance (1)")
    parser.add_argument("--bundle", type=Path, help="bundle folder, without it the shipped one")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs/benchmarks", help="folder of the report (docs/benchmarks)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every request and switch, too")
    asked = parser.parse_args(arguments)
    if asked.random_minutes is not None and not 0 < asked.random_minutes <= 600:
        parser.error(f"--random-minutes {asked.random_minutes:g}: give minutes above 0, at most 600")
    return asked


def main(arguments: Sequence[str]) -> int:
    """Measure and report; the exit status."""
    asked = parse(arguments)
    return exit_status(lambda: run(asked, command_of("adaptation", arguments)), _tell)


def run(asked: argparse.Namespace, command: str) -> int:
    """Measure, and write the report; the exit status.

    Raises:
        DynhatError: The bundle cannot be used.
        BenchmarkError: It could not be measured, or the report cannot be written.
    """
    check_stress()
    # Imported here: torch takes seconds, and help should not.
    from benchmarks.adaptation_report import as_drawn_json, as_drawn_markdown, as_json, as_markdown
    from benchmarks.report import Environment
    from dynhat_runtime.decoding.tokenizer import tokenizer_of
    from dynhat_runtime.model.checkpoint import Bundle, shipped_bundle_path

    bundle = Bundle.open((asked.bundle or shipped_bundle_path()).resolve())
    table = bundle.table()
    tokenizer = tokenizer_of(bundle)
    environment = Environment.read(bundle.manifest.name, bundle.weights_sha256)
    size, no_quota = (QUICK if asked.quick else FULL), why_no_quota()
    notes = [] if no_quota is None else [f"Left out, phases with a quota: {no_quota}."]
    if asked.quick:
        notes.append("This was a quick run to try it out: its figures are not to be quoted.")
    for note in notes:
        _tell(note)
    plan = Plan(
        bundle=bundle.path,
        sentences=sentences_of_30_words()[: size.num_sentences],
        pause_s=PAUSE_S,
        warm_up_s=size.warm_up_s,
        sweep_requests=size.sweep_requests,
        with_quota=no_quota is None,
        tell=_tell,
    )
    calibration = measure.calibrate(plan, table.best.id, lambda text: len(tokenizer.encode(text)) + 1)
    promise = calibration.promise
    _tell(f"budget {promise.latency_budget_ms:g} ms for {promise.reference_tokens} tokens")
    by_quality = sorted(table.quality_by_id(), key=table.quality_by_id().__getitem__)
    stem = f"{environment.measured_at[:10]}-adaptation"
    if asked.random_minutes is not None:
        stem += "-random"
        drawn = measure_drawn(plan, table, calibration, asked.seed, asked.random_minutes * 60)
        report = as_drawn_markdown(drawn, environment, command, f"{stem}.png", notes)
        raw: dict[str, Any] = as_drawn_json(drawn, environment, command)
        shown, largest, title = drawn.found, None, f"Disturbances drawn by chance, seed {asked.seed}"
    else:
        outcome = measure_course(plan, table, calibration, size)
        report = as_markdown(outcome, environment, command, f"{stem}.png", notes)
        raw = as_json(outcome, environment, command)
        shown, largest = (next(one for one in outcome.passes if one.arm == arm) for arm in (OURS, LARGEST))
        title = "Latency held while resources come and go"
    try:
        draw(asked.out / f"{stem}.png", shown, largest, promise.latency_budget_ms, by_quality, title)
        (asked.out / f"{stem}.md").write_text(report, encoding="utf-8")
        if asked.json is not None:
            asked.json.write_text(json.dumps(raw, indent=1), encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(
            f"{error.filename}: cannot be written ({error.strerror}): choose another"
        ) from error
    print(report)
    _tell(f"wrote {asked.out / stem}.md")
    return 0


def measure_course(plan: Plan, table: OperatingPointTable, calibration: Calibration, size: Size) -> Outcome:
    """Every arm through the fixed course, and the sweep for the oracle, in rounds of alternating order.

    Raises:
        BenchmarkError: It could not be measured.
    """
    quality = table.quality_by_id()
    phases = course(size.phase_s, lambda resources: _is_possible(resources, plan))
    smallest_id = table.points[0].id
    pinned = {OURS: None, LARGEST: table.best.id, SMALLEST: smallest_id}
    swept_ids = sorted(quality, key=quality.__getitem__, reverse=True)[:: size.sweep_every]
    passes, swept = [], dict[Resources, dict[str, list[Request]]]()
    for number in range(size.num_rounds):
        order = [*pinned, None] if number % 2 == 0 else [None, *reversed(pinned)]
        for arm in order:
            _tell(f"round {number + 1} of {size.num_rounds}: {arm or 'sweep over all points'}")
            if arm is not None:
                passes.append(measure.run_course(plan, arm, pinned[arm], calibration.promise, phases))
                continue
            found = measure.sweep(plan, calibration.promise, swept_ids, distinct(phases))
            for resources, of_points in found.items():
                for point_id, requests in of_points.items():
                    swept.setdefault(resources, {}).setdefault(point_id, []).extend(requests)
    return Outcome(calibration, phases, passes, swept, _bleu(table), quality)


def measure_drawn(
    plan: Plan, table: OperatingPointTable, calibration: Calibration, seed: int, duration_s: float
) -> DrawnOutcome:
    """The governor's choice under disturbances drawn by chance.

    Raises:
        BenchmarkError: It could not be measured.
    """
    phases = drawn_course(seed, duration_s, lambda resources: _is_possible(resources, plan))
    found = measure.run_course(plan, OURS, None, calibration.promise, phases)
    return DrawnOutcome(calibration, seed, found, _bleu(table))


def _is_possible(resources: Resources, plan: Plan) -> bool:
    return plan.with_quota or resources.quota_cpus is None


def _bleu(table: OperatingPointTable) -> dict[str, float]:
    """BLEU of every point.

    Raises:
        BenchmarkError: The table does not state it of one.
    """
    bleu = {point.id: point.bleu for point in table if point.bleu is not None}
    missing = [point.id for point in table if point.id not in bleu]
    if missing:
        raise BenchmarkError(
            f"the table states no BLEU of {', '.join(missing)}: add it with 'dynhat profile --points --test FILE'"
        )
    return bleu


def _tell(line: str) -> None:
    print(f"adaptation: {time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
