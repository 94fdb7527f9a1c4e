"""The benchmarks' own arithmetic and report; nothing here measures time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import predictors, switching
from benchmarks.children import child
from benchmarks.entry import command_of
from benchmarks.figures import Aim, BenchmarkError, Check, Figure, Result, Summary, Task, percentile
from benchmarks.report import Environment, as_json, as_markdown, power_mode
from benchmarks.run import BENCHMARKS
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.offline import hat_latency_predictor

ROOT = Path(__file__).parent.parent

ENVIRONMENT = Environment(
    measured_at="2026-03-04T05:06:07+00:00",
    device="Some Board, 4 CPUs",
    machine="aarch64",
    num_usable_cpus=3,
    cpu_max_frequency_hz=1.43e9,
    load_average_1min=0.25,
    cpu_pressure_fraction=None,
    power_mode="nvpmodel pmode:0001",
    torch_version="2.1.0",
    num_torch_threads=3,
    python_version="3.10.1",
    git_commit="0123456789ab",
    bundle="en-de",
    weights_sha256="fedcba9876543210" * 4,
)


def result(*, holds: bool = True) -> Result:
    """A made-up result: one aim met, one missed, one that cannot be told."""
    many = Summary(num_samples=200, median=0.02, p99=1.5, minimum=0.01, maximum=2.25)
    few = Summary.of([1.0, 1.01, 1.5])
    return Result(
        name="made-up",
        title="A made-up benchmark",
        how="It was made up.",
        figures=(
            Figure("a time", "ms", many, (Aim("median", 0.1), Aim("p99", 1.0))),
            Figure("a ratio", "x", few, (Aim("p99", 1.05),)),
        ),
        checks=(Check("all is well", holds),),
        notes=("Paper's figure: none.",),
    )


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run benchmarks/run.py from elsewhere."""
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/run.py"), *arguments],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1.0), (1, 1.0), (50, 50.0), (98.5, 99.0), (99, 99.0), (100, 100.0)]
)
def test_percentile(percent: float, expected: float) -> None:
    """Nearest rank: of 1 to 100 in any order, the percentile is the number itself."""
    assert percentile([float(number) for number in range(100, 0, -1)], percent) == expected


def test_summary() -> None:
    """A summary of 1 to 200 holds their number, median, 99th percentile and ends."""
    assert Summary.of([float(number) for number in range(1, 201)]) == Summary(200, 100.5, 198.0, 1.0, 200.0)


def test_summary_of_few() -> None:
    """Fewer than 100 samples have no 99th percentile."""
    assert Summary.of([3.0, 1.0, 2.0]) == Summary(3, 2.0, None, 1.0, 3.0)
    assert Summary.of([0.0] * 99).p99 is None
    assert Summary.of([0.0] * 100).p99 == 0.0


def test_ratio() -> None:
    """A ratio is one of medians; its spread goes from the smallest over the largest to the opposite."""
    assert Summary.ratio([4.0, 6.0, 8.0], [2.0, 3.0, 4.0, 3.0]) == Summary(3, 2.0, None, 1.0, 4.0)


def test_aim() -> None:
    """An aim is met up to its bound, missed above it, and not told without the statistic."""
    summary = Summary(100, 1.0, 2.0, 0.5, 3.0)
    assert Aim("median", 1.0).is_met(summary) is True
    assert Aim("p99", 1.99).is_met(summary) is False
    assert Aim("p99", 9.0).is_met(Summary.of([1.0])) is None


def test_markdown_names_what_was_measured_on() -> None:
    """The report names device, power mode, load, versions, commit, weights and the command."""
    report = as_markdown(ENVIRONMENT, "./run.sh bench --quick", [result()])
    assert report.startswith("# Run time benchmarks, 2026-03-04\n")
    for part in (
        "Some Board, 4 CPUs (aarch64), 3 CPUs usable, clock cap 1430 MHz",
        "Power mode: nvpmodel pmode:0001",
        "0.25 (1 min average), CPU pressure not known",
        "torch 2.1.0 with 3 threads, Python 3.10.1, commit 0123456789ab",
        "weights sha256 fedcba987654\n",
        "\n    ./run.sh bench --quick\n",
    ):
        assert part in report


def test_markdown_judges_every_aim_in_words() -> None:
    """Each figure has a row: number of samples, statistics with units, aims, and whether they were met."""
    report = as_markdown(ENVIRONMENT, "./run.sh bench", [result()])
    assert (
        "| a time | 200 | 0.02 ms | 1.500 ms | 0.01 – 2.250 ms | median <= 0.1 ms, p99 <= 1 ms "
        "| median met, p99 missed |"
    ) in report
    assert (
        "| a ratio | 3 | 1.010 x | – | 1.000 – 1.500 x | p99 <= 1.05 x | p99 not told by so few samples |"
    ) in report
    assert "- Holds: all is well" in report
    assert "Paper's figure: none." in report


def test_markdown_shouts_when_a_check_does_not_hold() -> None:
    """A check that fails cannot be overlooked."""
    assert "- DOES NOT HOLD: all is well" in as_markdown(ENVIRONMENT, "./run.sh bench", [result(holds=False)])


def test_json() -> None:
    """The object can be written as JSON and holds the verdicts."""
    told = json.loads(json.dumps(as_json(ENVIRONMENT, "./run.sh bench", [result()])))
    assert told["environment"]["device"] == "Some Board, 4 CPUs"
    (described,) = told["results"]
    assert [aim["is_met"] for figure in described["figures"] for aim in figure["aims"]] == [True, False, None]
    assert described["figures"][0]["summary"]["p99"] == 1.5


def test_power_mode(tmp_path: Path) -> None:
    """A Jetson's mode goes before the clock governor; without either it is None."""
    assert power_mode(tmp_path) is None
    for path, content in (
        ("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "schedutil\n"),
        ("var/lib/nvpmodel/status", "pmode:0001\n"),
    ):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(content)
        assert content.strip() in (power_mode(tmp_path) or "")


def test_child_never_outlives_its_block() -> None:
    """A child is stopped and reaped even when the block ends by an error."""
    processes = []

    def fail_meanwhile() -> None:
        with child(["-c", "print('up', flush=True); import time; time.sleep(600)"]) as process:
            processes.append(process)
            assert process.first_line() == "up"
            raise RuntimeError("over")

    with pytest.raises(RuntimeError, match="over"):
        fail_meanwhile()
    assert [process.popen.poll() is None for process in processes] == [False]


def test_child_that_fails_says_why() -> None:
    """A child that ends without a word is an error with the last line of its log."""
    with (
        child(["-c", "raise SystemExit('no such bundle')"]) as process,
        pytest.raises(BenchmarkError, match=r"wrote no line.*no such bundle"),
    ):
        process.first_line()


def test_help() -> None:
    """Help comes from anywhere, and names every benchmark and an example."""
    done = run("--help")
    assert done.returncode == 0
    assert "./run.sh bench --quick" in done.stdout
    for name in BENCHMARKS:
        assert f"\n  {name} " in done.stdout


def test_switching_holds_what_it_checks(tiny_bundle: Bundle) -> None:
    """Under load no translation fails and no output changes; what it takes is for the report to say."""
    found = switching.measure(Task(tiny_bundle.path, is_quick=True, tell=lambda _: None))
    assert [check for check in found.checks if not check.holds] == []
    assert [figure.summary.num_samples for figure in found.figures] == [switching.NUM_SWITCHES_QUICK] * 2


def test_no_path_of_this_machine_is_in_a_report() -> None:
    """The command that a report gives calls files by their names."""
    command = command_of("decode", ["--out", "/home/somebody/reports", "--tokens", "30", "--json"])
    assert command == "python -m benchmarks.decode --out reports --tokens 30 --json"


def test_unknown_benchmark() -> None:
    """A name that does not exist is refused with those that do."""
    done = run("swiching")
    assert done.returncode == 2
    assert "no benchmark 'swiching': choose among switching, memory, startup" in done.stderr


def test_bundle_that_is_not_there(tmp_path: Path) -> None:
    """Without a bundle the run ends in one line that names it, and writes no report."""
    done = run("switching", "--bundle", str(tmp_path / "none"), "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert "bench: error: " in done.stderr
    assert "none" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


# --- latency predictors ---


def test_predictor_report_shows_both_on_every_dataset(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The report has a row per dataset with our error, HAT's and the bound of the noise, and a picture."""
    monkeypatch.setattr(hat_latency_predictor, "NUM_STEPS", 100)
    name = "wmt14ende_raspberrypi4_cpu"
    trial = predictors.try_out(ROOT / f"tests/data/latency/{name}.csv", 0)
    text = predictors.as_markdown(tmp_path, [0], {name: [trial]})
    rows = [line for line in text.splitlines() if line.startswith(f"| {name} ")]
    assert len(rows) == 3
    assert f"**{100 * trial.predictor.record.mape:.2f} % [" in rows[0]
    assert " 3.5% | 1 of 1 " in rows[0]
    assert trial.state_known_mape < trial.predictor.record.mape < trial.additive_mape
    predictors.draw({name: [trial]}, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
