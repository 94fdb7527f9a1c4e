"""Commands of the design time (extra [offline]): train, measure, search, score, export, import.

Imports nothing heavy until a command needs it, so that help and a refused option come at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dynhat_runtime.cli.root import BundleOption, JsonOption, app, bundle_path
from dynhat_runtime.errors import SettingsError

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
        bundle_path(bundle),
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
        bundle_path(bundle), test, point_id=point, beam_size=beam, limit=limit, compound_split=compound_split
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


@app.command("fit-predictor")
def fit_predictor(
    dataset: Annotated[Path, typer.Argument(metavar="CSV", help="Latency dataset, ours or HAT's.")],
    out: Annotated[
        Path | None, typer.Option(help="Predictor file to write (JSON); without it nothing is written.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Names the device of a file that names none, as HAT's do.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Only rows measured so, such as num_cpus=2; repeatable.")
    ] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Bundle of the genes' design space, if it is no preset.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the split into training, validation and test rows.")
    ] = 0,
    no_hat: Annotated[
        bool, typer.Option("--no-hat", help="Do not retrain HAT's predictor beside ours.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Fit a latency predictor and test it on unseen rows, beside HAT's retrained on the same rows (a minute).

    \b
    Example:
      dynhat fit-predictor latency.csv --where num_cpus=2 --out predictor.json
      dynhat fit-predictor wmt14ende_xeon_cpu.csv --device xeon --json
    """
    _need_offline()
    from dynhat_runtime.offline.predictor_commands import fit_and_save, summary, table

    predictor = fit_and_save(
        dataset, out, device=device, where=where or (), bundle=bundle, seed=seed, compares_with_hat=not no_hat
    )
    typer.echo(json.dumps(summary(predictor), indent=1) if as_json else table(predictor))
    typer.echo(f"wrote {out}" if out else "nothing written: give --out FILE to keep the predictor", err=True)


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

    where = export_point(bundle_path(bundle), point, out, quantization)
    typer.echo(f"wrote {where}", err=True)


def _need_offline() -> None:
    """Say what to install when the design-time libraries are not there.

    Raises:
        SettingsError: With the command that installs them.
    """
    from importlib.util import find_spec

    missing = [name for name in ("sacrebleu", "matplotlib", "yaml", "pymoo") if find_spec(name) is None]
    if missing:
        raise SettingsError(f"{missing[0]} is not installed: pip install 'dynhat-runtime[offline]'")
