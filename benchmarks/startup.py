"""Time from process start to the first translation, of the command and of the daemon, beside what torch alone costs."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from benchmarks.children import PATIENCE_S, POLL_S, Child, child
from benchmarks.figures import Aim, BenchmarkError, Figure, Result, Summary, Task
from dynhat_runtime.model.checkpoint import WEIGHTS

NUM_RUNS, NUM_RUNS_QUICK = 7, 2
MOST = 1.3
"""How many times the floor a start may take."""
SENTENCE = "Good morning to you all."
FLOOR = "floor: `import torch` and reading the weights file"
TRANSLATE = "`dynhat translate`: one line in, its translation out"
HEALTHY = "`dynhat serve`: until /health says ok"
SERVED = "`dynhat serve`: until the first answer of /translate"


def measure(task: Task) -> Result:
    """Fresh processes of each kind in turns.

    Raises:
        BenchmarkError: A process did not come to its translation.
    """
    num_runs = NUM_RUNS_QUICK if task.is_quick else NUM_RUNS
    kinds: tuple[Callable[[Path], dict[str, float]], ...] = (_start_floor, _start_translate, _start_daemon)
    seconds: dict[str, list[float]] = {FLOOR: [], TRANSLATE: [], HEALTHY: [], SERVED: []}
    for run in range(num_runs):
        task.tell(f"round {run + 1} of {num_runs}")
        for kind in kinds[run % len(kinds) :] + kinds[: run % len(kinds)]:
            for name, measured_s in kind(task.bundle).items():
                seconds[name].append(measured_s)
    figures = [Figure(name, "s", Summary.of(samples)) for name, samples in seconds.items()]
    figures += [
        Figure(f"{name} / floor", "x", Summary.ratio(seconds[name], seconds[FLOOR]), (Aim("median", MOST),))
        for name in (TRANSLATE, SERVED)
    ]
    return Result(
        name="startup",
        title="From process start to the first translation",
        how=(
            f"{num_runs} fresh processes of each kind in turns, from just before the process is made. Files were "
            f"read before and so come from the page cache, except perhaps in the first round. The daemon listens on "
            f"a free port; its log is looked at every {POLL_S * 1e3:g} ms, /health is asked once the log says ready, "
            "not before, since every answer would cost the loading daemon time, and /translate when /health says ok."
        ),
        figures=tuple(figures),
        notes=(
            "With the native decoder what serves imports no torch, so it can be below the floor, and is.",
        ),
    )


def _start_floor(bundle: Path) -> dict[str, float]:
    with child(
        ["-c", f"import torch; open({str(bundle / WEIGHTS)!r}, 'rb').read(); print(flush=True)"]
    ) as process:
        process.first_line()
        return {FLOOR: process.seconds}


def _start_translate(bundle: Path) -> dict[str, float]:
    with child(["-m", "dynhat_runtime", "translate", "--bundle", str(bundle)]) as process:
        process.say(f"{SENTENCE}\n")
        process.first_line()
        return {TRANSLATE: process.seconds}


def _start_daemon(bundle: Path) -> dict[str, float]:
    with child(["-m", "dynhat_runtime", "serve", "--port", "0", "--bundle", str(bundle)]) as process:
        url = _url(process)
        while "ready: " not in process.log_text():
            process.pause("being ready")
        while not _is_healthy(url):
            process.pause("good health")
        healthy_s = process.seconds
        _translate(url)
        return {HEALTHY: healthy_s, SERVED: process.seconds}


def _url(process: Child) -> str:
    """Where the daemon says it listens."""
    while not (found := re.search(r"loading: (http\S+)", process.log_text())):
        process.pause("listening")
    return found[1]


def _is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=PATIENCE_S):
            return True
    except urllib.error.HTTPError as error:
        with error:
            return False
    except OSError:
        return False  # it does not accept yet


def _translate(url: str) -> None:
    """Ask the daemon for one translation.

    Raises:
        BenchmarkError: It gave none.
    """
    body = json.dumps({"q": SENTENCE, "source": "en", "target": "de"}).encode()
    request = urllib.request.Request(f"{url}/translate", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            answer = json.load(response)
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{url}/translate gave no answer: {error}") from error
    if not isinstance(answer, dict) or "translatedText" not in answer:
        raise BenchmarkError(f"{url}/translate gave no translation: {answer!r}")
