"""How far a preparation has come, on standard error; and Ctrl-C held back where it would lose minutes."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

LINES_PER_REFRESH = 500


class PreparationProgress:
    """A bar over all lines, as often as each is gone through, on a terminal; elsewhere a line per corpus."""

    def __init__(self, console: Console, num_lines: int) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=num_lines)
        self._num_waiting = 0

    def __enter__(self) -> PreparationProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
        self._bar.stop()

    def begin(self, what: str) -> None:
        """This comes now."""
        self._flush()
        self._bar.update(self._task, description=what)

    def advance(self, num_lines: int) -> None:
        """So many more lines are gone through."""
        self._num_waiting += num_lines
        if self._num_waiting >= LINES_PER_REFRESH:
            self._flush()

    def end(self, what: str) -> None:
        """A corpus is cleaned."""
        self._flush()
        if not self._console.is_terminal:
            self.say(what)

    def say(self, what: str) -> None:
        """A line that stays."""
        self._console.print(what, highlight=False, markup=False, soft_wrap=True)

    def _flush(self) -> None:
        self._bar.advance(self._task, self._num_waiting)
        self._num_waiting = 0


@contextlib.contextmanager
def late_interrupt() -> Iterator[None]:
    """Ctrl-C within the context takes effect at its end: native code would not hear it before, but lose its result."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        heard.append(number)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
    if heard:
        raise KeyboardInterrupt
