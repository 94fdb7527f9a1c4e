"""`dynhat profile`: measure sampled SubTransformers on this device, row by row, into a latency dataset.

The paper's protocol: one sentence of 30 tokens, 30 decoding steps, 300 runs, the fastest and slowest tenth dropped,
encoder and decoder apart; beam as served. Between two runs the smallest SubTransformer runs once: it tells how fast the
device was just then, since a shared or warm one drifts. A row is trusted only if the device stayed as it was from the
first run to the last: the same caps, and its CPU not shared with other work. Otherwise it is measured again.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dynhat_runtime.design_space import DesignSpace, SubTransformerConfig, latency_features
from dynhat_runtime.errors import LatencyDataError
from dynhat_runtime.model.decodable_super import DecodableSuper
from dynhat_runtime.model.super_transformer import SuperTransformer
from dynhat_runtime.offline.latency_dataset import (
    Conditions,
    LatencyRow,
    append_row,
    drop_torn_line,
    read_latency_dataset,
)
from dynhat_runtime.offline.profile import measure_once, source_tokens, trimmed
from dynhat_runtime.operating_point import Precision
from dynhat_runtime.resource_snapshot import ResourceSnapshot

NUM_TOKENS = 30
"""Source and target tokens: the paper's."""
CPU = torch.device("cpu")
MIN_CPU_SHARE = 0.9
"""A row whose thread had less of its CPU's time was measured beside somebody else's work."""
MAX_ATTEMPTS = 4
SETTLE_S = 0.5
"""Between two attempts: what disturbed the device may be over then."""
MAX_REDRAWS = 1000


@dataclass(frozen=True, slots=True)
class DatasetOptions:
    """What to sample and how to measure it."""

    num_samples: int = 300
    num_runs: int = 300
    num_warmup_runs: int = 5
    beam_size: int = 4
    seed: int = 1
    device: torch.device = CPU
    precision: Precision = "fp32"
    num_threads: int = 1


class RunTimes(NamedTuple):
    """Every run of one SubTransformer."""

    encoder_ms: list[float]
    decoder_ms: list[float]
    reference_ms: list[float]
    """Of the space's smallest SubTransformer, whole sentences, each between two of the runs."""
    cpu_share: float
    """CPU time of the measuring thread over the time that passed, warm-up left out; 1 on a GPU."""


Measure = Callable[[SubTransformerConfig], RunTimes]


def sampled_configs(space: DesignSpace, num_samples: int, seed: int) -> list[SubTransformerConfig]:
    """The smallest and the largest SubTransformer, then distinct random ones: a prefix of any longer list.

    Raises:
        LatencyDataError: The space has not that many.
    """
    if num_samples > space.num_configurations():
        raise LatencyDataError(
            f"{num_samples} samples asked for, but design space {space.name!r} has only "
            f"{space.num_configurations()} SubTransformers: ask for fewer"
        )
    rng = random.Random(seed)
    configs = dict.fromkeys((space.smallest(), space.largest()))
    redraws = 0
    while len(configs) < num_samples and redraws < MAX_REDRAWS:
        before = len(configs)
        configs[space.sample(rng)] = None
        redraws = redraws + 1 if len(configs) == before else 0
    return list(configs)[:num_samples]


def measure_by_protocol(super_transformer: DecodableSuper, options: DatasetOptions) -> Measure:
    """How a row is measured on the device that holds the weights."""
    src_BS = source_tokens(super_transformer.spec.src_vocab_size, NUM_TOKENS).to(options.device)

    smallest = super_transformer.spec.design_space.smallest()
    reference = super_transformer.extract(smallest, options.precision, options.num_threads)

    def measure(config: SubTransformerConfig) -> RunTimes:
        sub = super_transformer.extract(config, options.precision, options.num_threads)
        for _ in range(options.num_warmup_runs):
            measure_once(sub, src_BS, NUM_TOKENS, options.beam_size)
        began_s, cpu_began_s = time.perf_counter(), time.thread_time()
        runs, reference_ms = [], []
        for _ in range(options.num_runs):
            runs.append(measure_once(sub, src_BS, NUM_TOKENS, options.beam_size))
            reference_ms.append(sum(measure_once(reference, src_BS, NUM_TOKENS, options.beam_size)))
        share = (time.thread_time() - cpu_began_s) / (time.perf_counter() - began_s)
        encoder_ms, decoder_ms = zip(*runs, strict=True)
        return RunTimes(list(encoder_ms), list(decoder_ms), reference_ms, 1.0 if src_BS.is_cuda else share)

    return measure


def conditions_now(
    snapshot: ResourceSnapshot, space: DesignSpace, device_name: str, options: DatasetOptions
) -> Conditions:
    """The resource state a row is measured under, as `snapshot` has it."""
    device = options.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device_name
    return Conditions(
        design_space=space.name,
        device=name,
        device_type=device.type,
        power_mode=snapshot.power_mode,
        num_cpus=len(snapshot.usable_cpus or (0,)),
        cpu_quota_cpus=snapshot.cpu_quota_cpus,
        cpu_max_frequency_hz=snapshot.cpu_max_frequency_hz,
        gpu_max_frequency_hz=snapshot.gpu_max_frequency_hz,
        num_threads=max(options.num_threads, torch.get_num_threads()),
        precision=options.precision,
        beam_size=options.beam_size,
        num_src_tokens=NUM_TOKENS,
        num_tgt_tokens=NUM_TOKENS,
        torch_version=torch.__version__,
    )


def measure_dataset(
    space: DesignSpace,
    options: DatasetOptions,
    out: Path,
    *,
    measure: Measure,
    read_conditions: Callable[[], Conditions],
    console: Console,
    wait: Callable[[float], None] = time.sleep,
) -> int:
    """Append a row for every sampled SubTransformer that `out` does not have under the present conditions.

    Args:
        space: What to sample from.
        options: How many, and by which seed.
        out: The dataset; it is continued if it exists, and complete after every row.
        measure: Runs one SubTransformer.
        read_conditions: The device's resource state now.
        console: Where progress and warnings go.
        wait: Sleeps; seconds.

    Returns:
        Rows that were measured.

    Raises:
        LatencyDataError: The file cannot be used, or the device does not hold still.
    """
    conditions = read_conditions()
    done = _genes_measured(out, conditions)
    configs = [
        c for c in sampled_configs(space, options.num_samples, options.seed) if space.gene(c) not in done
    ]
    skipped = options.num_samples - len(configs)
    if skipped:
        console.print(f"{out}: has {skipped} of {options.num_samples} rows already, measuring the rest")
    with _progress(console) as progress:
        task = progress.add_task("measuring", total=len(configs))
        for number, config in enumerate(configs, start=1):
            row = _trusted_row(config, space, conditions, measure, read_conditions, console, wait)
            append_row(out, row)
            progress.advance(task)
            if not console.is_terminal and (number % 25 == 0 or number == len(configs)):
                console.print(f"{number} of {len(configs)} rows measured")
    return len(configs)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _genes_measured(out: Path, conditions: Conditions) -> set[tuple[int, ...]]:
    """What the dataset has under these conditions; a file that cannot be written is refused before any work."""
    drop_torn_line(out)
    if out.stat().st_size == 0:
        return set()
    rows = read_latency_dataset(out, may_be_empty=True)
    return {row.gene for row in rows if row.conditions == conditions and row.gene is not None}


def _trusted_row(
    config: SubTransformerConfig,
    space: DesignSpace,
    conditions: Conditions,
    measure: Measure,
    read_conditions: Callable[[], Conditions],
    console: Console,
    wait: Callable[[float], None],
) -> LatencyRow:
    """Measure until the device held still meanwhile.

    Rules: (1) a row whose conditions, before or after it, are not those the dataset was begun under is thrown away,
    with a warning, and measured again; (2) so is a row whose thread had to share its CPU; (3) both at most
    `MAX_ATTEMPTS` times: then a changed device is an error, and of shared rows the least disturbed counts, with its
    share on record.
    """
    least_disturbed: RunTimes | None = None
    reason = ""
    for _ in range(MAX_ATTEMPTS):
        reason = _difference(conditions, read_conditions())
        if not reason:
            times = measure(config)
            reason = _difference(conditions, read_conditions())
            if not reason:
                if times.cpu_share >= MIN_CPU_SHARE:
                    return _row(config, space, conditions, times)
                reason = f"other work took {1 - times.cpu_share:.0%} of its CPU"
                if least_disturbed is None or times.cpu_share > least_disturbed.cpu_share:
                    least_disturbed = times
        console.print(f"warning: row not trusted, measuring it again: {reason}")
        wait(SETTLE_S)
    if least_disturbed is None:
        raise LatencyDataError(
            f"the device does not hold still: {reason}, {MAX_ATTEMPTS} times in a row. The rows before are kept; "
            "put the device back, or run the same command again to go on under its new state"
        )
    console.print(
        f"warning: kept the least disturbed of {MAX_ATTEMPTS} attempts "
        f"(cpu_share {least_disturbed.cpu_share:.2f}): stop other work for figures to rely on"
    )
    return _row(config, space, conditions, least_disturbed)


def _difference(before: Conditions, now: Conditions) -> str:
    """What changed, or nothing."""
    changes = [
        f"{name} changed from {value} to {asdict(now)[name]}"
        for name, value in asdict(before).items()
        if asdict(now)[name] != value
    ]
    return ", ".join(changes)


def _row(
    config: SubTransformerConfig, space: DesignSpace, conditions: Conditions, times: RunTimes
) -> LatencyRow:
    """A row by the paper's protocol: encoder and decoder each sorted and trimmed."""
    encoder_ms = trimmed(sorted(times.encoder_ms))
    decoder_ms = trimmed(sorted(times.decoder_ms))
    return LatencyRow(
        features=latency_features(config),
        encoder_mean_ms=_rounded(statistics.fmean(encoder_ms)),
        decoder_mean_ms=_rounded(statistics.fmean(decoder_ms)),
        encoder_std_ms=_rounded(statistics.pstdev(encoder_ms)),
        decoder_std_ms=_rounded(statistics.pstdev(decoder_ms)),
        encoder_median_ms=_rounded(statistics.median(encoder_ms)),
        decoder_median_ms=_rounded(statistics.median(decoder_ms)),
        num_runs=len(decoder_ms),
        cpu_share=round(times.cpu_share, 3),
        reference_mean_ms=_rounded(statistics.fmean(trimmed(sorted(times.reference_ms)))),
        measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        gene=space.gene(config),
        conditions=conditions,
    )


def _rounded(value_ms: float) -> float:
    """To the microsecond's tenth: more digits say nothing."""
    return round(value_ms, 4)


def on_device(super_transformer: SuperTransformer, device: torch.device) -> SuperTransformer:
    """The same SuperTransformer with its weights on `device`."""
    if device.type == "cpu":
        return super_transformer
    weights = {name: weight.to(device) for name, weight in super_transformer.weights.items()}
    return SuperTransformer(super_transformer.spec, weights)
