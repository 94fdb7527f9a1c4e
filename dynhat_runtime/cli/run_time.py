"""Commands of the run time: serve, ask and watch the daemon, list points, translate.

Imports nothing heavy until a command needs it, so that help and a refused option come at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from dynhat_runtime import startup
from dynhat_runtime.c_allocator import share_arenas
from dynhat_runtime.cli.root import (
    DEFAULT_URL,
    BundleOption,
    ConfigOption,
    JsonOption,
    TableOption,
    UrlOption,
    app,
    bundle_path,
)
from dynhat_runtime.errors import RequestError

if TYPE_CHECKING:
    from dynhat_runtime.operating_point import OperatingPointTable
    from dynhat_runtime.service.ports import EnginePort
    from dynhat_runtime.service.schemas import PointDescription

STOP_S = 5.0
"""What `translate` gives the engine to stop."""

QUEUE_LIMIT_SENTENCES = 65536
"""`translate` puts in one line at a time: only a monstrous line would not fit."""


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (127.0.0.1).")] = None,
    port: Annotated[
        int | None, typer.Option(help="TCP port to listen on (5000), 0 for any free one.")
    ] = None,
    bundle: BundleOption = None,
    table: TableOption = None,
    latency_budget_ms: Annotated[
        float | None, typer.Option(help="Time one sentence may take, in ms; without it the table's default.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="predictive (as it is without), ladder, energy or fixed.")
    ] = None,
    monitor: Annotated[
        str | None,
        typer.Option(help="What is sensed beside the host: auto (as it is without), host, jetson or nvml."),
    ] = None,
    key_file: Annotated[
        Path | None, typer.Option(help="TOML file of API keys; without it nobody is asked for one.")
    ] = None,
    allow_unauthenticated: Annotated[
        bool | None,
        typer.Option("--allow-unauthenticated", help="Listen beyond loopback without asking for keys."),
    ] = None,
    config: ConfigOption = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error (info).")] = None,
    log_format: Annotated[str | None, typer.Option(help="console or json (console).")] = None,
) -> None:
    """Run the translation daemon until it is told to stop.

    Settings also come from variables DYNHAT_... and from a TOML file; the command line wins. SIGHUP reads the file,
    keys and table anew; SIGTERM drains.

    \b
    Example:
      dynhat serve --port 5000 --latency-budget-ms 40
      curl -H 'Content-Type: application/json' \\
        -d '{"q": "Good morning.", "source": "en", "target": "de"}' localhost:5000/translate
    """
    command_line = {
        "host": host,
        "port": port,
        "bundle": bundle,
        "table": table,
        "latency_budget_ms": latency_budget_ms,
        "policy": policy,
        "monitor": monitor,
        "key_file": key_file,
        "allow_unauthenticated": allow_unauthenticated,
        "log_level": log_level,
        "log_format": log_format,
    }
    share_arenas()
    with startup.loading() as loaded:
        from dynhat_runtime.native.library import is_available

        if not is_available():  # then PyTorch decodes
            startup.begin_to_load_torch()
        from dynhat_runtime.settings import load_settings

        settings = load_settings(config, command_line)
        from dynhat_runtime.daemon import run

        raise typer.Exit(run(settings, reread=lambda: load_settings(config, command_line), on_ready=loaded))


@app.command()
def status(
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Ask the running daemon for its operating point, and why it is that one.

    \b
    Example:
      dynhat status --url http://127.0.0.1:5000
    """
    from dynhat_runtime.daemon_client import ask_status, describe_status

    answer = ask_status(url)
    if as_json:
        typer.echo(json.dumps(answer, indent=1))
        return
    for line in describe_status(answer):
        typer.echo(line)


@app.command()
def explain(url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Say in a few sentences why the running daemon is on its operating point.

    \b
    Example:
      dynhat explain --url http://127.0.0.1:5000
    """
    from dynhat_runtime.daemon_client import ask_decisions, ask_status
    from dynhat_runtime.daemon_client import explain as sentences_about

    status_answer, decisions = ask_status(url), ask_decisions(url, 1)
    sentences = list(sentences_about(status_answer, decisions))
    if as_json:
        latest = decisions[-1] if decisions else None
        typer.echo(json.dumps({"explanation": " ".join(sentences), "decision": latest}, indent=1))
        return
    for sentence in sentences:
        typer.echo(sentence)


@app.command()
def watch(
    url: UrlOption = DEFAULT_URL,
    interval_s: Annotated[float, typer.Option(min=0.1, max=3600, help="Time between two looks, in s.")] = 0.5,
    once: Annotated[bool, typer.Option("--once", help="Show one picture and end.")] = False,
) -> None:
    """Watch the running daemon decide, until Ctrl-C. Where the output is no terminal, a line is printed each time.

    \b
    Example:
      dynhat watch
      dynhat watch --once --url http://127.0.0.1:5000
    """
    from rich.console import Console

    from dynhat_runtime import live_view

    console = Console()
    if once:
        console.print(live_view.frame(url))
        return
    try:
        live_view.watch(url, interval_s, console)
    except KeyboardInterrupt:
        typer.echo()


@app.command()
def points(bundle: BundleOption = None, table: TableOption = None, as_json: JsonOption = False) -> None:
    """List the operating points, fastest first.

    \b
    Example:
      dynhat points
      dynhat points --json | python3 -m json.tool
    """
    from dynhat_runtime.service.schemas import PointDescription

    found = _load_table(bundle, table)
    described = [PointDescription.of(point, found) for point in found]
    if as_json:
        typer.echo(json.dumps([point.model_dump(mode="json") for point in described], indent=1))
    else:
        _print_points(described, found)


@app.command()
def translate(
    bundle: BundleOption = None,
    point: Annotated[str | None, typer.Option(help="Operating point id; without it the best one.")] = None,
    beam: Annotated[int, typer.Option(min=1, max=16, help="Hypotheses kept per sentence.")] = 4,
) -> None:
    """Translate standard input to standard output, line by line, with one fixed operating point.

    \b
    Example:
      echo 'Good morning.' | dynhat translate --beam 4
    """
    with startup.loading():
        from dynhat_runtime.engine import TranslationEngine
        from dynhat_runtime.model.checkpoint import Bundle
        from dynhat_runtime.queue_load import QueueLimits

        opened = Bundle.open(bundle_path(bundle))
        table = _only_point(opened.table(None), point)
        engine = TranslationEngine.load(
            opened, table, beam_size=beam, queue_limits=QueueLimits(sentences=QUEUE_LIMIT_SENTENCES)
        )
    engine.start()
    try:
        for translated in translate_lines(engine, sys.stdin.buffer):
            sys.stdout.buffer.write(f"{translated}\n".encode())
            sys.stdout.buffer.flush()
    finally:
        engine.stop(STOP_S)


def translate_lines(engine: EnginePort, lines: BinaryIO | Iterable[bytes]) -> Iterator[str]:
    """Each line's translation as soon as it is there; a blank line stays an empty one.

    Raises:
        RequestError: A line is not UTF-8.
    """
    for number, raw in enumerate(lines, start=1):
        try:
            line = raw.decode("utf-8").strip()
        except UnicodeDecodeError:
            raise RequestError(f"line {number} is not UTF-8: convert it first, with iconv", "stdin") from None
        yield " ".join(engine.submit([line]).result()[0].text.splitlines()) if line else ""


def _load_table(bundle: Path | None, table: Path | None) -> OperatingPointTable:
    """The table asked for; a bundle is opened only when it has to say which."""
    from dynhat_runtime.operating_point import OperatingPointTable

    if table is not None and bundle is None:
        return OperatingPointTable.load(table)
    from dynhat_runtime.model.checkpoint import Bundle

    return Bundle.open(bundle_path(bundle)).table(table)


def _only_point(table: OperatingPointTable, point_id: str | None) -> OperatingPointTable:
    """`table` with one point: the one asked for, or the best.

    Raises:
        UnknownOperatingPointError: Listing the ids there are.
    """
    point = table.best if point_id is None else table[point_id]
    return table.model_copy(update={"points": (point,)})


def _print_points(described: list[PointDescription], table: OperatingPointTable) -> None:
    """A table for people; no wider than a terminal of 80 columns, whose headings must not be cut."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=f"{table.device.name}, beam {table.device.beam_size}")
    shown.add_column("point", no_wrap=True, min_width=max(len(point.id) for point in described))
    shown.add_column("precision", no_wrap=True)
    for heading in ("latency ms", "weights M", "dev loss", "BLEU", "layers enc + dec"):
        shown.add_column(heading, justify="right")
    for point in described:
        shown.add_row(
            point.id,
            point.precision,
            f"{point.latency_ms:.1f}",
            f"{point.num_parameters / 1e6:.1f}",
            "-" if point.dev_loss is None else f"{point.dev_loss:.3f}",
            "-" if point.bleu is None else f"{point.bleu:.1f}",
            f"{point.config.num_encoder_layers} + {point.config.num_decoder_layers}",
        )
    Console().print(shown)
