"""How a benchmark is a program: its command for the report, SIGTERM, exit statuses, and the report's file.

Measures nothing and reads no command line.
"""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.figures import BenchmarkError
from dynhat_runtime.errors import DynhatError

INTERRUPTED = 130
TERMINATED = 143
"""Exit statuses after Ctrl-C and SIGTERM, as shells have them."""


def command_of(name: str, arguments: Sequence[str]) -> str:
    """The command that reproduces a run."""
    return shlex.join(["python", "-m", f"benchmarks.{name}", *by_names(arguments)])


def by_names(arguments: Sequence[str]) -> list[str]:
    """Arguments for a report: paths of this machine say nothing elsewhere, so files are called by their names."""
    return [Path(argument).name if argument.startswith("/") else argument for argument in arguments]


def leave(signal_number: int, frame: object) -> None:
    """End on SIGTERM through every `finally`, as Ctrl-C does, so that no child stays behind."""
    raise SystemExit(TERMINATED)


def exit_status(
    run: Callable[[], int],
    tell: Callable[[str], None],
    *,
    stopped: str = "stopped, no report written",
    on_sigterm: Callable[[int, object], None] = leave,
) -> int:
    """Run a benchmark; 2 for what is wrong with the command line or the bundle, 1 where it could not be measured.

    Args:
        run: Measures and reports; its own exit status.
        tell: Shows one line.
        stopped: What is told after Ctrl-C.
        on_sigterm: Handles SIGTERM.
    """
    signal.signal(signal.SIGTERM, on_sigterm)
    try:
        return run()
    except DynhatError as error:
        tell(f"error: {error}")
        return 2
    except BenchmarkError as error:
        tell(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        tell(stopped)
        return INTERRUPTED


def write_report(file: Path, report: str, tell: Callable[[str], None]) -> None:
    """Write a report, and its folder where there is none.

    Raises:
        BenchmarkError: It cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(report, encoding="utf-8")
    except OSError as error:
        raise BenchmarkError(
            f"{file}: cannot be written ({error.strerror}): give --out another folder"
        ) from error
    tell(f"wrote {file}")
