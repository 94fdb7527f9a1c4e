"""The comparison of search methods: equal numbers of evaluations, and its report on a tiny bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.search import PLOT, REPORT, TablePredictor, hat_sizes, main
from dynhat_runtime.offline.candidates import predicted_ms
from dynhat_runtime.offline.evolution import EvolutionOptions
from tests.tiny_bundle import SENTENCES, SPACE, make_tiny_bundle, point_configs, tiny_table
from tests.toy_text import write_pairs


@pytest.mark.parametrize("number", [10, 57, 300, 605, 1000, 3025])
def test_hats_sizes_meet_the_number(number: int) -> None:
    """However few evaluations there are, HAT's search takes exactly that many."""
    assert hat_sizes(number).num_evaluations == number


def test_hats_sizes_are_hats_at_hats_number() -> None:
    """At 3,025 nothing is scaled; at 605 only the iterations are fewer."""
    assert hat_sizes(3025) == EvolutionOptions()
    few = hat_sizes(605)
    assert (few.parent_size, few.mutation_size, few.crossover_size, few.num_iterations) == (25, 50, 50, 5)


def test_stand_in_predictor_knows_the_table() -> None:
    """Fitted to a table, it orders the table's points as the table does."""
    predictor = TablePredictor(tiny_table("0" * 64), SPACE)
    times_ms = predicted_ms(predictor, point_configs())
    assert times_ms == sorted(times_ms)
    assert times_ms[0] > 0


def test_report_of_a_tiny_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every method has a row with as many evaluations as asked for, beside a plot; a second run measures nothing."""
    bundle = make_tiny_bundle(tmp_path / "bundle")
    dev = write_pairs(tmp_path / "dev.tsv.gz", [(one, one) for one in SENTENCES[:12]])
    arguments = [
        "--dev", str(dev), "--bundle", str(bundle.path), "--evaluations", "30", "--promoted", "6", "--seeds", "2",
        "--subset-sentences", "6", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main(arguments) == 0
    report = (tmp_path / "out" / REPORT).read_text()
    assert (tmp_path / "out" / PLOT).stat().st_size > 1000
    assert report.count("| 30 (") == 5
    assert "| random |" in report
    assert "--dev dev.tsv.gz --bundle bundle" in report
    assert str(tmp_path) not in report
    assert "a stand-in fitted to the bundle's own table" in report
    assert "| ours | 30 (30) |" in report
    losses = (tmp_path / "cache" / "losses.jsonl").read_text()
    assert main(arguments) == 0
    assert (tmp_path / "cache" / "losses.jsonl").read_text() == losses
    assert main([*arguments, "--predictor", str(tmp_path / "absent.json")]) == 2
    assert "absent.json: cannot be read" in capsys.readouterr().err
