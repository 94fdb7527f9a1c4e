"""Single sentences as the daemon decodes them, int8 with the vocabulary shortlist, beside CTranslate2 at its best."""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.decode_engines import Absent, Engines
from benchmarks.decode_latency import Effort, take_turns
from benchmarks.decode_shapes import Shapes
from benchmarks.figures import Aim, Figure, Result, Summary, Task
from dynhat_runtime.model.checkpoint import Bundle

BEAMS, LENGTHS = (1, 4), (10, 30, 60)
NUM_THREADS = 1
"""As the shipped table has it: the second one's gain is lost to the first neighbour."""
AT_MOST = 0.8
EFFORT = Effort(num_rounds=15, row_s=8.0, num_eager_rounds=0)
QUICK = Effort(num_rounds=3, row_s=1.0, num_eager_rounds=0)
OURS, PLAIN, MAPPED = "ours", "CTranslate2, int8", "CTranslate2, int8 with its map"


def measure(task: Task) -> Result:
    """Every shipped point: ours as served, CTranslate2 in int8 without and with a vocabulary map; in turns."""
    shapes = Shapes(Bundle.open(task.bundle))
    lengths = LENGTHS[1:2] if task.is_quick else LENGTHS
    figures: list[Figure] = []
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="dynhat-decode-") as folder:
        for name in shapes.shipped_names:
            engines = Engines(shapes[name], Path(folder))
            ours = engines.ours("int8", NUM_THREADS, has_shortlist=True)
            if isinstance(ours, Absent):
                notes.append(f"{name}: {ours.reason}.")
                continue
            plain, mapped = (
                engines.ctranslate2("int8", NUM_THREADS),
                engines.ctranslate2("int8", NUM_THREADS, has_map=True),
            )
            for beam, length in itertools.product(BEAMS, lengths):
                task.tell(f"{name}, beam {beam}, {length} tokens")
                source = shapes[name].source(length)
                runs: dict[str, Callable[[], object]] = {
                    who: partial(decoder.decode, source, length, beam)
                    for who, decoder in ((OURS, ours), (PLAIN, plain), (MAPPED, mapped))
                }
                for run in runs.values():
                    run()
                times_ms = take_turns(runs, QUICK if task.is_quick else EFFORT, {}, 0.0)
                theirs = min((PLAIN, MAPPED), key=lambda who: statistics.median(times_ms[who]))
                label = f"{name}, beam {beam}, {length} tokens"
                figures += [Figure(f"{label}: {who}", "ms", Summary.of(times_ms[who])) for who in runs]
                ratio = Summary.ratio(times_ms[OURS], times_ms[theirs])
                figures.append(Figure(f"{label}: {OURS} / {theirs}", "x", ratio, (Aim("median", AT_MOST),)))
    return Result(
        name="served",
        title="Single sentences as served",
        how=(
            "As many target tokens as source tokens, 1 thread. Ours: int8 with the bundle's vocabulary shortlist, as "
            "the shipped table has it. CTranslate2: int8, and int8 with a vocabulary map in its own format that holds "
            "the same tokens as our shortlist; the ratio is to the faster of the two. In turns, after a warm-up of "
            "each. What int8 and the shortlist cost in BLEU says the page on the vocabulary shortlist (decision 23)."
        ),
        figures=tuple(figures),
        notes=tuple(notes),
    )
