"""The command: what it prints, what it imports, and how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from dynhat_runtime import __version__, daemon_client
from dynhat_runtime.cli import app
from dynhat_runtime.cli.run_time import translate_lines
from dynhat_runtime.errors import RequestError
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from tests.served import served
from tests.service_fakes import FakeControl, FakeEngine, make_table

ROOT = Path(__file__).parent.parent
COMMANDS = [
    "serve",
    "status",
    "explain",
    "watch",
    "points",
    "translate",
    "prepare-data",
    "train",
    "export",
    "import-hat",
    "profile",
    "fit-predictor",
    "search",
    "export-points",
    "evaluate",
    "reduce-space",
    "report",
    "report-quality",
    "export-ctranslate2",
    "make-shortlist",
]


@pytest.fixture
def runner() -> CliRunner:
    """Runs the command in this process."""
    return CliRunner()


@pytest.fixture
def table_path(tmp_path: Path) -> Path:
    """A table of three points in a file."""
    path = tmp_path / "table.json"
    make_table().save(path)
    return path


def run_python(*args: str) -> subprocess.CompletedProcess[str]:
    """Run this Python on our package in a process of its own."""
    return subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )


# --- the command as such ---


def test_module_is_the_command() -> None:
    """`python -m dynhat_runtime` is `dynhat`."""
    done = run_python("-m", "dynhat_runtime", "--version")
    assert (done.returncode, done.stdout) == (0, f"dynhat {__version__}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--port", "99999"]])
def test_help_and_refusals_import_no_torch(arguments: list[str]) -> None:
    """Help and a refused setting come without loading torch or a web framework."""
    code = (
        "import sys, dynhat_runtime.cli as cli\n"
        f"sys.argv = ['dynhat', *{arguments!r}]\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'fastapi', 'uvicorn') if name in sys.modules])"
    )
    assert run_python("-c", code).stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_teaches_by_example(runner: CliRunner, command: str) -> None:
    """The help of a command shows it in use."""
    result = runner.invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Example:" in result.output
    assert f"dynhat {command}" in result.output.partition("Example:")[2]


def test_our_errors_are_one_line(runner: CliRunner) -> None:
    """An error of ours is one line on stderr and the error's exit status, without a traceback."""
    result = runner.invoke(app, ["serve", "--port", "99999"])
    assert result.exit_code == 2
    assert result.stderr.startswith("dynhat: error: setting port = 99999 (on the command line): ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_an_unknown_policy(runner: CliRunner) -> None:
    """A policy there is not ends the daemon at once, naming those there are."""
    result = runner.invoke(app, ["serve", "--policy", "bold"])
    assert result.exit_code == 2
    assert "policy = 'bold' (on the command line)" in result.stderr
    for name in ("fixed", "ladder", "predictive", "energy"):
        assert name in result.stderr


def test_interrupt(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends a command with 130."""

    def interrupted(_url: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(daemon_client, "ask_status", interrupted)
    assert runner.invoke(app, ["status"]).exit_code == 130


# --- points ---


def test_points_in_json(runner: CliRunner, table_path: Path) -> None:
    """--json lists objects, fastest first, each with its id."""
    result = runner.invoke(app, ["points", "--table", str(table_path), "--json"])
    points = json.loads(result.stdout)
    assert [(point["id"], point["latency_ms"]) for point in points] == [("p1", 10), ("p2", 20), ("p3", 30)]


def test_points_for_people(runner: CliRunner, table_path: Path) -> None:
    """Without --json every point has a row with its id, latency and BLEU, fastest first."""
    output = runner.invoke(app, ["points", "--table", str(table_path)]).stdout
    rows = [line for line in output.splitlines() if any(f" p{number} " in line for number in (1, 2, 3))]
    assert len(rows) == 3
    for number, row in enumerate(rows, start=1):
        assert f" p{number} " in row
        assert f" {number}0.0 " in row
        assert f" {20 + number}.0 " in row


def test_points_of_a_missing_table(runner: CliRunner, tmp_path: Path) -> None:
    """A table that is not there is named, with exit status 2."""
    result = runner.invoke(app, ["points", "--table", str(tmp_path / "absent.json")])
    assert result.exit_code == 2
    assert "absent.json: cannot be read" in result.stderr


# --- translate ---


def test_lines_one_for_one() -> None:
    """Every line has its line, blank ones stay empty, and a missing last newline does not matter."""
    lines = [b"one\n", b"\n", b"  \r\n", "zwölf\r\n".encode(), b"end"]
    assert list(translate_lines(FakeEngine(), lines)) == ["ONE", "", "", "ZWÖLF", "END"]


def test_lines_are_streamed() -> None:
    """A line is translated before the next is read."""
    engine = FakeEngine()

    def lines() -> Iterator[bytes]:
        yield b"one\n"
        assert engine.submitted == [["one"]]
        yield b"two\n"

    assert list(translate_lines(engine, lines())) == ["ONE", "TWO"]


def test_a_translation_stays_on_its_line() -> None:
    """A translation with a line break in it is still one line."""
    assert list(translate_lines(FakeEngine(), ["a\u2028b\n".encode()])) == ["A B"]


def test_a_line_that_is_not_text() -> None:
    """A line that is not UTF-8 is named by its number, after the lines before it were answered."""
    translated = translate_lines(FakeEngine(), [b"one\n", b"\xff\n"])
    assert next(translated) == "ONE"
    with pytest.raises(RequestError, match="line 2 is not UTF-8"):
        next(translated)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[FakeEngine]:
    """Fakes in place of the bundle and the engine; lists the engines that were loaded."""
    engines: list[FakeEngine] = []

    class FakeBundle:
        @staticmethod
        def open(path: Path) -> FakeBundle:
            return FakeBundle()

        def table(self, path: Path | None) -> OperatingPointTable:
            return make_table()

    class Loader:
        @staticmethod
        def load(_bundle: FakeBundle, table: OperatingPointTable, **_options: int) -> FakeEngine:
            engines.append(FakeEngine(table))
            return engines[-1]

    engine_module = ModuleType("engine")
    engine_module.TranslationEngine = Loader  # type: ignore[attr-defined]
    checkpoint = ModuleType("checkpoint")
    checkpoint.Bundle = FakeBundle  # type: ignore[attr-defined]
    checkpoint.shipped_bundle_path = Path  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "dynhat_runtime.engine", engine_module)
    monkeypatch.setitem(sys.modules, "dynhat_runtime.model.checkpoint", checkpoint)
    return engines


@pytest.mark.parametrize(("options", "point"), [([], "p3"), (["--point", "p2"], "p2")])
def test_translate_with_one_point(
    runner: CliRunner, loaded: list[FakeEngine], options: list[str], point: str
) -> None:
    """Standard input is translated with the point asked for, or the best; the engine is stopped after."""
    result = runner.invoke(app, ["translate", *options], input="one\n\ntwo\n")
    assert (result.exit_code, result.stdout) == (0, "ONE\n\nTWO\n")
    assert [engine.active_point_id for engine in loaded] == [point]
    assert loaded[0].is_stopped


def test_translate_with_an_unknown_point(runner: CliRunner, loaded: list[FakeEngine]) -> None:
    """An unknown point lists those there are, before anything is loaded."""
    result = runner.invoke(app, ["translate", "--point", "p9"], input="one\n")
    assert result.exit_code == 2
    assert "p1, p2, p3" in result.stderr
    assert loaded == []


# --- status ---


@pytest.fixture
def lifecycle() -> Lifecycle:
    """A daemon that loads."""
    return Lifecycle()


@pytest.fixture
def url(lifecycle: Lifecycle) -> Iterator[str]:
    """A real server around a daemon that loads."""
    with served(lifecycle) as url:
        yield url


def test_status(runner: CliRunner, lifecycle: Lifecycle, url: str) -> None:
    """Status says point, mode, since when, why, and the resources that are known, with units."""
    engine = FakeEngine()
    lifecycle.ready(Serving(engine, FakeControl(engine)))
    result = runner.invoke(app, ["status", "--url", url])
    assert result.exit_code == 0
    for words in (
        "p1 (10 ms",
        "auto",
        "2026-01-02T03:04:05",
        "fits the budget of 35 ms",
        "usable_cpus",
        "0, 1",
    ):
        assert words in result.stdout
    assert "temperature" not in result.stdout


def test_status_in_json(runner: CliRunner, lifecycle: Lifecycle, url: str) -> None:
    """--json is the daemon's own answer; a slash at the end of the address does not matter."""
    engine = FakeEngine()
    lifecycle.ready(Serving(engine, FakeControl(engine)))
    answer = json.loads(runner.invoke(app, ["status", "--url", f"{url}/", "--json"]).stdout)
    assert answer["active"]["id"] == "p1"
    assert {"active", "mode", "since", "reason", "resources"} <= set(answer)


def test_status_names_sensors_that_are_down(runner: CliRunner, lifecycle: Lifecycle, url: str) -> None:
    """A sensor that does not answer is named with what it said last; one that does is not."""
    engine = FakeEngine()
    lifecycle.ready(Serving(engine, FakeControl(engine)))
    output = runner.invoke(app, ["status", "--url", url]).stdout
    assert re.search(r"sensor down +thermal: no such file", output)
    assert output.count("sensor") == 1


def test_status_of_a_daemon_that_loads(runner: CliRunner, url: str) -> None:
    """A daemon that is not ready is reported as that, with exit status 1."""
    result = runner.invoke(app, ["status", "--url", url])
    assert result.exit_code == 1
    assert "not ready (loading)" in result.stderr


@pytest.mark.parametrize("command", ["status", "explain", "watch"])
@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1", "nonsense", "http://127.0.0.1:99999", "file:///etc"]
)
def test_no_daemon(runner: CliRunner, command: str, address: str) -> None:
    """Where no daemon answers, one line says so and how to start one, with exit status 1."""
    result = runner.invoke(app, [command, "--url", address])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"dynhat: error: no daemon answers at {address} ")
    assert "dynhat serve" in result.stderr
    assert result.stderr.count("\n") == 1


def test_resources_have_units() -> None:
    """Values are shown in the units people use, and a missing reading is said to be missing."""
    point = {"id": "p1", "latency_ms": 10.0}
    status = {
        "active": point,
        "mode": "auto",
        "policy": "predictive",
        "since": "now",
        "reason": "x",
        "slow_down_factor": 1.5,
        "slow_down_std": 0.1,
        "handling_ms": 0.0,
        "prediction_error_fraction": None,
    }
    resources = {"cpu_max_frequency_hz": 1.9e9, "cpu_load_fraction": 0.25, "temperature_celsius": 61.5}
    shown = "\n".join(daemon_client.describe_status({**status, "resources": resources}))
    for words in ("1900 MHz", "25 %", "61.5 °C", "1.50 times the table's latencies (+- 10%)"):
        assert words in shown
    assert "not read yet" in "\n".join(daemon_client.describe_status({**status, "resources": None}))
