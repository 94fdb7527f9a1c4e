"""Commands that record a running daemon and replay the recording.

Imports nothing heavy until a command needs it, so that help and a refused option come at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dynhat_runtime.cli.root import DEFAULT_URL, BundleOption, JsonOption, UrlOption, app


@app.command()
def record(
    out: Annotated[Path, typer.Option(help="File to write, lines of JSON; it must not be there yet.")],
    url: UrlOption = DEFAULT_URL,
    seconds: Annotated[
        float | None,
        typer.Option(help="Time to record, in s; without it until Ctrl-C."),
    ] = None,
    max_mib: Annotated[float, typer.Option(help="Size at which to end, in MiB.")] = 1024,
) -> None:
    """Record what the running daemon senses, measures and decides: lengths and times, no texts.

    Begins with what the daemon still holds, about the last half hour. Ends with Ctrl-C, and nothing is lost.

    \b
    Example:
      dynhat record --out trace.jsonl --seconds 600
      dynhat replay trace.jsonl --out replayed
    """
    from dynhat_runtime.recording import TraceRecording, stopped_by_signals

    with stopped_by_signals() as stopping:
        recorded = TraceRecording(url, out, max_mib).run(stopping, seconds)
    lost = f", {recorded.num_lost} earlier ones were held no more" if recorded.num_lost else ""
    typer.echo(f"{recorded.ended_by}: {recorded.num_events} events in {out}{lost}", err=True)


@app.command()
def replay(
    trace: Annotated[Path, typer.Argument(help="Recording, a file by 'dynhat record'.")],
    bundle: BundleOption = None,
    table: Annotated[
        Path | None,
        typer.Option(help="Operating point table that was served; without it the bundle's that fits."),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="fixed, ladder, predictive or energy; without it the recorded one.")
    ] = None,
    latency_budget_ms: Annotated[
        float | None, typer.Option(help="Time one sentence may take, in ms; without it the recorded one.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for summary.json, decisions.jsonl and replay.png (extra [offline])."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Let the governor decide again on a recording, in virtual time: what it does, and what that would have meant.

    A translation on another point than recorded is taken to be as much slower than the table as the recorded one was.

    \b
    Example:
      dynhat replay trace.jsonl
      dynhat replay trace.jsonl --policy ladder --latency-budget-ms 40 --out replayed
    """
    from dynhat_runtime.replay.run import replay_trace
    from dynhat_runtime.replay.summary import summary_lines
    from dynhat_runtime.replay.tables import find_table, rules_of
    from dynhat_runtime.trace_file import TraceFile

    opened = TraceFile(trace)
    rules = rules_of(opened.header, policy, latency_budget_ms)
    found = find_table(opened.header, table, bundle)
    result = replay_trace(opened, found.table, rules, out)
    if not found.is_as_recorded:
        typer.echo(f"dynhat: {trace}: the operating points were measured again since", err=True)
    for line in result.flaws.lines():
        typer.echo(f"dynhat: {trace}: {line}", err=True)
    if as_json:
        typer.echo(json.dumps(result.as_dict(), indent=1))
        return
    for line in summary_lines(result.summary, rules):
        typer.echo(line)
