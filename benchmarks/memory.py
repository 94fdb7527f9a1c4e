"""What all operating points together cost in memory, against the largest alone.

Run as a module it is the process that is measured: it loads, translates and prints what it holds.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Literal

from benchmarks.children import child
from benchmarks.figures import Aim, Check, Figure, Result, Summary, Task
from benchmarks.sentences import SENTENCES

NUM_RUNS, NUM_RUNS_QUICK = 7, 2
NUM_SENTENCES = 20
BYTES_PER_MIB = 2**20
Which = Literal["all", "largest"]


@dataclasses.dataclass(frozen=True, slots=True)
class Held:
    """What a process holds after it has translated."""

    num_points: int
    num_translations: int
    weight_bytes: int
    rss_bytes: int
    pss_bytes: int
    uss_bytes: int


def measure(task: Task) -> Result:
    """Fresh processes in turns, with all points and with the largest.

    Raises:
        BenchmarkError: A process did not come to its end.
    """
    num_runs = NUM_RUNS_QUICK if task.is_quick else NUM_RUNS
    held: dict[Which, list[Held]] = {"all": [], "largest": []}
    order: tuple[Which, Which] = ("all", "largest")
    for run in range(num_runs):
        task.tell(f"pair {run + 1} of {num_runs}")
        for which in order if run % 2 == 0 else order[::-1]:
            held[which].append(_measure_process(task.bundle, which))
    return _result(held["all"], held["largest"])


def _measure_process(bundle: Path, which: Which) -> Held:
    with child(["-m", "benchmarks.memory", which, str(bundle)]) as process:
        return Held(**json.loads(process.first_line()))


def _result(of_all: list[Held], of_largest: list[Held]) -> Result:
    """The figures of both kinds of process."""
    num_points = of_all[0].num_points
    sizes = {
        (kind, which): [getattr(one, f"{kind}_bytes") / BYTES_PER_MIB for one in held]
        for kind in ("pss", "uss")
        for which, held in (("all", of_all), ("largest", of_largest))
    }
    labels = {"all": f"all {num_points} points", "largest": "the largest alone"}
    figures = [
        Figure(f"{kind.upper()}, {labels[which]}", "MiB", Summary.of(samples))
        for (kind, which), samples in sizes.items()
    ]
    figures += [
        Figure(
            f"{kind.upper()}, all points / the largest",
            "x",
            Summary.ratio(sizes[kind, "all"], sizes[kind, "largest"]),
            (Aim("median", 1.05),),
        )
        for kind in ("pss", "uss")
    ]
    weights = [[float(one.weight_bytes) for one in held] for held in (of_all, of_largest)]
    figures.append(
        Figure(
            "bytes of distinct weight storages, all points / the largest",
            "x",
            Summary.ratio(*weights),
            (Aim("median", 1.0),),
        )
    )
    return Result(
        name="memory",
        title="Memory of all operating points",
        how=(
            f"{len(of_all)} fresh processes of each kind in turns. Each loads the bundle and translates the same "
            f"{NUM_SENTENCES} sentences one by one: with every point ({of_all[0].num_translations} translations), or "
            f"with the largest point alone ({of_largest[0].num_translations}). PSS and USS come from the kernel "
            f"(smaps); the weights behind all points are {of_all[0].weight_bytes / BYTES_PER_MIB:.1f} MiB."
        ),
        figures=tuple(figures),
        checks=(
            Check(
                "every process translated everything",
                all(one.num_translations == one.num_points * NUM_SENTENCES for one in of_all + of_largest),
            ),
        ),
        notes=(
            f"Median RSS: {Summary.of([one.rss_bytes for one in of_all]).median / BYTES_PER_MIB:.0f} MiB with all, "
            f"{Summary.of([one.rss_bytes for one in of_largest]).median / BYTES_PER_MIB:.0f} MiB with the largest.",
        ),
    )


# --- the process that is measured ---------------------------------------------------------------------------


def hold(bundle_path: Path, which: Which) -> Held:
    """Load, translate, and say what this process holds now."""
    # Imported here: the process that starts the others needs none of it.
    import psutil

    from dynhat_runtime.decoding.search import BeamOptions
    from dynhat_runtime.decoding.translator import Translator
    from dynhat_runtime.model.checkpoint import Bundle
    from dynhat_runtime.model.decodable_super import PointCutter

    bundle = Bundle.open(bundle_path)
    table = bundle.table()
    largest = max(table, key=lambda point: point.num_parameters)
    chosen = table.points if which == "all" else (largest,)
    cutter = PointCutter(bundle.weights, bundle.shortlist())
    subs = cutter.cut_out(chosen).values()
    translator = Translator.of_bundle(bundle)
    options = BeamOptions(beam_size=table.device.beam_size)
    num_translations = 0
    for sub in subs:
        for sentence in SENTENCES[:NUM_SENTENCES]:
            num_translations += len(translator.translate(sub, [sentence], options))
    memory = psutil.Process().memory_full_info()
    return Held(
        num_points=len(subs),
        num_translations=num_translations,
        weight_bytes=cutter.size_bytes,
        rss_bytes=memory.rss,
        pss_bytes=memory.pss,
        uss_bytes=memory.uss,
    )


if __name__ == "__main__":
    asked: Which = "all" if sys.argv[1] == "all" else "largest"
    print(json.dumps(dataclasses.asdict(hold(Path(sys.argv[2]), asked))), flush=True)
