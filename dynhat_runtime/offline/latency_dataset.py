"""A latency dataset: one row per measured SubTransformer, kept as CSV that HAT's tools read too.

The first columns are HAT's, in HAT's names: ten features, then mean and standard deviation of encoder and decoder in
milliseconds. Ours follow: medians, the full gene, and what the row was measured under. HAT's own files lack those and
are read all the same. Measures nothing.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from dynhat_runtime.design_space import LatencyFeatures
from dynhat_runtime.errors import LatencyDataError
from dynhat_runtime.offline.whole_files import append_line

FEATURE_COLUMNS = (
    "encoder_embed_dim",
    "encoder_layer_num",
    "encoder_ffn_embed_dim_avg",
    "encoder_self_attention_heads_avg",
    "decoder_embed_dim",
    "decoder_layer_num",
    "decoder_ffn_embed_dim_avg",
    "decoder_self_attention_heads_avg",
    "decoder_ende_attention_heads_avg",
    "decoder_arbitrary_ende_attn_avg",
)
"""HAT's names of `LatencyFeatures`, in the same order."""
MEAN_COLUMNS = ("latency_mean_encoder", "latency_mean_decoder")
STD_COLUMNS = ("latency_std_encoder", "latency_std_decoder")
MEDIAN_COLUMNS = ("latency_median_encoder", "latency_median_decoder")
GENE_COLUMN = "gene"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What a row was measured under. Caps, not momentary clocks; None is what the device does not tell."""

    design_space: str
    device: str
    """The device's name, as in an operating point table."""
    device_type: str
    """cpu or cuda."""
    power_mode: str | None = None
    num_cpus: int
    """CPUs this process might use."""
    cpu_quota_cpus: float | None = None
    """CPU time its cgroup granted, in CPUs."""
    cpu_max_frequency_hz: float | None = None
    gpu_max_frequency_hz: float | None = None
    num_threads: int
    precision: str
    beam_size: int
    num_src_tokens: int
    num_tgt_tokens: int
    torch_version: str


CONDITION_COLUMNS = tuple(field.name for field in fields(Conditions))
_CONDITION_TYPES = {field.name: str(field.type) for field in fields(Conditions)}
OWN_COLUMNS = (
    *MEDIAN_COLUMNS,
    "num_runs",
    "cpu_share",
    "reference_mean_ms",
    "measured_at",
    GENE_COLUMN,
    *CONDITION_COLUMNS,
)
COLUMNS = (*FEATURE_COLUMNS, *MEAN_COLUMNS, *STD_COLUMNS, *OWN_COLUMNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    """One measured SubTransformer; times are per sentence, after the fastest and slowest runs were dropped."""

    features: LatencyFeatures
    encoder_mean_ms: float
    decoder_mean_ms: float
    encoder_std_ms: float
    decoder_std_ms: float
    encoder_median_ms: float | None = None
    decoder_median_ms: float | None = None
    num_runs: int | None = None
    """Runs that were kept."""
    cpu_share: float | None = None
    """CPU time of the measuring thread over the time that passed: below 1 other work had its CPU meanwhile."""
    reference_mean_ms: float | None = None
    """What the space's smallest SubTransformer took between this row's runs: how fast the device was just then."""
    measured_at: str | None = None
    """UTC, ISO 8601."""
    gene: tuple[int, ...] | None = None
    """`DesignSpace.gene`; None in HAT's files."""
    conditions: Conditions | None = None
    """None in HAT's files."""

    @property
    def total_ms(self) -> float:
        """Encoder and decoder together: what HAT's predictor learns."""
        return self.encoder_mean_ms + self.decoder_mean_ms


def read_latency_dataset(path: Path, *, may_be_empty: bool = False) -> list[LatencyRow]:
    """All rows of a latency dataset, ours or HAT's; a file without any is refused unless it may be.

    Raises:
        LatencyDataError: The file cannot be read, lacks a column, or has a value that is no latency; the message
            names the line, the column and the value.
    """
    rows = list(_checked_rows(path))
    if not rows and not may_be_empty:
        raise LatencyDataError(f"{path}: has no rows: measure some with 'dynhat profile'")
    return rows


def steady_totals_ms(rows: Sequence[LatencyRow]) -> list[float]:
    """Every row's total, as it would be had the device been equally fast throughout.

    A shared or thermally limited device drifts by several per cent between rows. Where every row has its reference, a
    total is scaled by the median reference over the row's own; otherwise totals are as measured.
    """
    references_ms = [row.reference_mean_ms for row in rows if row.reference_mean_ms is not None]
    if len(references_ms) < len(rows) or not rows:
        return [row.total_ms for row in rows]
    usual_ms = statistics.median(references_ms)
    return [
        row.total_ms * usual_ms / reference_ms for row, reference_ms in zip(rows, references_ms, strict=True)
    ]


def append_row(path: Path, row: LatencyRow) -> None:
    """Add one row to the file, which is made with its heading when there is none; on disk when this returns.

    Raises:
        LatencyDataError: The file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    try:
        if not path.exists() or path.stat().st_size == 0:
            writer.writerow(COLUMNS)
        writer.writerow(_cells(row))
        append_line(path, text.getvalue())
    except OSError as error:
        raise LatencyDataError(f"{path}: cannot be written ({error.strerror}): give another --out") from error


def drop_torn_line(path: Path) -> None:
    """Cut off a last line that a killed process left unfinished; the file is made when there is none.

    A file that does not begin as `append_row` begins one is left as it is.

    Raises:
        LatencyDataError: The file cannot be written.
    """
    try:
        path.touch()
        with path.open("rb+") as file:
            content, heading = file.read(), ",".join(COLUMNS).encode()
            if content.startswith(heading) or heading.startswith(content):
                file.truncate(content.rfind(b"\n") + 1)
    except OSError as error:
        raise LatencyDataError(f"{path}: cannot be written ({error.strerror}): give another --out") from error


def _cells(row: LatencyRow) -> list[str]:
    """A row's cells in the order of `COLUMNS`; nothing where a value is None."""
    gene = None if row.gene is None else "-".join(map(str, row.gene))
    conditions = dict.fromkeys(CONDITION_COLUMNS) if row.conditions is None else asdict(row.conditions)
    values = [
        *row.features,
        row.encoder_mean_ms,
        row.decoder_mean_ms,
        row.encoder_std_ms,
        row.decoder_std_ms,
        row.encoder_median_ms,
        row.decoder_median_ms,
        row.num_runs,
        row.cpu_share,
        row.reference_mean_ms,
        row.measured_at,
        gene,
        *conditions.values(),
    ]
    return ["" if value is None else str(value) for value in values]


def _checked_rows(path: Path) -> Iterator[LatencyRow]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            _check_heading(path, reader.fieldnames)
            for cells in reader:
                try:
                    yield _row(cells)
                except ValueError as error:
                    raise LatencyDataError(
                        f"{path}, line {reader.line_num}: {error}: mend or remove the line"
                    ) from error
    except OSError as error:
        raise LatencyDataError(
            f"{path}: cannot be read ({error.strerror}): measure one with 'dynhat profile'"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise LatencyDataError(f"{path}: not CSV: {error}") from error


def _check_heading(path: Path, heading: Sequence[str] | None) -> None:
    needed = (*FEATURE_COLUMNS, *MEAN_COLUMNS, *STD_COLUMNS)
    missing = [column for column in needed if column not in (heading or ())]
    if missing:
        raise LatencyDataError(
            f"{path}: lacks column {missing[0]!r}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + f": a latency dataset has {', '.join(needed)}"
        )


def _row(cells: dict[str, str]) -> LatencyRow:
    """One line of the file.

    Raises:
        ValueError: Saying which column is wrong and how.
    """
    if None in cells or None in cells.values():
        raise ValueError("has not as many cells as the heading")
    has_own = GENE_COLUMN in cells
    return LatencyRow(
        features=LatencyFeatures(*(_number(cells, column, is_positive=True) for column in FEATURE_COLUMNS)),
        encoder_mean_ms=_number(cells, MEAN_COLUMNS[0], is_positive=True),
        decoder_mean_ms=_number(cells, MEAN_COLUMNS[1], is_positive=True),
        encoder_std_ms=_number(cells, STD_COLUMNS[0]),
        decoder_std_ms=_number(cells, STD_COLUMNS[1]),
        encoder_median_ms=_optional(cells, MEDIAN_COLUMNS[0]),
        decoder_median_ms=_optional(cells, MEDIAN_COLUMNS[1]),
        num_runs=int(cells["num_runs"]) if cells.get("num_runs") else None,
        cpu_share=_optional(cells, "cpu_share"),
        reference_mean_ms=_optional(cells, "reference_mean_ms"),
        measured_at=cells.get("measured_at") or None,
        gene=tuple(map(int, cells[GENE_COLUMN].split("-"))) if has_own and cells[GENE_COLUMN] else None,
        conditions=_conditions(cells) if cells.get("device") else None,
    )


def _conditions(cells: dict[str, str]) -> Conditions:
    values: dict[str, object] = {}
    for column, type_name in _CONDITION_TYPES.items():
        cell = cells.get(column, "")
        if not cell:
            if "None" not in type_name:
                raise ValueError(f"{column} is empty")
            values[column] = None
        elif type_name.startswith("int"):
            values[column] = int(cell)
        elif type_name.startswith("float"):
            values[column] = _number(cells, column, is_positive=True)
        else:
            values[column] = cell
    return Conditions(**values)  # type: ignore[arg-type]  # typed cell by cell above


def _optional(cells: dict[str, str], column: str) -> float | None:
    return _number(cells, column, is_positive=True) if cells.get(column) else None


def _number(cells: dict[str, str], column: str, *, is_positive: bool = False) -> float:
    """A finite cell.

    Raises:
        ValueError: Naming the column and the value.
    """
    cell = cells[column]
    try:
        value = float(cell)
    except ValueError:
        raise ValueError(f"{column}={cell!r} is not a number") from None
    if not math.isfinite(value) or value < 0 or (is_positive and value == 0):
        raise ValueError(f"{column}={cell} must be a {'positive' if is_positive else 'non-negative'} number")
    return value
