"""How far an evaluation of several points has come, on standard error. Scores nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """One point on one test set.

    Attributes:
        label: For people.
        sentence_cost: Of a sentence, compared to the other jobs': such as the point's latency.
    """

    label: str
    sentence_cost: float
    num_sentences: int

    @property
    def cost(self) -> float:
        """Of all its sentences."""
        return self.sentence_cost * self.num_sentences


class EvaluationProgress:
    """A bar over all jobs on a terminal, elsewhere a line per job.

    A sentence counts as much as its job says, so that the time left is right though points differ.

    Args:
        jobs: In the order they are done.
        clock: Seconds.
    """

    def __init__(
        self,
        jobs: Sequence[EvaluationJob],
        *,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jobs, self._clock = jobs, clock
        self._console = console or Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._work = sum(job.cost for job in jobs)
        self._task = self._bar.add_task("", total=self._work)
        self._position = -1
        self._began = clock()

    def __enter__(self) -> EvaluationProgress:
        self._bar.start()
        self._began = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def begin(self) -> None:
        """The next job's sentences come now."""
        self._position += 1
        self.advance(0)

    def advance(self, num_done: int) -> None:
        """So many of the job's sentences are done."""
        text = f"{self._label}, sentence {num_done} of {self._jobs[self._position].num_sentences}"
        self._bar.update(self._task, completed=self._done(num_done), description=text)

    def end(self, scores: str) -> None:
        """The job is scored."""
        done = self._done(self._jobs[self._position].num_sentences)
        left_s = (self._clock() - self._began) * (self._work / done - 1) if done else 0.0
        self._console.print(
            f"{self._label}  {scores}  ETA {left_s / 60:.0f} min", highlight=False, soft_wrap=True
        )

    @property
    def _label(self) -> str:
        return f"point {self._position + 1} of {len(self._jobs)}: {self._jobs[self._position].label}"

    def _done(self, num_sentences: int) -> float:
        """Work done: that of the jobs before, and so many sentences of this one."""
        before = sum(job.cost for job in self._jobs[: self._position])
        return before + self._jobs[self._position].sentence_cost * num_sentences
