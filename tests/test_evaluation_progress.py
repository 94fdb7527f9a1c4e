"""How far an evaluation has come: whose turn it is, and what is left."""

from __future__ import annotations

import io

from rich.console import Console

from dynhat_runtime.offline.evaluation_progress import EvaluationJob, EvaluationProgress

JOBS = [EvaluationJob("fast", 10.0, 100), EvaluationJob("slow", 30.0, 100)]


def test_a_line_per_point_with_the_time_left() -> None:
    """Where there is no terminal each finished point has a line; a slow point's sentences count for more."""
    output = io.StringIO()
    seconds = iter([0.0, 0.0, 60.0, 240.0])
    with EvaluationProgress(
        JOBS, console=Console(file=output, width=100), clock=lambda: next(seconds)
    ) as progress:
        for _ in JOBS:
            progress.begin()
            progress.advance(50)
            progress.end("BLEU 20.00")
    assert output.getvalue().splitlines() == [
        "point 1 of 2: fast  BLEU 20.00  ETA 3 min",
        "point 2 of 2: slow  BLEU 20.00  ETA 0 min",
    ]


def test_a_bar_over_all_points() -> None:
    """On a terminal one bar shows the point, its number and the sentence."""
    output = io.StringIO()
    console = Console(file=output, width=120, force_terminal=True)
    with EvaluationProgress(JOBS, console=console) as progress:
        progress.begin()
        progress.advance(64)
    assert "point 1 of 2: fast, sentence 64 of 100" in output.getvalue()


def test_no_sentences() -> None:
    """An empty test set has nothing left."""
    output = io.StringIO()
    with EvaluationProgress([EvaluationJob("fast", 10.0, 0)], console=Console(file=output)) as progress:
        progress.begin()
        progress.end("BLEU 0.00")
    assert "ETA 0 min" in output.getvalue()
