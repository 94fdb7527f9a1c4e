"""Shows a running daemon live in the terminal: the active point, its rivals, the resources, the last switches.

Asks the daemon as `dynhat status` does; changes nothing there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dynhat_runtime.daemon_client import (
    ask_decisions,
    ask_status,
    describe_resources,
    describe_slow_down,
    sensors_down,
)
from dynhat_runtime.errors import DaemonUnreachableError

NUM_DECISIONS = 32
NUM_SWITCHES = 5


def watch(url: str, interval_s: float, console: Console, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show the daemon until interrupted: redrawn in a terminal, line after line elsewhere.

    A daemon that stops answering is waited for, and that is shown.

    Raises:
        DaemonUnreachableError: None answers to begin with.
    """
    first = frame(url)
    if not console.is_terminal:
        console.print(line(url), soft_wrap=True)
        while True:
            sleep(interval_s)
            console.print(_or_complaint(line, url), soft_wrap=True)
    with Live(first, console=console, auto_refresh=False, screen=False) as live:
        while True:
            sleep(interval_s)
            live.update(_or_complaint(frame, url), refresh=True)


def _or_complaint(show: Callable[[str], Any], url: str) -> Any:
    try:
        return show(url)
    except DaemonUnreachableError as error:
        return Text(str(error))


def frame(url: str) -> Group:
    """One picture of the daemon.

    Raises:
        DaemonUnreachableError: It does not answer.
    """
    status, decisions = ask_status(url), ask_decisions(url, NUM_DECISIONS)
    parts: list[Any] = [_head(status)]
    if decisions:
        parts.append(_candidates(decisions[-1], status["active"]["id"]))
    if status["resources"] is not None:
        parts += [_resources(status["resources"]), *_complaints(status["resources"])]
    parts.append(_switches(decisions))
    return Group(*parts)


def line(url: str) -> Text:
    """The same in a line, for what is no terminal.

    Raises:
        DaemonUnreachableError: It does not answer.
    """
    status = ask_status(url)
    cpus = None if status["resources"] is None else status["resources"]["effective_cpus"]
    place = "" if cpus is None else f" cpus={cpus:g}"
    factor = status["slow_down_factor"]
    return Text(
        f"{time.strftime('%H:%M:%S')} point={status['active']['id']} mode={status['mode']} "
        f"slow_down={'?' if factor is None else f'{factor:.2f}'}{place} reason={status['reason']!r}"
    )


def _head(status: Mapping[str, Any]) -> Text:
    since = str(status["since"]).replace("T", " ").partition(".")[0]
    return Text.assemble(
        (status["active"]["id"], "bold"),
        f"  {status['mode']}, policy {status['policy']}, since {since} UTC\n{status['reason']}\n",
        describe_slow_down(status),
    )


def _candidates(decision: Mapping[str, Any], active: str) -> Table:
    """Every point with its prediction."""
    shown = Table(title=f"budget {decision['latency_budget_ms']:g} ms, confidence {decision['confidence']:g}")
    shown.add_column("")
    shown.add_column("point", no_wrap=True)
    for heading in ("predicted ms", "in time", "BLEU"):
        shown.add_column(heading, justify="right")
    shown.add_column("why not")
    for candidate in decision["candidates"]:
        is_active = candidate["point_id"] == active
        shown.add_row(
            ">" if is_active else "",
            candidate["point_id"],
            f"{candidate['predicted_ms']:.1f}",
            f"{candidate['probability_met']:.0%}",
            "-" if candidate["bleu"] is None else f"{candidate['bleu']:.1f}",
            candidate["why_not"] or "",
            style="bold" if is_active else "" if candidate["fits"] else "dim",
        )
    return shown


def _resources(resources: Mapping[str, Any]) -> Text:
    return Text(", ".join(f"{label} {text}" for label, text in describe_resources(resources)), style="dim")


def _complaints(resources: Mapping[str, Any]) -> list[Text]:
    return [Text(f"sensor down: {sensor}", style="red") for sensor in sensors_down(resources)]


def _switches(decisions: Sequence[Mapping[str, Any]]) -> Text:
    """The last switches, newest first; the latest decision's time is the present."""
    changes = [decision for decision in decisions if decision["changed"]][-NUM_SWITCHES:]
    if not changes:
        return Text("no switch yet")
    now_s = decisions[-1]["decided_monotonic_s"]
    return Text(
        "\n".join(
            f"{now_s - decision['decided_monotonic_s']:7.1f} s ago  "
            f"{decision['active_id']} -> {decision['point_id']}: {decision['reason']}"
            for decision in reversed(changes)
        )
    )
