"""What a run found, as Markdown for people and as one JSON object, with what the device was like meanwhile."""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from benchmarks.figures import Aim, Figure, Result
from dynhat_runtime.monitor.host import HostMonitor
from dynhat_runtime.monitor.identity import device_name

ROOT = Path(__file__).resolve().parent.parent
GIT_TIMEOUT_S = 10.0
NUM_DIGITS = 3


@dataclasses.dataclass(frozen=True, slots=True)
class Environment:
    """Device, software and load at one moment; None is what nobody tells here."""

    measured_at: str
    """UTC, ISO 8601."""
    device: str
    machine: str
    num_usable_cpus: int
    cpu_max_frequency_hz: float | None
    load_average_1min: float
    cpu_pressure_fraction: float | None
    power_mode: str | None
    torch_version: str
    num_torch_threads: int
    python_version: str
    git_commit: str | None
    bundle: str
    weights_sha256: str

    @classmethod
    def read(cls, bundle: str, weights_sha256: str) -> Environment:
        """The environment now."""
        snapshot = HostMonitor().read()
        return cls(
            measured_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            device=device_name(),
            machine=platform.machine(),
            num_usable_cpus=len(os.sched_getaffinity(0)),
            cpu_max_frequency_hz=snapshot.cpu_max_frequency_hz,
            load_average_1min=os.getloadavg()[0],
            cpu_pressure_fraction=snapshot.cpu_pressure_fraction,
            power_mode=power_mode(),
            torch_version=torch.__version__,
            num_torch_threads=torch.get_num_threads(),
            python_version=platform.python_version(),
            git_commit=git_commit(),
            bundle=bundle,
            weights_sha256=weights_sha256,
        )


def power_mode(root: Path = Path("/")) -> str | None:
    """A Jetson's power mode, else the clock governor of the first CPU, else None.

    Args:
        root: Where `var` and `sys` are looked for.
    """
    sources = (
        ("nvpmodel", root / "var/lib/nvpmodel/status"),
        ("cpufreq governor", root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    )
    for label, file in sources:
        try:
            return f"{label} {file.read_text().strip()}"
        except (OSError, UnicodeDecodeError):
            continue
    return None


def git_commit() -> str | None:
    """The working copy's commit, and whether more than reports was changed since; None without git."""
    try:
        commit = _git("rev-parse", "--short=12", "HEAD")
        changes = _git("status", "--porcelain", "--", ".", ":!docs/benchmarks")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit} with uncommitted changes" if changes else commit


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True
    )
    return done.stdout.strip()


def as_json(environment: Environment, command: str, results: Sequence[Result]) -> dict[str, Any]:
    """Everything of a run, with the verdict on every aim."""
    described = []
    for result in results:
        figures = [
            {
                **dataclasses.asdict(figure),
                "aims": [
                    {**dataclasses.asdict(aim), "is_met": aim.is_met(figure.summary)} for aim in figure.aims
                ],
            }
            for figure in result.figures
        ]
        described.append({**dataclasses.asdict(result), "figures": figures})
    return {"environment": dataclasses.asdict(environment), "command": command, "results": described}


def as_markdown(environment: Environment, command: str, results: Sequence[Result]) -> str:
    """The report."""
    parts = [
        f"# Run time benchmarks, {environment.measured_at[:10]}",
        "\n".join(environment_lines(environment)),
        f"Reproduce with:\n\n    {command}",
        "p99 is given from 100 samples on; a ratio is one of medians, and its spread the widest the samples allow.",
        *(section(result) for result in results),
    ]
    return "\n\n".join(parts) + "\n"


def environment_lines(environment: Environment) -> list[str]:
    """The environment as a list."""
    hz, pressure = environment.cpu_max_frequency_hz, environment.cpu_pressure_fraction
    return [
        f"- Device: {environment.device} ({environment.machine}), {environment.num_usable_cpus} CPUs usable, "
        f"clock cap {'not known' if hz is None else f'{hz / 1e6:.0f} MHz'}",
        f"- Power mode: {environment.power_mode or 'not known'}",
        f"- Load before the run: {environment.load_average_1min:.2f} (1 min average), CPU pressure "
        f"{'not known' if pressure is None else f'{pressure:.0%}'}",
        f"- Software: torch {environment.torch_version} with {environment.num_torch_threads} threads, "
        f"Python {environment.python_version}, "
        f"commit {environment.git_commit or 'not known'}",
        f"- Bundle: {environment.bundle}, weights sha256 {environment.weights_sha256[:12]}",
        f"- Began: {environment.measured_at}",
    ]


def section(result: Result) -> str:
    """One benchmark's part of a report."""
    rows = ["| figure | n | median | p99 | min – max | aim | met |", "|---|--:|--:|--:|--:|---|---|"]
    rows += [_row(figure) for figure in result.figures]
    parts = [f"## {result.title}", result.how, "\n".join(rows)]
    if result.checks:
        parts.append(
            "\n".join(
                f"- {'Holds' if check.holds else 'DOES NOT HOLD'}: {check.claim}" for check in result.checks
            )
        )
    parts += result.notes
    return "\n\n".join(parts)


def _row(figure: Figure) -> str:
    summary, unit = figure.summary, figure.unit
    cells = [
        figure.name,
        str(summary.num_samples),
        _value(summary.median, unit),
        "–" if summary.p99 is None else _value(summary.p99, unit),
        f"{_number(summary.minimum)} – {_value(summary.maximum, unit)}",
        ", ".join(f"{aim.statistic} <= {aim.at_most:g} {unit}" for aim in figure.aims) or "none",
        ", ".join(f"{aim.statistic} {_verdict(figure, aim)}" for aim in figure.aims) or "–",
    ]
    return f"| {' | '.join(cells)} |"


def _verdict(figure: Figure, aim: Aim) -> str:
    return {True: "met", False: "missed", None: "not told by so few samples"}[aim.is_met(figure.summary)]


def _value(value: float, unit: str) -> str:
    return f"{_number(value)} {unit}"


def _number(value: float) -> str:
    """Three significant digits; whole numbers from 100 on, four digits near 1 so that a ratio shows its second."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3f}" if 0.5 <= value < 10 else f"{value:.{NUM_DIGITS}g}"
