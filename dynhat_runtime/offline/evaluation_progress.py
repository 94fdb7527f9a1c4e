"""How far an evaluation of several points has come, on standard error. Scores nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class EvaluationProgress:
    """A bar over all points on a terminal, elsewhere a line per point.

    A sentence counts as much as its point's latency, so that the time left is right though points differ.

    Args:
        latencies_ms: Of the points, in the order they are scored.
        num_sentences: Of the test set.
        clock: Seconds.
    """

    def __init__(
        self,
        latencies_ms: Sequence[float],
        num_sentences: int,
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._latencies_ms, self._num_sentences, self._clock = latencies_ms, num_sentences, clock
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._work = sum(latencies_ms) * num_sentences
        self._task = self._bar.add_task("", total=self._work)
        self._position, self._point_id = -1, ""
        self._began = clock()

    def __enter__(self) -> EvaluationProgress:
        self._bar.start()
        self._began = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self, point_id: str) -> None:
        """The next point's sentences come now."""
        self._position, self._point_id = self._position + 1, point_id
        self.advance(0)

    def advance(self, num_done: int) -> None:
        """So many of the point's sentences are done."""
        done = self._done(num_done)
        text = f"{self._label}, sentence {num_done} of {self._num_sentences}"
        self._bar.update(self._task, completed=done, description=text)

    def end(self, scores: str) -> None:
        """The point is scored."""
        done = self._done(self._num_sentences)
        left_s = (self._clock() - self._began) * (self._work / done - 1) if done else 0.0
        self._console.print(f"{self._label}  {scores}  ETA {left_s / 60:.0f} min", highlight=False)

    @property
    def _label(self) -> str:
        return f"point {self._position + 1} of {len(self._latencies_ms)}: {self._point_id}"

    def _done(self, num_sentences: int) -> float:
        """Work done: that of the points before, and so many sentences of this one."""
        before = sum(self._latencies_ms[: self._position]) * self._num_sentences
        return before + self._latencies_ms[self._position] * num_sentences
