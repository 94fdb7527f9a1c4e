"""The command `dynhat`: each subcommand reads its options and calls the library.

Imports nothing heavy until a command needs it, so that help and a refused option come at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer
from typer.core import TyperGroup

from dynhat_runtime import __version__
from dynhat_runtime.errors import DynhatError, RequestError, SettingsError

if TYPE_CHECKING:
    from dynhat_runtime.operating_point import OperatingPointTable
    from dynhat_runtime.service.ports import EnginePort
    from dynhat_runtime.service.schemas import PointDescription

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""

STOP_S = 5.0
"""What `translate` gives the engine to stop."""

QUEUE_LIMIT_SENTENCES = 65536
"""`translate` puts in one line at a time: only a monstrous line would not fit."""


class _Commands(TyperGroup):
    """All commands; an error of ours ends any of them with one line and its exit status."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except DynhatError as error:
            typer.echo(f"dynhat: error: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="dynhat",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Entry point of the command."""
    app(prog_name="dynhat")


BundleOption = Annotated[Path | None, typer.Option(help="Bundle folder; without it the shipped one.")]
TableOption = Annotated[
    Path | None, typer.Option(help="Operating point table file; without it the bundle's best match.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]


def _print_version(is_asked: bool) -> None:
    """Answer --version."""
    if is_asked:
        typer.echo(f"dynhat {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Translation on the device, as good as its resources allow within a latency budget."""


# --- run time ---


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
    config: Annotated[
        Path | None, typer.Option(help="TOML file with settings; without it the one DYNHAT_CONFIG names.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error (info).")] = None,
) -> None:
    """Run the translation daemon until it is told to stop.

    Settings also come from variables DYNHAT_... and from a TOML file; the command line wins.

    \b
    Example:
      dynhat serve --port 5000 --latency-budget-ms 40
      curl -H 'Content-Type: application/json' \\
        -d '{"q": "Good morning.", "source": "en", "target": "de"}' localhost:5000/translate
    """
    from dynhat_runtime.settings import load_settings

    command_line = {
        "host": host,
        "port": port,
        "bundle": bundle,
        "table": table,
        "latency_budget_ms": latency_budget_ms,
        "log_level": log_level,
    }
    settings = load_settings(config, command_line)
    from dynhat_runtime.daemon import run

    raise typer.Exit(run(settings))


@app.command()
def status(
    url: Annotated[str, typer.Option(help="Where the daemon listens.")] = "http://127.0.0.1:5000",
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
    from dynhat_runtime.engine import TranslationEngine
    from dynhat_runtime.model.checkpoint import Bundle

    opened = Bundle.open(_bundle_path(bundle))
    table = _only_point(opened.table(None), point)
    engine = TranslationEngine.load(
        opened, table, beam_size=beam, queue_limit_sentences=QUEUE_LIMIT_SENTENCES
    )
    engine.start()
    try:
        for translated in translate_lines(engine, sys.stdin.buffer):
            sys.stdout.buffer.write(f"{translated}\n".encode())
            sys.stdout.buffer.flush()
    finally:
        engine.stop(STOP_S)


# --- design time (extra [offline]) ---


DataDirOption = Annotated[Path, typer.Option(help="Folder below which the recipe's text files lie.")]
RunDirOption = Annotated[Path, typer.Option(help="Folder of this training run; it is resumed if it exists.")]
RecipeArgument = Annotated[Path, typer.Argument(help="Training recipe, a TOML file.")]


@app.command()
def train(
    recipe: RecipeArgument,
    data_dir: DataDirOption,
    run_dir: RunDirOption,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda:0 ...; without it CUDA if there is any.")
    ] = None,
    num_threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of this process; without it torch's default.")
    ] = None,
) -> None:
    """Train a SuperTransformer. Ctrl-C saves; the same command goes on from there.

    \b
    Example:
      dynhat train recipes/en-de.toml --data-dir data --run-dir runs/en-de
      torchrun --nproc-per-node 2 -m dynhat_runtime train recipes/en-de.toml \\
        --data-dir data --run-dir runs/en-de --num-threads 1
    """
    _need_offline()
    import torch

    from dynhat_runtime.offline.recipe import Recipe
    from dynhat_runtime.offline.train import train as train_run

    if num_threads:
        torch.set_num_threads(num_threads)
    run = train_run(Recipe.load(recipe), data_dir, run_dir, device_name=device)
    typer.echo(f"saved in {run.path}; make a bundle with 'dynhat export'", err=True)


@app.command()
def export(
    recipe: RecipeArgument,
    run_dir: RunDirOption,
    out: Annotated[Path, typer.Option(help="Bundle folder to write.")],
    average: Annotated[int, typer.Option(min=1, help="Checkpoints to average, the last ones.")] = 5,
) -> None:
    """Write a training run's averaged checkpoints as a bundle, still without operating points.

    \b
    Example:
      dynhat export recipes/en-de.toml --run-dir runs/en-de --out my-bundle
      dynhat profile --points --bundle my-bundle --from recipes/en-de-points.toml
    """
    _need_offline()
    from dynhat_runtime.offline.export import export_bundle
    from dynhat_runtime.offline.recipe import Recipe

    bundle = export_bundle(Recipe.load(recipe), run_dir, out, average)
    typer.echo(f"wrote {bundle.path}; measure its operating points with 'dynhat profile --points'", err=True)


@app.command(name="import-hat")
def import_hat(
    checkpoints: Annotated[list[Path], typer.Argument(help="Checkpoints (.pt); several are averaged.")],
    dictionary: Annotated[Path, typer.Option("--dict", help="fairseq dictionary of the source, or of both.")],
    out: Annotated[Path, typer.Option(help="Bundle folder to write.")],
    tgt_dict: Annotated[Path | None, typer.Option(help="Target dictionary, if it is another one.")] = None,
    bpe_codes: Annotated[Path | None, typer.Option(help="BPE codes; without them no BPE.")] = None,
    space: Annotated[
        str | None, typer.Option(help="Preset or HAT's YAML file; without it found from the checkpoint.")
    ] = None,
    src_lang: Annotated[str | None, typer.Option(help="Such as en; without it the checkpoint's.")] = None,
    tgt_lang: Annotated[str | None, typer.Option(help="Such as de; without it the checkpoint's.")] = None,
    points_file: Annotated[
        Path | None, typer.Option("--points", help="Points to measure; without it the paper's Table II.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Published points of this device, such as jetson-nano-cpu.")
    ] = None,
    keep_fp32: Annotated[bool, typer.Option("--keep-fp32", help="Store single precision.")] = False,
    no_profile: Annotated[bool, typer.Option("--no-profile", help="Measure nothing yet.")] = False,
) -> None:
    """Make a bundle of a HAT or fairseq checkpoint, and measure its points here with few runs (minutes).

    \b
    Example:
      dynhat import-hat HAT_wmt14ende_super_space0.pt --dict dict.en.txt --bpe-codes bpe.codes --out my-bundle
      dynhat serve --bundle my-bundle
    """
    _need_offline()
    import torch

    from dynhat_runtime.offline.commands import design_space_called, import_bundle
    from dynhat_runtime.offline.hat_bundle import ImportOptions

    bundle = import_bundle(
        checkpoints,
        ImportOptions(
            dictionary=dictionary,
            tgt_dictionary=tgt_dict,
            bpe_codes=bpe_codes,
            space=None if space is None else design_space_called(space),
            src_lang=src_lang,
            tgt_lang=tgt_lang,
            dtype=torch.float32 if keep_fp32 else torch.float16,
        ),
        out,
        points_file=points_file,
        points_device=device,
        does_profile=not no_profile,
    )
    then = "measure its points with 'dynhat profile --points --from FILE'" if no_profile else "serve it"
    typer.echo(f"wrote {bundle.path} (design space {bundle.design_space.name}); {then}", err=True)


@app.command()
def profile(
    measure_points: Annotated[
        bool, typer.Option("--points", help="Measure the operating points of the bundle's table.")
    ] = False,
    bundle: BundleOption = None,
    points_file: Annotated[
        Path | None,
        typer.Option("--from", help="Points instead of the table's: TOML, published .json, HAT's .yml."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Of published points those of this device, such as jetson-nano-gpu.")
    ] = None,
    dev: Annotated[
        Path | None, typer.Option(help="Dev set (.tsv.gz): measure each point's dev loss.")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="Test set (.tsv.gz): measure each point's BLEU.")] = None,
    runs: Annotated[int, typer.Option(min=5, help="Timed runs per point, length and CPU count.")] = 30,
    beam: Annotated[int, typer.Option(min=1, max=16, help="Beam to measure with; serve with the same.")] = 4,
    out: Annotated[Path | None, typer.Option(help="Write the table here instead of into the bundle.")] = None,
) -> None:
    """Measure operating points on this device: latency at several lengths and CPU counts, and quality.

    Quality is carried over from the present table unless --dev or --test measure it again.

    \b
    Example:
      dynhat profile --points
      dynhat profile --points --out nano.json && dynhat serve --table nano.json
    """
    _need_offline()
    if not measure_points:
        raise SettingsError("profile needs to know what to measure: give --points")
    from dynhat_runtime.offline.commands import profile_bundle
    from dynhat_runtime.offline.profile import ProfileOptions

    where = profile_bundle(
        _bundle_path(bundle),
        points_file=points_file,
        points_device=device,
        dev=dev,
        test=test,
        options=ProfileOptions(num_runs=runs, beam_size=beam),
        out=out,
    )
    typer.echo(f"wrote {where}", err=True)


@app.command()
def evaluate(
    test: Annotated[Path, typer.Option(help="Test set: gzipped TSV, source, tab, reference.")],
    bundle: BundleOption = None,
    point: Annotated[str | None, typer.Option(help="One operating point; without it all of them.")] = None,
    beam: Annotated[int, typer.Option(min=1, max=16, help="Hypotheses kept per sentence.")] = 4,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many sentences.")] = None,
    compound_split: Annotated[
        bool, typer.Option("--compound-split", help="Also HAT's BLEU: Moses words, compounds split.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Score operating points on a test set: BLEU and chrF with sacreBLEU's signatures.

    \b
    Example:
      dynhat evaluate --test data/test/tatoeba_test.tsv.gz --point l6
    """
    _need_offline()
    from dynhat_runtime.offline.commands import evaluate_bundle

    rows = evaluate_bundle(
        _bundle_path(bundle), test, point_id=point, beam_size=beam, limit=limit, compound_split=compound_split
    )
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        typer.echo(
            f"{row['id']}: BLEU {row['bleu']:.2f}  chrF {row['chrf']:.2f}"
            + (f"  compound-split BLEU {row['compound_split_bleu']:.2f}" if compound_split else "")
            + f"  ({row['num_sentences']} sentences)"
        )
    for signature in ("bleu_signature", "chrf_signature", "compound_split_bleu_signature"):
        if signature in rows[0]:
            typer.echo(rows[0][signature])


@app.command("export-ctranslate2")
def export_ctranslate2(
    point: Annotated[str, typer.Argument(help="Operating point to convert.")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    bundle: BundleOption = None,
    quantization: Annotated[str, typer.Option(help="Of the weights: float32, int8, ...")] = "float32",
) -> None:
    """Convert one operating point to CTranslate2, where CTranslate2 can express its architecture.

    \b
    Example:
      dynhat export-ctranslate2 l6 --out l6-ct2 --quantization int8
    """
    from dynhat_runtime.offline.export_ctranslate2 import export_point

    where = export_point(_bundle_path(bundle), point, out, quantization)
    typer.echo(f"wrote {where}", err=True)


def _need_offline() -> None:
    """Say what to install when the design-time libraries are not there.

    Raises:
        SettingsError: With the command that installs them.
    """
    from importlib.util import find_spec

    missing = [name for name in ("sacrebleu", "matplotlib", "yaml") if find_spec(name) is None]
    if missing:
        raise SettingsError(f"{missing[0]} is not installed: pip install 'dynhat-runtime[offline]'")


def _bundle_path(bundle: Path | None) -> Path:
    """The bundle's folder: the one asked for, or the shipped one."""
    if bundle is not None:
        return bundle
    from dynhat_runtime.model.checkpoint import shipped_bundle_path

    return shipped_bundle_path()


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

    return Bundle.open(_bundle_path(bundle)).table(table)


def _only_point(table: OperatingPointTable, point_id: str | None) -> OperatingPointTable:
    """`table` with one point: the one asked for, or the best.

    Raises:
        UnknownOperatingPointError: Listing the ids there are.
    """
    point = table.best if point_id is None else table[point_id]
    return table.model_copy(update={"points": (point,)})


def _print_points(described: list[PointDescription], table: OperatingPointTable) -> None:
    """A table for people."""
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=f"{table.device.name}, {table.device.precision}, beam {table.device.beam_size}")
    shown.add_column("point", no_wrap=True, min_width=max(len(point.id) for point in described))
    for heading in ("latency ms", "parameters M", "dev loss", "BLEU", "encoder layers", "decoder layers"):
        shown.add_column(heading, justify="right")
    for point in described:
        shown.add_row(
            point.id,
            f"{point.latency_ms:.1f}",
            f"{point.num_parameters / 1e6:.1f}",
            "-" if point.dev_loss is None else f"{point.dev_loss:.3f}",
            "-" if point.bleu is None else f"{point.bleu:.1f}",
            str(point.config.num_encoder_layers),
            str(point.config.num_decoder_layers),
        )
    Console().print(shown)
