"""The daemon as a process of its own: it listens at once, loads, serves, drains and goes."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from dynhat_runtime.daemon import run
from dynhat_runtime.errors import SettingsError
from dynhat_runtime.listeners import open_listener
from dynhat_runtime.settings import load_settings
from tests.daemon_process import PATIENCE_S, Process, until

pytestmark = pytest.mark.daemon


def test_from_loading_to_gone(start: Callable[..., Process]) -> None:
    """It answers "loading" at once, says when it is ready, translates, and leaves with 0 on SIGTERM."""
    process = start("go")
    assert process.get("/health") == (503, {"status": "loading"})
    assert process.translate("a")[0] == 503
    assert not (process.folder / "heard-ready").exists()
    process.touch("load")
    line = process.line("ready: ")
    assert (process.folder / "heard-ready").exists()
    assert line.endswith(f"ready: {process.url} operating point p1 of 3, budget 35 ms")
    assert process.get("/health") == (200, {"status": "ok"})
    assert process.translate("a") == (200, {"translatedText": "A"})
    process.terminate()
    assert process.wait() == 0
    assert process.stopped() == ["control", "engine"]


def test_interrupt_is_a_way_to_stop(start: Callable[..., Process]) -> None:
    """SIGINT stops it as SIGTERM does."""
    process = start("load")
    process.line("ready: ")
    process.terminate(signal.SIGINT)
    assert process.wait() == 0


def test_drain(start: Callable[..., Process]) -> None:
    """On SIGTERM health says draining, new translations are refused, and the one in flight is finished."""
    process = start("load")
    process.line("ready: ")
    thread, answers = process.translate_meanwhile("a")
    until_in_flight(process)
    process.terminate()
    process.line("draining: 1 requests")
    assert process.get("/health") == (503, {"status": "draining"})
    assert process.translate("b")[0] == 503
    process.touch("go")
    thread.join(PATIENCE_S)
    assert answers == [(200, {"translatedText": "A"})]
    assert process.wait() == 0


@pytest.mark.parametrize("is_second_signal", [False, True])
def test_drain_ends(start: Callable[..., Process], is_second_signal: bool) -> None:
    """After the drain timeout, or a second signal, the request in flight is answered 503, exit 0."""
    process = start("load", drain_timeout_s=600 if is_second_signal else 0.2)
    process.line("ready: ")
    thread, answers = process.translate_meanwhile("a")
    until_in_flight(process)
    process.terminate()
    process.line("draining: 1 requests")
    if is_second_signal:
        process.terminate()
    thread.join(PATIENCE_S)
    assert answers[0][0] == 503
    assert process.wait() == 0
    assert process.stopped() == ["control", "engine"]


def until_in_flight(process: Process) -> None:
    """Return when the daemon has begun a translation: its engine notes it."""
    until((process.folder / "submitted").exists)


def test_stop_while_loading(start: Callable[..., Process]) -> None:
    """SIGTERM during loading ends it with 0, never ready, and what was started is stopped."""
    process = start()
    assert process.get("/health")[0] == 503
    process.terminate()
    process.line("draining: ")
    assert process.get("/health") == (503, {"status": "draining"})
    process.touch("load")
    assert process.wait() == 0
    assert not any("ready: " in line for line in process.lines)
    assert process.stopped() == ["control", "engine"]


def test_failed_loading(start: Callable[..., Process]) -> None:
    """A bundle that cannot be loaded ends it with 2 and one line that says why."""
    process = start("broken", "load")
    assert process.wait() == 2
    assert process.lines[-1] == "dynhat: error: weights.safetensors: truncated: fetch it again"
    assert not any("Traceback" in line for line in process.lines)


def test_port_in_use(start: Callable[..., Process]) -> None:
    """A port that another program has ends it at once with 2 and what to do."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        process = start(port=port)
        assert process.wait() == 2
    expected = f"port {port} on 127.0.0.1 is in use: stop the other program or give --port"
    assert process.lines == [f"dynhat: error: {expected}"]


@pytest.mark.parametrize("host", ["no.such.host.invalid", "198.51.100.1", "a" * 70])
def test_a_host_that_is_not_ours(host: str) -> None:
    """A host we cannot listen on is a setting at fault, named in one line."""
    with pytest.raises(SettingsError, match=f"host '?{host}"):
        open_listener(host, 0)


@pytest.mark.parametrize("name", ["bundle", "table"])
def test_a_path_that_is_not_there(tmp_path: Path, name: str) -> None:
    """A path that leads nowhere is refused before anything is loaded."""
    settings = load_settings(command_line={name: tmp_path / "absent", "port": 0})
    with pytest.raises(SettingsError, match=rf"{name} .*absent is not a"):
        run(settings)
