"""Tests of dynhat_runtime.monitor.jtop_link: real processes that speak, lie, hang and die, and what becomes of them.

The real jtop is in test_jtop_service.py.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynhat_runtime.monitor.jtop_link import JtopLink, JtopValues
from dynhat_runtime.monitor.sensor import NotYetError
from tests.sensor_files import Clock

pytest.importorskip("jtop", reason="jetson-stats is not installed")

PATIENCE_S = 20.0
FOREVER = "import time; time.sleep(600)"


class Linked:
    """A link whose process runs a few lines of Python."""

    def __init__(self, root: Path, code: str) -> None:
        (root / "run").mkdir()
        (root / "run/jtop.sock").touch()
        self.clock = Clock()
        self.pid_file = root / "pid"
        noted = f"import os; open({str(self.pid_file)!r}, 'w').write(str(os.getpid())); {code}"
        self.link = JtopLink(root, self.clock, (sys.executable, "-c", noted))

    def read(self) -> JtopValues | None:
        """What it says, once it says something."""
        give_up_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.link.read()
            except NotYetError:
                assert time.monotonic() < give_up_s, "it never said anything"
                time.sleep(0.01)

    def is_running(self) -> bool:
        """Whether the process is there."""
        try:
            os.kill(int(self.pid_file.read_text()), 0)
        except (ProcessLookupError, FileNotFoundError, ValueError):  # gone; not yet noted
            return False
        return True


@pytest.fixture
def linked(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Linked]:
    """A link with the code that the test gives as its parameter."""
    linked = Linked(tmp_path, request.param)
    yield linked
    linked.link.close()


def saying(line: str) -> str:
    """Code that says one line and then nothing."""
    return f"print({line!r}, flush=True); {FOREVER}"


def test_no_service_is_silence(tmp_path: Path) -> None:
    """Without the service's socket nothing is started, and nothing is said."""
    assert JtopLink(tmp_path, command=("/no/such/program",)).read() is None


@pytest.mark.parametrize(
    "linked", [saying('{"power_mw": 4500, "power_mode": "5W", "online_cpus": [1, 0]}')], indirect=True
)
def test_a_line_is_values(linked: Linked) -> None:
    """Numbers, names and CPU lists arrive; what was not said is not there."""
    assert linked.read() == {"power_mw": 4500.0, "power_mode": "5W", "online_cpus": (0, 1)}


@pytest.mark.parametrize(
    "linked",
    [
        saying(f'{{"power_mode": "5W", {absurd}}}')
        for absurd in (
            '"power_mw": NaN', '"power_mw": -1', '"power_mw": "much"', '"power_mw": true', '"gpu_max_frequency_hz": 0',
            '"temperature_celsius": -256', '"gpu_load_fraction": 35', '"online_cpus": [-1]', '"surprise": 1',
        )
    ],
    indirect=True,
)  # fmt: skip
def test_an_absurd_field_is_left_out(linked: Linked, caplog: pytest.LogCaptureFixture) -> None:
    """One field nobody would believe does not silence the others; the log hears of it once."""
    for _ in range(3):
        assert linked.read() == {"power_mode": "5W"}
    assert len(caplog.records) == 1


@pytest.mark.parametrize("linked", [saying('{"error": "JtopException: Mismatch version"}')], indirect=True)
def test_an_error_ends_the_process(linked: Linked) -> None:
    """What the process gives as its error is raised, and the process is gone."""
    with pytest.raises(ConnectionError, match="Mismatch version"):
        linked.read()
    assert not linked.is_running()


@pytest.mark.parametrize(
    "linked", ["os._exit(3)", "print('no JSON'); os._exit(0)", saying("[1]")], indirect=True
)
def test_a_process_that_dies_or_talks_nonsense(linked: Linked) -> None:
    """An end without a word, and lines that are none of ours, are failures."""
    with pytest.raises((ConnectionError, ValueError)):
        linked.read()
    assert not linked.is_running()


@pytest.mark.parametrize("linked", [FOREVER], indirect=True)
def test_a_start_that_hangs_is_ended(linked: Linked) -> None:
    """As jtop's start() does beside a service that hangs: after the limit the process is killed."""
    with pytest.raises(NotYetError):
        linked.link.read()
    deadline_s = time.monotonic() + PATIENCE_S
    while not linked.is_running():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    linked.clock.move(16.0)
    with pytest.raises(TimeoutError, match="hangs"):
        linked.link.read()
    assert not linked.is_running()


@pytest.mark.parametrize("linked", [saying('{"power_mw": 4500}')], indirect=True)
def test_silence_is_not_a_value(linked: Linked) -> None:
    """What was said stands for some ticks; then the process is killed, and asked again another is started."""
    assert linked.read() == {"power_mw": 4500.0}
    linked.clock.move(3.0)
    assert linked.link.read() == {"power_mw": 4500.0}
    linked.clock.move(1.0)
    with pytest.raises(TimeoutError, match="says nothing"):
        linked.link.read()
    assert not linked.is_running()
    assert linked.read() == {"power_mw": 4500.0}


@pytest.mark.parametrize("linked", [FOREVER], indirect=True)
def test_a_new_socket_is_noticed(linked: Linked, tmp_path: Path) -> None:
    """A service that starts again makes its socket anew, which is told once."""
    assert [linked.link.has_new_socket() for _ in range(2)] == [True, False]
    socket = tmp_path / "run/jtop.sock"
    socket.unlink()
    assert not linked.link.has_new_socket()
    (tmp_path / "run/other").touch()
    socket.touch()
    assert [linked.link.has_new_socket() for _ in range(2)] == [True, False]
