"""Tests of dynhat_runtime.governor.latency_model."""

from __future__ import annotations

import pytest

from dynhat_runtime.errors import UnknownOperatingPointError
from dynhat_runtime.governor.latency_model import LatencyModel
from dynhat_runtime.operating_point import LatencyMeasurement
from tests.hand_made import point, row, table


def predict(
    rows: list[LatencyMeasurement], num_src_tokens: int, num_tgt_tokens: int, num_cpus: float | None = None
) -> float:
    """The model's answer for a table whose only point has these rows."""
    only = point("only", rows)
    model = LatencyModel(table([only]))
    return model.predict_ms(
        only, num_src_tokens=num_src_tokens, num_tgt_tokens=num_tgt_tokens, num_cpus=num_cpus
    )


DIAGONAL = [row(4, 10, 10, 2.0, 10.0), row(4, 30, 30, 4.0, 30.0), row(4, 60, 60, 10.0, 90.0)]


@pytest.mark.parametrize("measured", DIAGONAL)
def test_a_measured_row_is_predicted_as_its_total(measured: LatencyMeasurement) -> None:
    """At a measured length and number of CPUs the prediction is the measured total."""
    predicted_ms = predict(DIAGONAL, measured.num_src_tokens, measured.num_tgt_tokens, measured.num_cpus)
    assert predicted_ms == pytest.approx(measured.total_ms)


def test_time_beyond_encoder_and_decoder_is_kept() -> None:
    """A total that exceeds encoder plus decoder is predicted whole."""
    measured = row(4, 10, 10, 2.0, 10.0).model_copy(update={"total_ms": 15.0})
    assert predict([measured], 10, 10) == pytest.approx(15.0)


def test_lengths_between_rows_are_interpolated() -> None:
    """Halfway between two measured lengths the time is halfway."""
    assert predict(DIAGONAL, 20, 20) == pytest.approx((12.0 + 34.0) / 2)
    assert predict(DIAGONAL, 45, 45) == pytest.approx((34.0 + 100.0) / 2)


def test_source_length_moves_the_encoder_only() -> None:
    """A longer source costs what the encoder's rows say, and nothing of the decoder's."""
    assert predict(DIAGONAL, 30, 10) == pytest.approx(4.0 + 10.0)


def test_target_length_moves_the_decoder_only() -> None:
    """A longer target costs what the decoder's rows say, and nothing of the encoder's."""
    assert predict(DIAGONAL, 10, 30) == pytest.approx(2.0 + 30.0)


def test_longer_than_measured_continues_the_last_line() -> None:
    """Past the longest row the last segment goes on."""
    assert predict(DIAGONAL, 90, 90) == pytest.approx(16.0 + 150.0)


def test_shorter_than_measured_never_falls_below_the_smallest() -> None:
    """Before the shortest row the line goes down no further than the smallest measured time."""
    assert predict(DIAGONAL, 1, 1) == pytest.approx(12.0)


def test_one_measured_length_grows_in_proportion() -> None:
    """With a single row, twice the length takes twice the time, and a shorter one no less than measured."""
    rows = [row(4, 30, 30, 4.0, 30.0)]
    assert predict(rows, 60, 60) == pytest.approx(68.0)
    assert predict(rows, 10, 10) == pytest.approx(34.0)


def test_a_full_grid_counts_rows_of_one_length_with_their_mean() -> None:
    """Rows that share a target length give the decoder their mean, whatever their source length."""
    grid = [row(4, 10, 10, 2.0, 10.0), row(4, 30, 10, 4.0, 12.0), row(4, 30, 30, 4.0, 30.0)]
    assert predict(grid, 10, 10) == pytest.approx(2.0 + 11.0)


CPUS = [row(4, 30, 30, 1.0, 9.0), row(2, 30, 30, 2.0, 14.0), row(1, 30, 30, 4.0, 24.0)]


@pytest.mark.parametrize(("num_cpus", "total_ms"), [(4, 10.0), (2, 16.0), (1, 28.0)])
def test_measured_cpu_counts_are_exact(num_cpus: int, total_ms: float) -> None:
    """At each measured number of CPUs the prediction is the measured total, in any order of rows."""
    assert predict(CPUS, 30, 30, num_cpus) == pytest.approx(total_ms)


def test_between_cpu_counts_time_is_linear_in_one_over_cpus() -> None:
    """1/CPUs halfway between two measured numbers gives the time halfway."""
    assert predict(CPUS, 30, 30, 4 / 3) == pytest.approx((28.0 + 16.0) / 2)
    assert predict(CPUS, 30, 30, 8 / 3) == pytest.approx((16.0 + 10.0) / 2)


def test_a_share_of_the_smallest_count_takes_proportionally_longer() -> None:
    """Half of the smallest measured number of CPUs doubles the time."""
    assert predict(CPUS, 30, 30, 0.5) == pytest.approx(56.0)
    assert predict(CPUS[:2], 30, 30, 1) == pytest.approx(32.0)


@pytest.mark.parametrize("num_cpus", [8, None])
def test_more_cpus_than_measured_do_not_help(num_cpus: float | None) -> None:
    """Above the largest measured number, or when unknown, the largest stands."""
    assert predict(CPUS, 30, 30, num_cpus) == pytest.approx(10.0)


def test_cpu_counts_may_have_other_lengths_measured() -> None:
    """A partial grid works: each number of CPUs is read along its own lengths."""
    partial = [*DIAGONAL, row(1, 30, 30, 8.0, 60.0)]
    assert predict(partial, 20, 20, 4) == pytest.approx(23.0)
    assert predict(partial, 60, 60, 1) == pytest.approx(136.0)


def test_a_foreign_point_is_refused() -> None:
    """A point of another table is an error that lists the known ones."""
    foreign = point("foreign", DIAGONAL)
    model = LatencyModel(table([point("only", DIAGONAL)]))
    with pytest.raises(UnknownOperatingPointError, match=r"foreign.*only"):
        model.predict_ms(foreign, num_src_tokens=1, num_tgt_tokens=1, num_cpus=None)
