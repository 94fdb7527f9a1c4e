"""Commands that make models (extra [offline]): prepare data, train, export, import, convert, make a shortlist.

Imports nothing heavy until a command needs it, so that help and a refused option come at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynhat_runtime.cli.root import BundleOption, JsonOption, app, bundle_path, need_offline

DataDirOption = Annotated[Path, typer.Option(help="Folder below which the recipe's text files lie.")]
TrainDataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="The same; the run prepares its own data of it, unless --prepared is given."
    ),
]
PreparedOption = Annotated[
    Path | None, typer.Option(help="Folder that 'dynhat prepare-data' made with this recipe.")
]
RunDirOption = Annotated[Path, typer.Option(help="Folder of this training run; it is resumed if it exists.")]
RecipeArgument = Annotated[Path, typer.Argument(help="Training recipe, a TOML file.")]
SubTransformerOption = Annotated[
    str | None, typer.Option(metavar="POINT", help="Train this operating point alone, from scratch.")
]
PointBundleOption = Annotated[
    Path | None, typer.Option(help="Bundle that has the operating point; without it the shipped one.")
]
PointFileOption = Annotated[
    Path | None, typer.Option("--points", help="Any file of points that has the operating point instead.")
]
MaxUpdatesOption = Annotated[
    int | None, typer.Option(min=1, help="Updates instead of the recipe's; the schedule follows.")
]


@app.command("prepare-data")
def prepare_data(
    recipe: RecipeArgument,
    data_dir: DataDirOption,
    out: Annotated[Path, typer.Option(help="Folder to make, or to finish.")],
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="Sentencepiece model to use; without it one is trained on the clean text."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Clean, normalise and tokenise a recipe's text, and say what each filter removed. Ctrl-C, and the same goes on.

    The same text and recipe give the same bytes. Filters and their bounds: [data.cleaning] of the recipe. The folder is
    small enough to travel to another machine, where 'dynhat train --prepared' needs no text.

    \b
    Example:
      dynhat prepare-data recipes/en-de.toml --data-dir data --out prepared/en-de
      dynhat train recipes/en-de.toml --prepared prepared/en-de --run-dir runs/en-de
    """
    need_offline()
    from rich.console import Console

    from dynhat_runtime.offline.preparation_report import as_markdown
    from dynhat_runtime.offline.prepare import prepare
    from dynhat_runtime.offline.recipe import Recipe

    prepared = prepare(
        Recipe.load(recipe).data, data_dir, out, tokenizer=tokenizer, console=Console(stderr=True)
    )
    typer.echo(
        prepared.manifest.model_dump_json(indent=1) if as_json else as_markdown(prepared.manifest), nl=as_json
    )
    typer.echo(f"{out} is ready: train with 'dynhat train --prepared {out}'", err=True)


@app.command()
def train(
    recipe: RecipeArgument,
    run_dir: RunDirOption,
    data_dir: TrainDataDirOption = None,
    prepared: PreparedOption = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda:0 ...; without it CUDA if there is any.")
    ] = None,
    num_threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of this process; without it torch's default.")
    ] = None,
    subtransformer: SubTransformerOption = None,
    bundle: PointBundleOption = None,
    points_file: PointFileOption = None,
    max_updates: MaxUpdatesOption = None,
    start_from: Annotated[
        Path | None,
        typer.Option(
            metavar="BUNDLE",
            help="Begin with this bundle's weights and vocabulary; the recipe's design space may be larger.",
        ),
    ] = None,
) -> None:
    """Train a SuperTransformer, or one operating point alone. Ctrl-C saves; the same command goes on from there.

    \b
    Example:
      dynhat train recipes/en-de.toml --data-dir data --run-dir runs/en-de
      dynhat train recipes/en-de.toml --prepared prepared/en-de --run-dir runs/en-de
      torchrun --nproc-per-node 2 -m dynhat_runtime train recipes/en-de.toml \\
        --data-dir data --run-dir runs/en-de --num-threads 1
      dynhat train recipes/en-de.toml --data-dir data --run-dir runs/l3 --subtransformer l3
      dynhat train larger.toml --data-dir data --run-dir runs/larger --start-from operating_points/en-de
    """
    need_offline()
    import torch

    from dynhat_runtime.offline.run_recipe import recipe_to_run
    from dynhat_runtime.offline.train import train as train_run

    if num_threads:
        torch.set_num_threads(num_threads)
    asked = recipe_to_run(
        recipe, point_id=subtransformer, bundle=bundle, points_file=points_file, max_updates=max_updates
    )
    run = train_run(asked, data_dir, run_dir, prepared=prepared, device_name=device, start_from=start_from)
    typer.echo(f"saved in {run.path}; make a bundle with 'dynhat export'", err=True)


@app.command()
def export(
    recipe: RecipeArgument,
    run_dir: RunDirOption,
    out: Annotated[Path, typer.Option(help="Bundle folder to write.")],
    average: Annotated[int, typer.Option(min=1, help="Checkpoints to average, the last ones.")] = 5,
    subtransformer: SubTransformerOption = None,
    bundle: PointBundleOption = None,
    points_file: PointFileOption = None,
    max_updates: MaxUpdatesOption = None,
) -> None:
    """Write a training run's averaged checkpoints as a bundle, still without operating points.

    A run with --subtransformer, --points or --max-updates is exported with the same.

    \b
    Example:
      dynhat export recipes/en-de.toml --run-dir runs/en-de --out my-bundle
      dynhat profile --points --bundle my-bundle --from recipes/en-de-points.toml
      dynhat export recipes/en-de.toml --run-dir runs/l3 --out l3-alone --subtransformer l3
    """
    need_offline()
    from dynhat_runtime.offline.export import export_bundle
    from dynhat_runtime.offline.run_recipe import recipe_to_run

    asked = recipe_to_run(
        recipe, point_id=subtransformer, bundle=bundle, points_file=points_file, max_updates=max_updates
    )
    written = export_bundle(asked, run_dir, out, average)
    typer.echo(f"wrote {written.path}; measure its operating points with 'dynhat profile --points'", err=True)


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
    need_offline()
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


@app.command("make-shortlist")
def make_shortlist(
    data_dir: Annotated[Path, typer.Option(help="Folder below which the training text lies.")],
    bundle: BundleOption = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Names the text; without it the bundle's training record does.")
    ] = None,
    dev: Annotated[Path | None, typer.Option(help="Dev set (.tsv.gz) to measure what lists hold on.")] = None,
    per_token: Annotated[
        int | None, typer.Option(min=1, help="Target tokens a source token may have beside the common ones.")
    ] = None,
    common: Annotated[
        int | None, typer.Option(min=1, help="Most frequent target tokens, which every list has.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of pairs by the corpora's weights.")] = 1,
) -> None:
    """Learn which target tokens may translate which source tokens, and write that list into the bundle (minutes).

    A point with a shortlist scores some hundreds of tokens per step, not the whole vocabulary. Measure points with it
    afterwards: 'dynhat profile --points --shortlist', or 'dynhat export-points', where both kinds contend.

    \b
    Example:
      dynhat make-shortlist --bundle my-bundle --data-dir DATA --dev DEV.tsv.gz
      dynhat profile --points --bundle my-bundle --shortlist --test TEST.tsv.gz
    """
    need_offline()
    from dynhat_runtime.model.checkpoint import Bundle
    from dynhat_runtime.offline.make_shortlist import NUM_COMMON, NUM_PER_TOKEN, ShortlistOptions
    from dynhat_runtime.offline.make_shortlist import make_shortlist as make

    options = ShortlistOptions(per_token or NUM_PER_TOKEN, common or NUM_COMMON, seed)
    made = make(Bundle.open(bundle_path(bundle)), data_dir, options, recipe=recipe, dev=dev)
    if made.coverage is not None:
        found = made.coverage
        typer.echo(
            f"{found.token_fraction:.2%} of the reference tokens listed, {found.sentence_fraction:.1%} of the "
            f"references entirely; {found.mean_listed:.0f} tokens on a list"
        )
    typer.echo(
        f"wrote {made.size_bytes / 1024:.0f} KiB learned from {made.num_pairs} pairs into {made.bundle.path}; measure "
        "points with it: 'dynhat profile --points --shortlist'",
        err=True,
    )
