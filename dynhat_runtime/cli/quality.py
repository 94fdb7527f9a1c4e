"""The command that writes the page about a bundle's quality (extra [offline]).

Imports nothing heavy until the command needs it, so that help and a refused option come at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dynhat_runtime.cli.root import BundleOption, app, bundle_path, need_offline


@app.command("report-quality")
def report_quality(
    test: Annotated[
        list[Path], typer.Option(help="Test set: gzipped TSV, source, tab, reference; may be repeated.")
    ],
    bundle: BundleOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Page to write; without it docs/results/SRC-TGT.md.")
    ] = None,
    point: Annotated[
        list[str] | None, typer.Option(help="An operating point, may be repeated; without it all of them.")
    ] = None,
    beam: Annotated[
        list[int] | None,
        typer.Option(
            min=1, max=16, help="Hypotheses kept per sentence, may be repeated; without it 4 and 1."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many sentences of each.")
    ] = None,
    compound_split: Annotated[
        list[str] | None,
        typer.Option(help="Name of a test set that gets HAT's BLEU, too; without it newstest2014."),
    ] = None,
    samples: Annotated[
        str | None, typer.Option(help="Name of the test set whose sentences may be shown.")
    ] = "tatoeba_test",
    attribution: Annotated[
        str | None, typer.Option(help="Of the samples' text; without it Tatoeba's.")
    ] = None,
    before: Annotated[
        Path | None, typer.Option(help="An earlier bundle: the form of its output is counted beside.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="File that keeps scores; without it SRC-TGT-scores.jsonl beside the page."),
    ] = None,
) -> None:
    """Write the page about a bundle's quality: scores of all points, form of the output, samples, learning curve.

    A score is kept as soon as it is measured: after Ctrl-C the same command goes on.

    \b
    Example:
      dynhat report-quality --test data/test/tatoeba_test.tsv.gz --test data/test/multi30k_2016.tsv.gz \\
        --test data/test/newstest2014.tsv.gz --out docs/results/en-de.md
    """
    need_offline()
    from rich.console import Console

    from dynhat_runtime.model.checkpoint import Bundle
    from dynhat_runtime.offline.quality_report import QualityOptions
    from dynhat_runtime.offline.quality_report import report_quality as write_report

    defaults = QualityOptions()
    opened = Bundle.open(bundle_path(bundle))
    page = write_report(
        opened,
        test,
        out or Path("docs/results") / f"{opened.src_lang}-{opened.tgt_lang}.md",
        QualityOptions(
            beam_sizes=tuple(beam or defaults.beam_sizes),
            point_ids=tuple(point or ()),
            limit=limit,
            split=tuple(compound_split or defaults.split),
            samples=samples,
            attribution=attribution or defaults.attribution,
        ),
        earlier=None if before is None else Bundle.open(before),
        cache=cache,
        console=Console(stderr=True),
    )
    typer.echo(f"wrote {page}", err=True)
