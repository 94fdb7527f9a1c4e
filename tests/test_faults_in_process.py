"""Too little memory, a clock that jumps, many reloads: what happens to the process itself."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from statistics import median

import psutil
import pytest
import torch

from dynhat_runtime.daemon import HANDOVER_S, NUM_HELPERS
from dynhat_runtime.memory_shortage import low_memory_error
from dynhat_runtime.model.checkpoint import Bundle
from tests.daemon_process import until
from tests.test_end_to_end import PATIENCE_S, Daemon
from tests.tiny_bundle import SENTENCES

ROOT = Path(__file__).parent.parent
COMPILER = shutil.which("cc") or shutil.which("g++")

# --- memory ---


@pytest.mark.parametrize("command", [("serve", "--port", "0"), ("translate",)])
def test_too_little_memory_for_the_bundle(command: tuple[str, ...]) -> None:
    """Where the bundle does not fit the command ends with 3, which a wrong setting never does, and one line."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.short_of_memory", "4", *command],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    errors = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert len(errors) == 1, done.stderr
    assert re.match(
        r"dynhat: error: not enough memory \(.+\): end other programs, raise the limit", errors[0]
    )


@pytest.mark.parametrize(
    ("error", "is_shortage"),
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (ImportError("No module named 'torch'"), False),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("shape mismatch"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (ValueError("out of memory"), False),
    ],
)
def test_what_is_a_shortage(error: Exception, is_shortage: bool) -> None:
    """Errors that mean it are told from others, also behind one that was raised because of them."""
    assert (low_memory_error(error) is not None) is is_shortage
    outer = ValueError("loading failed")
    outer.__cause__ = error
    assert (low_memory_error(outer) is not None) is is_shortage


def test_torchs_own_words() -> None:
    """What torch really raises for want of memory is one."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert low_memory_error(caught.value) is not None


# --- the clock ---


class JumpingClock:
    """A wall clock, for one process and its children, that can be moved."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "offset"
        self._library = folder / "jumping_clock.so"
        self.jump(0)
        source = Path(__file__).with_name("jumping_clock.c")
        subprocess.run([str(COMPILER), "-shared", "-fPIC", "-O2", "-o", self._library, source], check=True)

    @property
    def environment(self) -> dict[str, str]:
        """For the process that has it."""
        return {"LD_PRELOAD": str(self._library), "JUMPING_CLOCK": str(self._file)}

    def jump(self, days: int) -> None:
        """Be so many days away from the time that it is."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("=q", days * 86_400))


@pytest.mark.daemon
@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler for the clock that jumps")
def test_a_clock_that_jumps(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall clock jumps years to and fro: times stay those that passed, no deadline passes, no point changes."""
    clock = JumpingClock(tmp_path)
    with monkeypatch.context() as patched:
        for name, value in clock.environment.items():
            patched.setenv(name, value)
        daemon = Daemon(tiny_bundle.path)
    body = {
        "text": [SENTENCES[0]],
        "source": "en",
        "target": "de",
        "deadline_ms": 20_000,
        "latency_budget_ms": 20_000,
    }
    try:
        began_s, active_id, years, last_s = time.monotonic(), daemon.active_id(), set[int](), 0.0
        for days in (0, 400, -400, 3000, 0):
            clock.jump(days)
            years.add(_year(daemon))
            for _ in range(3):
                status, answer, _ = daemon.request("/v1/translate", body)
                assert status == 200, answer
                (translation,) = answer["translations"]
                assert 0 < translation["elapsed_ms"] < 20_000
                assert translation["budget_met"]
            assert daemon.active_id() == active_id
            time.sleep(1.1)  # uvicorn's answers are dated once a second
            sensed = [
                event for event in daemon.request("/v1/trace")[1]["events"] if event["kind"] == "snapshot"
            ]
            times_s = [event["monotonic_s"] for event in sensed]
            assert times_s == sorted(times_s)
            assert last_s < times_s[-1] <= time.monotonic()
            last_s = times_s[-1]
        assert len(years) >= 3, f"the clock did not jump: {years}"
    finally:
        daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(PATIENCE_S) == 0
    assert last_s > began_s
    assert not any("stuck" in line or "Traceback" in line for line in daemon.log), daemon.log


def _year(daemon: Daemon) -> int:
    """Of the daemon's wall clock, as its answers are dated."""
    return int(daemon.request("/health")[2]["date"].split()[3])


def test_durations_come_from_the_monotonic_clock() -> None:
    """The package reads the wall clock for dates alone: `time.time` is nowhere, `now` is never subtracted."""
    for path in (ROOT / "dynhat_runtime").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\btime\.time\b|from time import .*\btime\b|utcnow|\.today\(", text), path
        assert "time_ns()" not in text or path.name == "gate.py", (
            path
        )  # a span's date; its length is monotonic
        for use in re.findall(r"datetime\.now\(.*", text):
            assert use.startswith("datetime.now(timezone.utc)"), (path, use)
            assert not re.search(r"utc\)\s*[-<>]|timestamp\(", use), (path, use)


# --- many reloads ---

NUM_RELOADS = int(os.environ.get("DYNHAT_TEST_RELOADS", "250"))
"""A thousand takes a minute: ask for it by the variable."""
WARM_UP = NUM_RELOADS // 4
NUM_DIFFERENT = 25
"""Every so many a reload brings another governor, engine and queue; the others find nothing changed."""


@pytest.mark.daemon
def test_many_reloads(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """Memory, descriptors and threads do not grow over hundreds of reloads, one in 25 of which replaces everything."""
    config = tmp_path / "dynhat.toml"
    config.write_text("char_limit = 5000\n")
    daemon = Daemon(tiny_bundle.path, "--config", str(config))
    process = psutil.Process(daemon.process.pid)
    seen = []
    try:
        for number in range(1, NUM_RELOADS + 1):
            if number % NUM_DIFFERENT == 0:
                config.write_text(
                    f"char_limit = 5000\nlatency_budget_ms = {60 + number // NUM_DIFFERENT % 2}\n"
                )
            daemon.process.send_signal(signal.SIGHUP)
            until(lambda number=number: num_reloads(daemon) >= number)
            if number >= WARM_UP and number % NUM_DIFFERENT == NUM_DIFFERENT - 1:
                time.sleep(1.5 * HANDOVER_S)  # what was replaced is gone by then
                seen.append((process.memory_info().rss, process.num_fds(), process.num_threads()))
        assert daemon.translate(SENTENCES[0])[0] == 200
    finally:
        daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(PATIENCE_S) == 0
    print("RSS MiB", [round(rss / 2**20, 1) for rss, _, _ in seen])
    # Medians: a process of 88 MiB, without torch, comes and goes by half a MiB.
    assert median(rss for rss, _, _ in seen[-3:]) < median(rss for rss, _, _ in seen[:3]) * 1.01
    assert seen[-1][1] <= seen[0][1] + 1  # the connection that asked how many
    assert seen[-1][2] <= seen[0][2] + NUM_HELPERS - 1  # the event loop's helpers come when they are needed


def num_reloads(daemon: Daemon) -> int:
    """How many were done; none may have been refused."""
    with urllib.request.urlopen(daemon.url + "/metrics", timeout=PATIENCE_S) as answer:
        text = answer.read().decode()
    assert not re.search(r'dynhat_reloads_total\{outcome="refused"\} [1-9]', text), daemon.log
    found = re.search(r'dynhat_reloads_total\{outcome="done"\} (\d+)', text)
    assert found is not None
    return int(found[1])
