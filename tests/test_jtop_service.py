"""The real jtop service on a simulated Jetson, and the real daemon on it: what changes there, moves here.

Needs jetson-stats, root and private mounts; see `simulated_jetson.py` for what is simulated and what is real. The
bounds on reactions are the issue's own; each is given slack for a busy machine, and figures are in docs/benchmarks.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.board_daemon import Answer, BoardDaemon
from tests.simulated_jetson import MODES, NUM_CPUS, SimulatedJetson, board_with_service, has_jtop, why_not

pytestmark = [
    pytest.mark.jtop,
    pytest.mark.daemon,
    pytest.mark.skipif(why_not() is not None, reason=f"needs a simulated board: {why_not()}"),
    pytest.mark.skipif(not has_jtop(), reason="needs jetson-stats: install the extra [jetson]"),
]

jtop = pytest.importorskip("jtop", reason="needs jetson-stats: install the extra [jetson]")

SYSFS_REACTION_S = 0.7
JTOP_REACTION_S = 2.0
SLACK_S = 1.0


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedJetson]:
    """A board whose files tell all, with its jtop service."""
    with board_with_service(Path(tmp_path_factory.mktemp("board"))) as board:
        yield board


@pytest.fixture(autouse=True)
def _in_maxn(board: SimulatedJetson) -> None:
    """Every test begins in MAXN with all cores."""
    board.mode(0)


@pytest.fixture(scope="module")
def on_files(board: SimulatedJetson) -> Iterator[BoardDaemon]:
    """The daemon on the board itself: it reads the board's files."""
    daemon = BoardDaemon(board, "board", "auto")
    yield daemon
    assert daemon.stop() == 0


@pytest.fixture(scope="module")
def on_jtop(board: SimulatedJetson) -> Iterator[BoardDaemon]:
    """The daemon as in a container: of the board it has the service's socket and nothing else."""
    daemon = BoardDaemon(board, "outside", "auto")
    yield daemon
    assert daemon.stop() == 0


def resource(name: str, value: object) -> Callable[[Answer], bool]:
    """Whether a status has this value in its snapshot."""
    return lambda status: bool(status["resources"][name] == value)


def sensor(name: str, is_up: bool) -> Callable[[Answer], bool]:
    """Whether a status has this sensor, and it is up or down."""
    return lambda status: any(
        each["name"] == name and each["is_up"] is is_up for each in status["resources"]["sensors"]
    )


def mode_is(number: int) -> Callable[[Answer], bool]:
    """Whether a status has this mode's name and ceilings."""
    mode = MODES[number]
    wanted: dict[str, Any] = {
        "power_mode": mode.name,
        "gpu_max_frequency_hz": float(mode.gpu_hz),
        "cpu_max_frequency_hz": mode.cpu_khz * 1000.0,
    }
    return lambda status: all(status["resources"][name] == value for name, value in wanted.items())


def follow_the_modes(daemon: BoardDaemon, board: SimulatedJetson, limit_s: float) -> None:
    """Switch MAXN -> 10W -> 5W and see snapshot and operating point follow within the limit."""
    daemon.wait_for(mode_is(0), "MAXN")
    points = daemon.points()
    best = daemon.wait_for(lambda status: status["active"] == points[-1], "the best point")["active"]
    for number in (1, 2):
        before = daemon.status()["active"]
        reaction_s = daemon.reaction_s(
            lambda number=number: board.mode(number),  # type: ignore[misc]
            lambda status, before=before: status["active"] != before,  # type: ignore[misc]
            f"another point in {MODES[number].name}",
        )
        assert reaction_s <= limit_s + SLACK_S
        status = daemon.wait_for(mode_is(number), MODES[number].name)
        assert points.index(status["active"]) < points.index(before)
    board.mode(0)
    daemon.wait_for(lambda status: status["active"] == best, "the way back")


# --- on the board's files ---------------------------------------------------------------------------------


def test_the_daemon_on_the_board_finds_it(on_files: BoardDaemon) -> None:
    """auto: source, GPU, mode, power, heat and cores are the board's; jtop is not needed, so not asked."""
    resources = on_files.wait_for(mode_is(0), "MAXN")["resources"]
    assert resources["source"] == "jetson"
    assert (resources["power_mw"], resources["temperature_celsius"]) == (4500.0, 41.5)
    assert resources["online_cpus"] == list(range(NUM_CPUS))
    assert "jtop" not in {each["name"] for each in resources["sensors"]}
    assert all(each["is_up"] for each in resources["sensors"])


def test_power_modes_on_files(on_files: BoardDaemon, board: SimulatedJetson) -> None:
    """MAXN -> 10W -> 5W moves snapshot and operating point within 0.7 s each (and slack)."""
    follow_the_modes(on_files, board, SYSFS_REACTION_S)


def test_cores_on_files(on_files: BoardDaemon, board: SimulatedJetson) -> None:
    """Cores taken offline leave one CPU, and a faster point at once; given back, the point comes back."""
    best = on_files.wait_for(lambda status: status["active"] == on_files.points()[-1], "the best point")[
        "active"
    ]

    def cores_off() -> None:
        for cpu in range(1, NUM_CPUS):
            board.core(cpu, is_online=False)

    reaction_s = on_files.reaction_s(cores_off, lambda status: status["active"] != best, "another point")
    assert reaction_s <= SYSFS_REACTION_S + SLACK_S
    resources = on_files.wait_for(resource("online_cpus", [0]), "one core")["resources"]
    assert resources["effective_cpus"] == 1.0
    for cpu in range(1, NUM_CPUS):
        board.core(cpu, is_online=True)
    on_files.wait_for(lambda status: status["active"] == best, "the way back")


def test_gpu_cap_on_files(on_files: BoardDaemon, board: SimulatedJetson) -> None:
    """A lowered maximum of the GPU is in the snapshot within 0.7 s (and slack)."""
    seen = resource("gpu_max_frequency_hz", 384e6)
    assert (
        on_files.reaction_s(lambda: board.gpu_max(384_000_000), seen, "the cap") <= SYSFS_REACTION_S + SLACK_S
    )


# --- through jtop alone -----------------------------------------------------------------------------------


def test_all_from_jtop(on_jtop: BoardDaemon) -> None:
    """Through the socket alone: mode, ceilings and power arrive, and the sensor is listed as up."""
    resources = on_jtop.wait_for(mode_is(0), "MAXN")["resources"]
    assert resources["source"] == "jetson"
    assert (resources["power_mw"], resources["gpu_load_fraction"]) == (4500.0, 0.35)
    assert sensor("jtop", is_up=True)({"resources": resources})


def test_power_modes_through_jtop(on_jtop: BoardDaemon, board: SimulatedJetson) -> None:
    """MAXN -> 10W -> 5W moves snapshot and operating point within 2 s each (and slack)."""
    follow_the_modes(on_jtop, board, JTOP_REACTION_S)


def test_gpu_cap_through_jtop(on_jtop: BoardDaemon, board: SimulatedJetson) -> None:
    """A lowered maximum of the GPU is in the snapshot within 2 s (and slack)."""
    on_jtop.wait_for(mode_is(0), "MAXN")
    seen = resource("gpu_max_frequency_hz", 384e6)
    assert (
        on_jtop.reaction_s(lambda: board.gpu_max(384_000_000), seen, "the cap") <= JTOP_REACTION_S + SLACK_S
    )


def test_a_killed_service_and_its_return(on_jtop: BoardDaemon, board: SimulatedJetson) -> None:
    """The service is killed: its values are None, the daemon translates on; started again, it is followed."""
    on_jtop.wait_for(mode_is(0), "MAXN")
    num_lines = on_jtop.log().count("sensor jtop")
    board.kill_service()
    resources = on_jtop.wait_for(sensor("jtop", is_up=False), "the loss")["resources"]
    assert (resources["power_mode"], resources["gpu_max_frequency_hz"]) == (None, None)
    assert on_jtop.translate("Good morning.")
    board.mode(2)
    board.start_service()
    on_jtop.wait_for(mode_is(2), "the return")
    assert sensor("jtop", is_up=True)(on_jtop.status())
    assert on_jtop.log().count("sensor jtop") == num_lines + 2  # down, and back


def test_a_service_of_another_version(on_jtop: BoardDaemon, board: SimulatedJetson, tmp_path: Path) -> None:
    """A service of another minor version is a sensor that is down, and both versions are named; the daemon translates
    on, and follows when the right one is back."""
    installed = Path(jtop.__file__).parent
    other = Path(shutil.copytree(installed, tmp_path / "jtop"))
    text = (other / "__init__.py").read_text(encoding="utf-8")
    (other / "__init__.py").write_text(text.replace(jtop.__version__, "4.3.2"), encoding="utf-8")
    board.kill_service()
    board.start_service(library=tmp_path)
    try:
        on_jtop.wait_for(says_of_jtop("4.3.2"), "the complaint", patience_s=60.0)
        assert says_of_jtop(jtop.__version__)(on_jtop.status())
        assert on_jtop.translate("Good morning.")
    finally:
        board.kill_service()
        board.start_service()
    on_jtop.wait_for(sensor("jtop", is_up=True), "the return", patience_s=60.0)


def says_of_jtop(words: str) -> Callable[[Answer], bool]:
    """Whether a status has jtop down with these words."""
    return lambda status: any(
        each["name"] == "jtop" and not each["is_up"] and words in str(each["error"])
        for each in status["resources"]["sensors"]
    )


def test_a_service_that_hangs(on_jtop: BoardDaemon, board: SimulatedJetson) -> None:
    """A service that stops answering is None in seconds, the daemon translates on, and follows when it goes on."""
    on_jtop.wait_for(mode_is(0), "MAXN")
    board.signal_service(signal.SIGSTOP)
    try:
        on_jtop.wait_for(sensor("jtop", is_up=False), "the loss")
        assert on_jtop.resources()["power_mode"] is None
        assert on_jtop.translate("Good morning.")
    finally:
        board.signal_service(signal.SIGCONT)
    on_jtop.wait_for(mode_is(0), "the return", patience_s=60.0)
