"""Commands of the design time (extra [offline]): train, measure, search, score, export, import.

Imports nothing heavy until a command needs it, so that help and a refused option come at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dynhat_runtime.cli.root import BundleOption, JsonOption, TableOption, app, bundle_path
from dynhat_runtime.errors import SettingsError

DataDirOption = Annotated[Path, typer.Option(help="Folder below which the recipe's text files lie.")]
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
    subtransformer: SubTransformerOption = None,
    bundle: PointBundleOption = None,
    points_file: PointFileOption = None,
    max_updates: MaxUpdatesOption = None,
) -> None:
    """Train a SuperTransformer, or one operating point alone. Ctrl-C saves; the same command goes on from there.

    \b
    Example:
      dynhat train recipes/en-de.toml --data-dir data --run-dir runs/en-de
      torchrun --nproc-per-node 2 -m dynhat_runtime train recipes/en-de.toml \\
        --data-dir data --run-dir runs/en-de --num-threads 1
      dynhat train recipes/en-de.toml --data-dir data --run-dir runs/l3 --subtransformer l3
    """
    _need_offline()
    import torch

    from dynhat_runtime.offline.run_recipe import recipe_to_run
    from dynhat_runtime.offline.train import train as train_run

    if num_threads:
        torch.set_num_threads(num_threads)
    asked = recipe_to_run(
        recipe, point_id=subtransformer, bundle=bundle, points_file=points_file, max_updates=max_updates
    )
    run = train_run(asked, data_dir, run_dir, device_name=device)
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
    _need_offline()
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
        bool, typer.Option("--points", help="Measure the operating points of the bundle's table instead.")
    ] = False,
    bundle: BundleOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Dataset to write or continue (latency-dataset.csv); with --points the table's file, "
            "without it into the bundle."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=2, help="SubTransformers to sample.")] = 300,
    runs: Annotated[
        int | None, typer.Option(min=5, help="Timed runs of each (300; with --points 30).")
    ] = None,
    beam: Annotated[int, typer.Option(min=1, max=16, help="Beam to measure with; serve with the same.")] = 4,
    seed: Annotated[int, typer.Option(help="Of the sampling.")] = 1,
    measure_on: Annotated[
        str, typer.Option("--on", help="cpu, cuda:0 ...; points are measured on the CPU.")
    ] = "cpu",
    points_file: Annotated[
        Path | None,
        typer.Option(
            "--from", help="With --points: others than the table's; TOML, published .json, HAT's .yml."
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Of published points those of this device, such as jetson-nano-gpu.")
    ] = None,
    dev: Annotated[
        Path | None, typer.Option(help="With --points: dev set (.tsv.gz) to measure each point's dev loss.")
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="With --points: test set (.tsv.gz) to measure each point's BLEU.")
    ] = None,
) -> None:
    """Measure this device: sampled SubTransformers for a latency predictor, or, with --points, operating points.

    A dataset row is on disk as soon as it is measured: after Ctrl-C the same command goes on. Rows during which the
    device changed (CPUs, clocks' caps, power mode, other work) are measured again.

    \b
    Example:
      dynhat profile --samples 300 --out nano.csv && dynhat fit-predictor nano.csv
      dynhat profile --points
      dynhat profile --points --out nano.json && dynhat serve --table nano.json
    """
    _need_offline()
    if measure_points:
        from dynhat_runtime.offline.commands import profile_bundle
        from dynhat_runtime.offline.profile import ProfileOptions

        where = profile_bundle(
            bundle_path(bundle),
            points_file=points_file,
            points_device=device,
            dev=dev,
            test=test,
            options=ProfileOptions(num_runs=runs or 30, beam_size=beam),
            out=out,
        )
        typer.echo(f"wrote {where}", err=True)
        return
    for name, value in (("--from", points_file), ("--device", device), ("--dev", dev), ("--test", test)):
        if value is not None:
            raise SettingsError(f"{name} is for operating points: give --points too, or leave it out")
    from dynhat_runtime.offline.commands import profile_dataset
    from dynhat_runtime.offline.profile_dataset import DatasetOptions
    from dynhat_runtime.offline.train import pick_device

    dataset = out or Path("latency-dataset.csv")
    num_rows = profile_dataset(
        bundle_path(bundle),
        DatasetOptions(
            num_samples=samples,
            num_runs=runs or 300,
            beam_size=beam,
            seed=seed,
            device=pick_device(measure_on),
        ),
        dataset,
    )
    typer.echo(f"{num_rows} rows added to {dataset}; next: dynhat fit-predictor {dataset}", err=True)


@app.command()
def search(
    predictor: Annotated[Path, typer.Option(help="Latency predictor of the device to be served.")],
    dev: Annotated[Path, typer.Option(help="Dev set (.tsv.gz) that losses are measured on.")],
    run_dir: Annotated[Path, typer.Option(help="Folder of this search; it is resumed if it exists.")],
    bundle: BundleOption = None,
    method: Annotated[
        str, typer.Option(help="pareto: the whole front. hat: HAT's, one constraint. random: to compare.")
    ] = "pareto",
    latency_constraint_ms: Annotated[
        float | None, typer.Option(help="Most predicted latency; hat needs one.")
    ] = None,
    evaluations: Annotated[
        int | None, typer.Option(min=1, help="Architectures to evaluate; without it HAT's 3,025.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 1,
    num_processes: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    subset_sentences: Annotated[
        int, typer.Option(min=1, help="Sentences of the dev set for all but the best.")
    ] = 256,
    settings: Annotated[Path | None, typer.Option(help="HAT's search file (.yml), for --method hat.")] = None,
    front_size: Annotated[int | None, typer.Option(min=1, help="Most points of the front.")] = None,
    ladder_seeds: Annotated[
        bool, typer.Option(help="pareto: begin with every depth's smallest and largest.")
    ] = True,
    device: Annotated[str | None, typer.Option(help="Device of the predictor; without it this one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Search the front of quality against predicted latency. Ctrl-C keeps what was measured.

    \b
    Example:
      dynhat search --predictor nano.json --dev DEV.tsv.gz --run-dir runs/search --num-processes 2
      torchrun --nproc-per-node 2 -m dynhat_runtime search --predictor nano.json --dev DEV.tsv.gz --run-dir runs/search
    """
    _need_offline()
    from dynhat_runtime.offline.search_command import SearchRequest, search_bundle, table_lines

    request = SearchRequest(
        bundle=bundle_path(bundle),
        predictor=predictor,
        dev=dev,
        run_dir=run_dir,
        method=method,
        latency_constraint_ms=latency_constraint_ms,
        num_evaluations=evaluations,
        seed=seed,
        num_processes=num_processes,
        num_subset_sentences=subset_sentences,
        settings=settings,
        front_size=front_size,
        has_ladder_seeds=ladder_seeds,
        device=device,
    )
    result = search_bundle(request)
    if result is None:
        return  # the first process of torchrun tells
    if as_json:
        typer.echo(result.model_dump_json(indent=1, exclude={"evaluated"}))
    else:
        typer.echo("\n".join(table_lines(result)))


@app.command()
def evaluate(
    test: Annotated[Path, typer.Option(help="Test set: gzipped TSV, source, tab, reference.")],
    bundle: BundleOption = None,
    point: Annotated[
        list[str] | None, typer.Option(help="An operating point, may be repeated; without it all of them.")
    ] = None,
    beam: Annotated[int, typer.Option(min=1, max=16, help="Hypotheses kept per sentence.")] = 4,
    length_penalty: Annotated[
        float | None,
        typer.Option(
            min=0, max=10, help="Exponent of the length in scores; without it the bundle's (0.6 on WMT)."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many sentences.")] = None,
    compound_split: Annotated[
        bool, typer.Option("--compound-split", help="Also HAT's BLEU: Moses words, compounds split.")
    ] = False,
    csv: Annotated[Path | None, typer.Option(help="Write the scores here, after every point.")] = None,
    markdown: Annotated[
        Path | None, typer.Option(help="Write a table for people here, after every point.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score operating points on a test set, fastest first: BLEU and chrF with sacreBLEU's signatures.

    \b
    Example:
      dynhat evaluate --test data/test/tatoeba_test.tsv.gz --point l6
      dynhat evaluate --test newstest2014.tsv.gz --compound-split --csv scores.csv --markdown scores.md
    """
    _need_offline()
    from dynhat_runtime.offline.commands import EvaluateOptions, evaluate_bundle

    options = EvaluateOptions(
        beam_size=beam,
        length_penalty=length_penalty,
        limit=limit,
        compound_split=compound_split,
        csv=csv,
        markdown=markdown,
    )
    rows = evaluate_bundle(bundle_path(bundle), test, point or (), options)
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


@app.command("reduce-space")
def reduce_space(
    points_file: Annotated[
        Path,
        typer.Argument(
            metavar="POINTS.json",
            help="Searched or published points, a table of operating points, or a search's result.",
        ),
    ],
    device: Annotated[
        str | None, typer.Option(help="Only this device's points, such as jetson-nano-gpu.")
    ] = None,
    space: Annotated[
        str | None,
        typer.Option(
            help="Original space, a preset or HAT's YAML file; without it the file's, or the paper's."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the reduced space.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="Training recipe: write it with the reduced space to --out.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="New file: the reduced space in JSON, with --recipe a recipe in TOML.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Reduce the design space to the choices that a device's searched points use (the paper's step 5).

    \b
    Example:
      dynhat reduce-space operating_points/wmt14-en-de/paper_points.json --device jetson-nano-gpu
      dynhat reduce-space operating_points/en-de/tables/amd-epyc-2-cpus.json \\
        --recipe recipes/en-de.toml --out reduced.toml
      dynhat train reduced.toml --data-dir data --run-dir runs/reduced
    """
    _need_offline()
    from dynhat_runtime.offline.commands import reduce_design_space
    from dynhat_runtime.offline.reduction_report import print_reduction

    reduction = reduce_design_space(
        points_file, device=device, space=space, name=name, recipe=recipe, out=out
    )
    if as_json:
        typer.echo(json.dumps(reduction.as_json(), indent=1))
    else:
        print_reduction(reduction)
    if out is not None:
        typer.echo(f"wrote {out}" + ("; train it with 'dynhat train'" if recipe else ""), err=True)


@app.command("export-points")
def export_points(
    searched: Annotated[
        list[Path], typer.Argument(help="Results of 'dynhat search', or any files of points (.json, .toml).")
    ],
    dev: Annotated[Path, typer.Option(help="Dev set (.tsv.gz): points are chosen by their loss on it.")],
    test: Annotated[
        Path | None, typer.Option(help="Test set (.tsv.gz): BLEU and chrF of the chosen points.")
    ] = None,
    bundle: BundleOption = None,
    max_points: Annotated[int, typer.Option(min=1, help="Operating points of the table.")] = 12,
    max_candidates: Annotated[int, typer.Option(min=1, help="Architectures to measure.")] = 32,
    runs: Annotated[int, typer.Option(min=5, help="Timed runs per point, length and state.")] = 30,
    beam: Annotated[int, typer.Option(min=1, max=16, help="Beam to measure with; serve with the same.")] = 4,
    out: Annotated[Path | None, typer.Option(help="Write the table here instead of into the bundle.")] = None,
    work_dir: Annotated[
        Path, typer.Option(help="Keeps losses and scores as they come, and what became of every candidate.")
    ] = Path("export-points"),
) -> None:
    """Measure a search's front on this device and write the table of operating points that the daemon loads.

    What something faster says as well is dropped. Ctrl-C loses no loss and no score: run the same command again.

    \b
    Example:
      dynhat export-points runs/search/search.json --dev DEV.tsv.gz --test TEST.tsv.gz
    """
    _need_offline()
    from dynhat_runtime.model.checkpoint import Bundle
    from dynhat_runtime.offline.export_points import ExportOptions
    from dynhat_runtime.offline.export_points import export_points as export_found
    from dynhat_runtime.offline.profile import ProfileOptions

    where = export_found(
        Bundle.open(bundle_path(bundle)),
        searched,
        dev=dev,
        test=test,
        options=ExportOptions(
            max_candidates=max_candidates,
            max_points=max_points,
            profile=ProfileOptions(num_runs=runs, beam_size=beam),
        ),
        out=out,
        work=work_dir,
    )
    typer.echo(f"wrote {where}", err=True)


@app.command()
def report(
    dev: Annotated[Path, typer.Option(help="Dev set (.tsv.gz).")],
    test: Annotated[Path, typer.Option(help="Test set (.tsv.gz).")],
    bundle: BundleOption = None,
    table: TableOption = None,
    alone: Annotated[
        list[str] | None, typer.Option(help="POINT=BUNDLE: that point trained alone, for Table I; repeat.")
    ] = None,
    same_budget: Annotated[
        Path | None,
        typer.Option(
            help="SuperTransformer trained on the budget of --alone and --reduced; without it the bundle."
        ),
    ] = None,
    reduced: Annotated[
        Path | None, typer.Option(help="SuperTransformer of the reduced design space, for Figure 5.")
    ] = None,
    switches: Annotated[int, typer.Option(min=1, help="Changes of the model to time, for Table III.")] = 50,
    out: Annotated[Path, typer.Option(help="Folder of results; the device gets its own below.")] = Path(
        "docs/results"
    ),
    cache: Annotated[
        Path | None, typer.Option(help="File that keeps scores; without it scores.jsonl beside the page.")
    ] = None,
) -> None:
    """Write this device's results as one page in the paper's form: Tables I to III, Figures 3 to 5.

    Ours are measured here, the paper's stand beside them and are labelled.

    \b
    Example:
      dynhat report --dev DEV.tsv.gz --test TEST.tsv.gz --alone l3=l3-bundle --reduced reduced-bundle
    """
    _need_offline()
    from dataclasses import asdict

    from rich.console import Console

    from dynhat_runtime.model.checkpoint import Bundle
    from dynhat_runtime.offline.report_command import cache_path
    from dynhat_runtime.offline.report_command import report as write_report
    from dynhat_runtime.switch_times import measure_switch_times

    opened = Bundle.open(bundle_path(bundle))
    points = opened.table(table)
    page = write_report(
        opened,
        points,
        dev=dev,
        test=test,
        switch_times=asdict(measure_switch_times(opened, points, switches, Console(stderr=True))),
        alone=alone or [],
        same_budget=same_budget,
        reduced=reduced,
        out=out,
        cache=cache or cache_path(points, out),
    )
    typer.echo(f"wrote {page}", err=True)


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

    missing = [
        name for name in ("sacrebleu", "matplotlib", "yaml", "pymoo", "tomli_w") if find_spec(name) is None
    ]
    if missing:
        raise SettingsError(f"{missing[0]} is not installed: pip install 'dynhat-runtime[offline]'")
