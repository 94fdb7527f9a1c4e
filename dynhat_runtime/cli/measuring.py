"""Commands that measure this device and score models (extra [offline]): profile, predict, export points, report.

Imports nothing heavy until a command needs it, so that help and a refused option come at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from dynhat_runtime.cli.root import BundleOption, JsonOption, TableOption, app, bundle_path, need_offline
from dynhat_runtime.errors import SettingsError
from dynhat_runtime.operating_point import precision_called

ShortlistOption = Annotated[
    bool | None,
    typer.Option(
        "--shortlist/--no-shortlist",
        help="Points with or without the bundle's vocabulary shortlist; profile: without it each point's own, "
        "export-points: both.",
    ),
]


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
    precision: Annotated[
        str | None, typer.Option(help="fp32 or int8; without it fp32, with --points each point's own.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="That share each matrix product; without it 1, with --points each point's own.",
        ),
    ] = None,
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
    shortlist: ShortlistOption = None,
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
    need_offline()
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
            precision=None if precision is None else precision_called(precision),
            num_threads=threads,
            has_shortlist=shortlist,
            out=out,
        )
        typer.echo(f"wrote {where}", err=True)
        return
    for name, value in (
        ("--from", points_file), ("--device", device), ("--shortlist", shortlist), ("--dev", dev), ("--test", test),
    ):  # fmt: skip
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
            precision=precision_called(precision or "fp32"),
            num_threads=threads or 1,
        ),
        dataset,
    )
    typer.echo(f"{num_rows} rows added to {dataset}; next: dynhat fit-predictor {dataset}", err=True)


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
    need_offline()
    from dynhat_runtime.offline.predictor_commands import fit_and_save, summary, table

    predictor = fit_and_save(
        dataset, out, device=device, where=where or (), bundle=bundle, seed=seed, compares_with_hat=not no_hat
    )
    typer.echo(json.dumps(summary(predictor), indent=1) if as_json else table(predictor))
    typer.echo(f"wrote {out}" if out else "nothing written: give --out FILE to keep the predictor", err=True)


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
    precision: Annotated[
        list[str] | None,
        typer.Option(help="fp32 or int8, may be repeated; without it all that this installation has."),
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(min=1, max=64, help="That share each matrix product, may be repeated; without it 1."),
    ] = None,
    shortlist: ShortlistOption = None,
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
    need_offline()
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
            precisions=tuple(precision_called(name) for name in precision or ()) or None,
            nums_threads=tuple(threads or (1,)),
            have_shortlists=None if shortlist is None else (shortlist,),
            profile=ProfileOptions(num_runs=runs, beam_size=beam),
        ),
        out=out,
        work=work_dir,
    )
    typer.echo(f"wrote {where}", err=True)


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
    check_output: Annotated[
        bool,
        typer.Option(
            "--check-output",
            help="Also count loops, empty output, numbers and names lost, final marks and initial case changed.",
        ),
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
      dynhat evaluate --test data/test/tatoeba_test.tsv.gz --check-output --json
    """
    need_offline()
    from dynhat_runtime.offline.commands import EvaluateOptions, evaluate_bundle

    options = EvaluateOptions(
        beam_size=beam,
        length_penalty=length_penalty,
        limit=limit,
        compound_split=compound_split,
        check_output=check_output,
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
    if check_output:
        from dynhat_runtime.offline.score_sheet import COUNTS_LEGEND, counts_table

        typer.echo("\n".join(("", *counts_table(rows), "", COUNTS_LEGEND)))


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

    Ours are measured here, the paper's stand beside them and are labelled. A comparison whose models are not given
    stays as an earlier report on this device has it, with its date.

    \b
    Example:
      dynhat report --dev DEV.tsv.gz --test TEST.tsv.gz --alone l3=l3-bundle --reduced reduced-bundle
    """
    need_offline()
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
