"""Commands that choose architectures (extra [offline]): search, reduce the design space.

Imports nothing heavy until a command needs it, so that help and a refused option come at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dynhat_runtime.cli.root import BundleOption, JsonOption, app, bundle_path, need_offline


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
    need_offline()
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
    need_offline()
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
