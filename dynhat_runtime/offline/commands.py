"""What the design-time commands do with a bundle: open it, measure or score, show progress, write the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from dynhat_runtime.decoding.moses_bpe import moses_words
from dynhat_runtime.decoding.translator import Translator, search_options
from dynhat_runtime.design_space import DesignSpace
from dynhat_runtime.design_space_presets import preset
from dynhat_runtime.errors import DesignSpaceError, SettingsError
from dynhat_runtime.model.checkpoint import PAPER_POINTS, Bundle, shipped_bundle_path
from dynhat_runtime.model.laid_out import for_decoding
from dynhat_runtime.model.threads import use_decoding_threads
from dynhat_runtime.monitor.host import HostMonitor
from dynhat_runtime.monitor.identity import device_name
from dynhat_runtime.offline.evaluate import (
    compound_split_bleu,
    load_pairs,
    score,
    translate_all,
)
from dynhat_runtime.offline.evaluation_progress import EvaluationJob, EvaluationProgress
from dynhat_runtime.offline.figure_cache import FigureCache
from dynhat_runtime.offline.hat_bundle import ImportOptions, import_checkpoints
from dynhat_runtime.offline.import_hat import space_from_hat_yaml
from dynhat_runtime.offline.output_counts import count_output
from dynhat_runtime.offline.point_files import (
    YAML_ENDINGS,
    points_from_any,
    points_of_bundle,
    put_table,
    table_ii_points,
)
from dynhat_runtime.offline.point_scorer import PointScorer
from dynhat_runtime.offline.profile import (
    PointQuality,
    PointToMeasure,
    ProfileOptions,
    profile_points,
)
from dynhat_runtime.offline.profile_dataset import (
    DatasetOptions,
    conditions_now,
    measure_by_protocol,
    measure_dataset,
    on_device,
)
from dynhat_runtime.offline.recipe import Recipe
from dynhat_runtime.offline.reduce_space import (
    DEFAULT_SPACE,
    Reduction,
    deciding_points,
    recipe_with_space,
    reduce_space,
)
from dynhat_runtime.offline.score_sheet import as_csv, as_markdown
from dynhat_runtime.offline.searched_points import read_searched_points
from dynhat_runtime.offline.whole_files import check_writable, write_new_text, write_text
from dynhat_runtime.operating_point import Precision, precisions_of

FEW_RUNS = ProfileOptions(num_runs=5, num_turns=1)
"""Enough to serve with; measure again with more."""


def profile_bundle(
    path: Path,
    *,
    points_file: Path | None,
    points_device: str | None = None,
    dev: Path | None,
    test: Path | None,
    options: ProfileOptions,
    out: Path | None,
    precision: Precision | None = None,
    num_threads: int | None = None,
    has_shortlist: bool | None = None,
) -> Path:
    """Measure the points of a bundle and write the table; returns where.

    With a precision, a number of threads or a choice of shortlist all points get it; without, each keeps its own.

    Raises:
        DynhatError: What is wrong with the bundle, the points or the test sets.
    """
    bundle = Bundle.open(path)
    points = (
        points_of_bundle(bundle)
        if points_file is None
        else points_from_any(points_file, bundle.design_space, points_device)
    )
    if precision is not None:  # figures that are known of another precision are not this one's
        points = [
            point
            if point.precision == precision
            else replace(point, precision=precision, quality=PointQuality())
            for point in points
        ]
    if has_shortlist is not None:  # nor are scores; a loss is the whole vocabulary's either way
        points = [
            point
            if point.has_shortlist == has_shortlist
            else replace(
                point, has_shortlist=has_shortlist, quality=PointQuality(dev_loss=point.quality.dev_loss)
            )
            for point in points
        ]
    if num_threads is not None:
        points = [replace(point, num_threads=num_threads) for point in points]
    console = Console(stderr=True)
    scorer = PointScorer(
        bundle,
        dev,
        test,
        beam_size=options.beam_size,
        cache=FigureCache(),
        console=console,
        precisions=precisions_of(points),
    )
    points = [
        replace(
            point,
            quality=scorer.quality(
                point.config, point.precision, point.id, point.quality, has_shortlist=point.has_shortlist
            ),
        )
        for point in points
    ]
    return put_table(bundle, profile_points(bundle, scorer.decoding, points, options, console), out)


def profile_dataset(path: Path, options: DatasetOptions, out: Path) -> int:
    """Measure sampled SubTransformers of a bundle into the latency dataset `out`; returns the rows measured.

    Raises:
        DynhatError: What is wrong with the bundle or the dataset, or that the device does not hold still.
    """
    bundle = Bundle.open(path)
    space = bundle.design_space
    super_transformer = for_decoding(
        on_device(bundle.super_transformer(), options.device), (options.precision,)
    )
    use_decoding_threads()
    monitor, name = HostMonitor(), device_name()
    return measure_dataset(
        space,
        options,
        out,
        measure=measure_by_protocol(super_transformer, options),
        read_conditions=lambda: conditions_now(monitor.read(), space, name, options),
        console=Console(stderr=True),
    )


def import_bundle(
    checkpoints: Sequence[Path],
    options: ImportOptions,
    out: Path,
    *,
    points_file: Path | None,
    points_device: str | None,
    does_profile: bool,
) -> Bundle:
    """Make a bundle of HAT / fairseq checkpoints; measure its points with few runs, so that it can be served.

    Raises:
        DynhatError: What is wrong with the checkpoints, what comes with them, the points or the folder.
    """
    bundle = import_checkpoints(
        checkpoints, options, out, check=lambda space: points_to_import(space, points_file, points_device)
    )
    if not does_profile:
        return bundle
    points = points_to_import(bundle.design_space, points_file, points_device)
    super_transformer = for_decoding(bundle.super_transformer(), precisions_of(points))
    return bundle.with_table(
        profile_points(bundle, super_transformer, points, FEW_RUNS, Console(stderr=True))
    )


def points_to_import(
    space: DesignSpace, points_file: Path | None, points_device: str | None
) -> list[PointToMeasure]:
    """The points an imported bundle gets: the paper's Table II unless a file or a device is named.

    Raises:
        SettingsError: The file lists no points, or one lies outside the design space, or the device has none.
    """
    if points_device is None and (points_file is None or points_file.suffix == ".json"):
        return table_ii_points(space, points_file)
    file = points_file or shipped_bundle_path("wmt14-en-de") / PAPER_POINTS
    return points_from_any(file, space, points_device)


def design_space_called(name: str) -> DesignSpace:
    """A preset, or the space of one of HAT's YAML files.

    Raises:
        DynhatError: No such preset, or the file is not HAT's.
    """
    return space_from_hat_yaml(Path(name)) if Path(name).suffix in YAML_ENDINGS else preset(name)


def reduce_design_space(
    points_file: Path,
    *,
    device: str | None,
    space: str | None,
    name: str | None,
    recipe: Path | None,
    out: Path | None,
) -> Reduction:
    """Reduce the design space to what a file's points use; write it, or the recipe with it.

    Raises:
        DynhatError: What is wrong with the points, the device, the space, the recipe or the file to write.
    """
    if recipe is not None and out is None:
        raise SettingsError(f"--recipe {recipe} needs a file to write: give --out NEW.toml")
    searched = read_searched_points(points_file)
    original = _original_space(points_file, searched.design_space, space, recipe)
    reduction = reduce_space(original, deciding_points(searched, original, device), name)
    if out is not None:
        reduced = reduction.reduced
        text = (
            reduced.model_dump_json(indent=1) + "\n" if recipe is None else recipe_with_space(recipe, reduced)
        )
        write_new_text(out, text, "--out")
    return reduction


def _original_space(
    points_file: Path, named_by_file: str | None, asked_for: str | None, recipe: Path | None
) -> DesignSpace:
    """The space asked for; else the one the file names, which the recipe may hold; else the paper's.

    Raises:
        DynhatError: No such space, or a file that holds none.
    """
    if asked_for is not None:
        return design_space_called(asked_for)
    if named_by_file is None:
        return preset(DEFAULT_SPACE)
    if recipe is not None and (space := Recipe.load(recipe).model.space).name == named_by_file:
        return space
    try:
        return preset(named_by_file)
    except DesignSpaceError as error:
        raise SettingsError(
            f"{points_file}: {error} with --space, or give the --recipe that holds it"
        ) from error


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """How to score.

    Attributes:
        length_penalty: Without it the bundle's own.
        limit: Only the first so many sentences.
        compound_split: Also HAT's BLEU.
        check_output: Also how often the output is wrong in form.
        csv: File that gets the rows, after every point.
        markdown: File that gets a table for people, after every point.
    """

    beam_size: int = 4
    length_penalty: float | None = None
    limit: int | None = None
    compound_split: bool = False
    check_output: bool = False
    csv: Path | None = None
    markdown: Path | None = None


def evaluate_bundle(
    path: Path, test: Path, point_ids: Sequence[str] = (), options: EvaluateOptions = EvaluateOptions()
) -> list[dict[str, Any]]:
    """Scores of some or all operating points of a bundle on a test set, fastest first.

    Raises:
        DynhatError: What is wrong with the bundle, a point, the test set or a file to write; all but the last
            before anything is translated.
    """
    bundle = Bundle.open(path)
    table = bundle.table()
    wanted = {table[point_id].id for point_id in point_ids} or {point.id for point in table}
    points = [point for point in table if point.id in wanted]
    pairs = load_pairs(test, options.limit)
    if options.compound_split:
        moses_words([], bundle.tgt_lang)  # says now that sacremoses is missing, not after the first point
    for file, option in ((options.csv, "--csv"), (options.markdown, "--markdown")):
        if file is not None:
            check_writable(file, option)
    super_transformer = for_decoding(bundle.super_transformer(), precisions_of(points), bundle.shortlist())
    translator = Translator.of_bundle(bundle)
    penalty = bundle.manifest.length_penalty if options.length_penalty is None else options.length_penalty
    search = replace(search_options(bundle, options.beam_size), length_penalty=penalty)
    sources, targets = [source for source, _ in pairs], [target for _, target in pairs]
    rows: list[dict[str, Any]] = []
    jobs = [EvaluationJob(point.id, table.reference_latency_ms(point), len(pairs)) for point in points]
    with EvaluationProgress(jobs) as progress:
        for point in points:
            progress.begin()
            sub = super_transformer.point(point)
            outputs = translate_all(translator, sub, sources, search, progress.advance)
            translations = [output.text for output in outputs]
            row = {
                "id": point.id,
                "beam_size": options.beam_size,
                **asdict(score(translations, targets, _name_of(test))),
            }
            if options.compound_split:
                row["compound_split_bleu"], row["compound_split_bleu_signature"] = compound_split_bleu(
                    translations, targets, bundle.tgt_lang, _name_of(test)
                )
            if options.check_output:
                faults = [output.fault for output in outputs]
                row |= asdict(count_output(sources, targets, translations, faults))
            row |= {"length_penalty": penalty, "latency_ms": table.reference_latency_ms(point)}
            rows.append(row)
            if options.csv is not None:
                write_text(options.csv, as_csv(rows), "--csv")
            if options.markdown is not None:
                write_text(options.markdown, as_markdown(rows, table.device.name), "--markdown")
            progress.end(f"BLEU {row['bleu']:.2f}  chrF {row['chrf']:.2f}")
    return rows


def _name_of(test: Path) -> str:
    return test.name.split(".")[0]
