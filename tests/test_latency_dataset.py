"""The latency dataset: what is written is read, HAT's files too, and a broken file is refused in one line."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest

from dynhat_runtime.design_space import latency_features
from dynhat_runtime.design_space_presets import preset
from dynhat_runtime.errors import LatencyDataError
from dynhat_runtime.offline.latency_dataset import (
    COLUMNS,
    FEATURE_COLUMNS,
    Conditions,
    LatencyRow,
    append_row,
    drop_torn_line,
    read_latency_dataset,
    steady_totals_ms,
)

DATA = Path(__file__).parent / "data/latency"
HAT_FILE = DATA / "wmt14ende_raspberrypi4_cpu.csv"
SPACE = preset("paper-wmt14-ende")
CONDITIONS = Conditions(
    design_space=SPACE.name,
    device="Some Board, 4 CPUs",
    device_type="cpu",
    num_cpus=2,
    cpu_max_frequency_hz=1.43e9,
    num_threads=1,
    precision="float32",
    beam_size=4,
    num_src_tokens=30,
    num_tgt_tokens=30,
    torch_version="2.1.0",
)


def make_row(seed: int) -> LatencyRow:
    """A row of ours, complete."""
    config = SPACE.sample(random.Random(seed))
    return LatencyRow(
        features=latency_features(config),
        encoder_mean_ms=10.125 + seed,
        decoder_mean_ms=100.5 + seed / 3,
        encoder_std_ms=0.0,
        decoder_std_ms=0.25,
        encoder_median_ms=10.0,
        decoder_median_ms=100.0,
        num_runs=24,
        measured_at="2026-01-02T03:04:05+00:00",
        gene=SPACE.gene(config),
        conditions=CONDITIONS,
    )


def test_rows_of_ours_come_back(tmp_path: Path) -> None:
    """Rows are read as they were written, genes and conditions included, None where nothing was known."""
    rows = [
        make_row(0),
        make_row(1),
        dataclasses.replace(make_row(2), gene=None, num_runs=None, measured_at=None),
    ]
    for row in rows:
        append_row(tmp_path / "own.csv", row)
    assert read_latency_dataset(tmp_path / "own.csv") == rows


def test_appending_writes_the_heading_once(tmp_path: Path) -> None:
    """A file that is added to later has one heading, HAT's columns first."""
    path = tmp_path / "own.csv"
    append_row(path, make_row(0))
    append_row(path, make_row(1))
    heading, *lines = path.read_text(encoding="utf-8").splitlines()
    assert heading == ",".join(COLUMNS)
    assert heading.startswith(",".join(FEATURE_COLUMNS) + ",latency_mean_encoder,latency_mean_decoder,")
    assert len(lines) == 2


def test_hat_files_are_read() -> None:
    """A file of HAT's has features and latencies, and neither genes nor conditions."""
    rows = read_latency_dataset(HAT_FILE)
    assert len(rows) == 400
    first = rows[0]
    assert first.features[:2] == (512.0, 6.0)
    assert first.total_ms == pytest.approx(1990.097 + 5932.554)
    assert first.gene is None
    assert first.conditions is None


def test_a_torn_last_line_is_dropped_and_the_file_goes_on(tmp_path: Path) -> None:
    """After a kill in mid-line the whole rows stay, and rows can be added."""
    path = tmp_path / "own.csv"
    append_row(path, make_row(0))
    append_row(path, make_row(1))
    path.write_bytes(path.read_bytes()[:-30])
    drop_torn_line(path)
    append_row(path, make_row(2))
    assert read_latency_dataset(path) == [make_row(0), make_row(2)]


@pytest.mark.parametrize(
    ("column", "cell", "complaint"),
    [
        ("latency_mean_decoder", "nan", "latency_mean_decoder=nan must be a positive number"),
        ("latency_mean_encoder", "0", "latency_mean_encoder=0 must be a positive number"),
        ("latency_mean_encoder", "-3.5", "latency_mean_encoder=-3.5 must be a positive number"),
        ("latency_mean_decoder", "inf", "latency_mean_decoder=inf must be a positive number"),
        ("latency_std_encoder", "-1", "latency_std_encoder=-1 must be a non-negative number"),
        ("decoder_layer_num", "six", "decoder_layer_num='six' is not a number"),
        ("decoder_layer_num", "", "decoder_layer_num='' is not a number"),
    ],
)
def test_a_value_that_is_no_latency(tmp_path: Path, column: str, cell: str, complaint: str) -> None:
    """The error names file, line, column and value, and what to do."""
    heading, *lines = HAT_FILE.read_text(encoding="utf-8").splitlines()[:4]
    cells = lines[1].split(",")
    cells[heading.split(",").index(column)] = cell
    lines[1] = ",".join(cells)
    path = tmp_path / "bad.csv"
    path.write_text("\n".join([heading, *lines]) + "\n", encoding="utf-8")
    with pytest.raises(LatencyDataError) as raised:
        read_latency_dataset(path)
    assert str(raised.value) == f"{path}, line 3: {complaint}: mend or remove the line"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "lacks column 'encoder_embed_dim' and 13 more"),
        (
            ",".join(FEATURE_COLUMNS).encode() + b",latency_mean_encoder\n",
            "lacks column 'latency_mean_decoder'",
        ),
        (b"\xff\xfe\x00", "not CSV"),
        (b"PK\x03\x04\x00", "lacks column 'encoder_embed_dim'"),
    ],
)
def test_a_file_that_is_no_dataset(tmp_path: Path, content: bytes, complaint: str) -> None:
    """A file without the columns, or that is no text, is refused by what it lacks, on one line."""
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    with pytest.raises(LatencyDataError, match=complaint) as raised:
        read_latency_dataset(path)
    assert "\n" not in str(raised.value)


def test_heading_only_and_missing_file(tmp_path: Path) -> None:
    """A file without rows and a file that is not there say how to get one."""
    path = tmp_path / "empty.csv"
    path.write_text(",".join(COLUMNS) + "\n", encoding="utf-8")
    with pytest.raises(LatencyDataError, match="has no rows: measure some with 'dynhat profile'"):
        read_latency_dataset(path)
    with pytest.raises(LatencyDataError, match=r"cannot be read \(No such file or directory\)"):
        read_latency_dataset(tmp_path / "missing.csv")


def test_a_short_line(tmp_path: Path) -> None:
    """A line with too few cells is refused, not filled up."""
    heading, line = HAT_FILE.read_text(encoding="utf-8").splitlines()[:2]
    path = tmp_path / "short.csv"
    path.write_text(f"{heading}\n{line.rpartition(',')[0]}\n", encoding="utf-8")
    with pytest.raises(LatencyDataError, match="line 2: has not as many cells as the heading"):
        read_latency_dataset(path)


# --- drift ---


def test_drift_is_taken_out_where_every_row_has_its_reference() -> None:
    """A row measured while the device was twice as slow says half; without references totals stay as measured."""
    row = LatencyRow(
        features=latency_features(preset("paper-wmt14-ende").largest()),
        encoder_mean_ms=10.0,
        decoder_mean_ms=90.0,
        encoder_std_ms=0.0,
        decoder_std_ms=0.0,
        reference_mean_ms=5.0,
    )
    slow = dataclasses.replace(row, encoder_mean_ms=20.0, decoder_mean_ms=180.0, reference_mean_ms=10.0)
    assert steady_totals_ms([row, row, slow]) == [100.0, 100.0, 100.0]
    assert steady_totals_ms([row, dataclasses.replace(slow, reference_mean_ms=None)]) == [100.0, 200.0]
    assert steady_totals_ms([]) == []
