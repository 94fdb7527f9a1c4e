"""`dynhat explain` and `dynhat watch`: what they say of a daemon, and how they end."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from dynhat_runtime import daemon_client, live_view
from dynhat_runtime.cli import app
from dynhat_runtime.service.lifecycle import Lifecycle, Serving
from tests.served import served
from tests.service_fakes import FakeControl, FakeDecision, FakeEngine


@pytest.fixture
def runner() -> CliRunner:
    """Runs the command in this process."""
    return CliRunner()


@pytest.fixture
def control() -> FakeControl:
    """A control loop after two decisions."""
    engine = FakeEngine()
    control = FakeControl(engine)
    control.log = [
        FakeDecision("p2", "p1", "p2 needs 40.0 ms, over the budget", "over_budget"),
        FakeDecision("p1", "p1", "nothing better fits", "best_fits"),
    ]
    return control


@pytest.fixture
def url(control: FakeControl) -> Iterator[str]:
    """Where its daemon listens."""
    lifecycle = Lifecycle()
    lifecycle.ready(Serving(control.engine, control))
    with served(lifecycle) as url:
        yield url


def explained(runner: CliRunner, url: str) -> str:
    """What `dynhat explain` prints."""
    result = runner.invoke(app, ["explain", "--url", url])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_explain(runner: CliRunner, control: FakeControl, url: str) -> None:
    """It says the point, since when, who chose it and why, what the next better lacks, the slow-down, dead sensors."""
    told = explained(runner, url)
    for words in (
        "p1 has been active since 2026-01-02T03:04:05",
        "chosen by the policy predictive: fits the budget of 35 ms.",
        "The next better, p2 (25.0 ms predicted, in time with probability 1.00): nothing speaks against it.",
        "1.25 times the table's latencies (+- 5%) and 2.5 ms besides decoding, predictions off by 4% (median).",
        "1 sensor is down: thermal: no such file.",
    ):
        assert words in told


def test_explain_what_a_better_point_lacks(runner: CliRunner, control: FakeControl, url: str) -> None:
    """The reason against the next better point is told; of the best point nothing is lacking."""
    control.pin("p2")
    told = explained(runner, url)
    assert "pinned by hand" in told
    assert "The next better, p3 (37.5 ms predicted" in told
    assert "37.5 ms is over the budget of 35.0 ms." in told
    control.pin("p3")
    assert "No operating point translates better than p3." in explained(runner, url)


def test_explain_before_any_decision(runner: CliRunner, control: FakeControl, url: str) -> None:
    """Before the first decision it says what there is to say."""
    control.log = []
    assert "p1 has been active since" in explained(runner, url)


def test_explain_in_json(runner: CliRunner, control: FakeControl, url: str) -> None:
    """--json is the sentences and the whole decision."""
    answer = json.loads(runner.invoke(app, ["explain", "--json", "--url", url]).stdout)
    assert set(answer) == {"explanation", "decision"}
    assert answer["explanation"].startswith("p1 has been active since")
    assert answer["decision"]["reason_code"] == "best_fits"
    assert len(answer["decision"]["candidates"]) == 3


def test_watch_once(runner: CliRunner, control: FakeControl, url: str) -> None:
    """One picture shows the active point, every candidate, the resources, dead sensors and the last switches."""
    result = runner.invoke(app, ["watch", "--once", "--url", url], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    rows = result.stdout.splitlines()
    for number, is_active in ((1, True), (2, False), (3, False)):
        (row,) = (row for row in rows if f" p{number} " in row and f" {12.5 * number:.1f} " in row)
        assert (">" in row) == is_active
        assert ("60%" in row) == (number == 3)
    for words in (
        "fits the budget of 35 ms",
        "budget 35 ms, confidence 0.95",
        "usable_cpus 0, 1",
        "sensor down: thermal: no such file",
        "p2 -> p1: p2 needs 40.0 ms, over the budget",
    ):
        assert words in result.stdout


def watched(url: str, num_looks: int, *, is_terminal: bool) -> str:
    """What `dynhat watch` wrote until it was interrupted."""
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=120, height=50)
    looks: list[float] = []

    def sleep(interval_s: float) -> None:
        looks.append(interval_s)
        if len(looks) > num_looks:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        live_view.watch(url, 0.25, console, sleep)
    assert set(looks) == {0.25}
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_watch_without_a_terminal(control: FakeControl, url: str) -> None:
    """Where there is no terminal each look is a line, without a single escape code."""
    lines = watched(url, 3, is_terminal=False).splitlines()
    assert len(lines) == 4
    for line in lines:
        assert "point=p1 mode=auto slow_down=1.25 cpus=1.5 reason='fits the budget of 35 ms'" in line
        assert "\x1b" not in line


def test_watch_in_a_terminal(control: FakeControl, url: str) -> None:
    """In a terminal the picture is drawn anew at every look, and the cursor is there again in the end."""
    written = watched(url, 3, is_terminal=True)
    assert written.count("fits the budget of 35 ms") >= 4
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l")


def test_watch_waits_for_a_daemon_that_went(
    control: FakeControl, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that stops answering is shown as that, and looked for again."""
    answers = iter([True, True, False, True])
    ask = daemon_client.ask_status

    def ask_or_not(url: str) -> dict[str, Any]:
        return ask(url if next(answers) else "http://127.0.0.1:1")

    monkeypatch.setattr(live_view, "ask_status", ask_or_not)
    _, missing, back = watched(url, 2, is_terminal=False).splitlines()
    assert "no daemon answers" in missing
    assert "point=p1" in back


def test_interrupted_watch(
    runner: CliRunner, control: FakeControl, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C is the way to end it: exit status 0."""

    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(live_view, "watch", interrupted)
    assert runner.invoke(app, ["watch", "--url", url]).exit_code == 0
