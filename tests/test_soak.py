"""`python -m benchmarks.soak`: two minutes of it for real, and what it makes of what it found."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.soak_figures import Size, Soaked, result_of
from benchmarks.soak_traffic import Seen, asks
from dynhat_runtime.model.checkpoint import Bundle
from tests.tiny_bundle import POINT_IDS

ROOT = Path(__file__).parent.parent
MINUTES = 2.0
FILLING = ("memory grew by less than 1 %", "no thread more than ever in the warm-up")
"""What holds for half an hour: in so short a time allocators and thread pools are still filling."""
LARGEST_GROWTH_SO_SOON = 1.25
MOST_THREADS_SO_SOON = 4

FINE = Soaked(
    minutes=1.0,
    seen=Seen([1.0] * 100, Counter({"sentence": 100}), []),
    disturbances={"a reload": 3},
    failures=[],
    loaded=[Size(100.0, 12, 8)] * 10,
    before=Size(100.0, 10, 7),
    most_threads=9,
    after=Size(100.5, 10, 7),
    exit_status=0,
    num_tracebacks=0,
)


@pytest.mark.daemon
def test_two_minutes(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """Every request is answered as it should be, descriptors are as many as before, and nothing runs away."""
    figures = tmp_path / "soak.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks.soak",
        "--minutes",
        f"{MINUTES}",
        "--bundle",
        str(tiny_bundle.path),
    ]
    done = subprocess.run(
        [*command, "--out", str(tmp_path), "--json", str(figures)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert figures.exists(), done.stderr
    (result,) = json.loads(figures.read_text())["results"]
    failed = [check["claim"] for check in result["checks"] if not check["holds"]]
    assert [claim for claim in failed if not claim.startswith(FILLING)] == []
    assert done.returncode == (1 if failed else 0)
    growth = next(
        figure for figure in result["figures"] if figure["name"].startswith("memory at rest, in the end")
    )
    assert growth["summary"]["median"] < LARGEST_GROWTH_SO_SOON
    (report,) = tmp_path.glob("*-soak.md")
    assert "p99" in report.read_text()


def test_all_is_well() -> None:
    """Where nothing leaked and nobody was left without an answer, every check holds."""
    assert all(check.holds for check in result_of(FINE, "").checks)


@pytest.mark.parametrize(
    "found",
    [
        replace(FINE, after=Size(102.0, 10, 7)),
        replace(FINE, after=Size(100.0, 11, 7)),
        replace(FINE, after=Size(100.0, 10, 10)),
        replace(FINE, exit_status=1),
        replace(FINE, num_tracebacks=1),
        replace(FINE, failures=["a reload: refused"]),
        replace(FINE, seen=Seen([1.0] * 100, Counter({"sentence": 100}), ["sentence: 500"])),
    ],
)
def test_what_is_found_is_told(found: Soaked) -> None:
    """A leak, an unanswered request, a traceback: exactly one check does not hold."""
    assert [check.holds for check in result_of(found, "").checks].count(False) == 1


def test_traffic_is_mixed() -> None:
    """In a few hundred requests every kind is asked, right and wrong ones."""
    chance = random.Random(1)
    kinds = {asks(chance, POINT_IDS).kind for _ in range(600)}
    assert {"sentence", "stream", "deepl", "budget", "unknown language", "no JSON", "leaves"} <= kinds
    assert len(kinds) == 19
