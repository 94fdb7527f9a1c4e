"""The adaptation benchmark's own arithmetic, report and disturbances, on hand-made figures.

Nothing here measures time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import adaptation_device
from benchmarks.adaptation import parse
from benchmarks.adaptation_daemon import Promise
from benchmarks.adaptation_device import CpuQuota, Device, check_stress, why_no_quota
from benchmarks.adaptation_figures import (
    Pass,
    PhaseRun,
    Request,
    Switch,
    cell_of_runs,
    flaps,
    oracle_point,
    share_over,
    with_switches,
)
from benchmarks.adaptation_measure import LARGEST, OURS, SMALLEST, Calibration
from benchmarks.adaptation_outcome import ORACLE, DrawnOutcome, Outcome
from benchmarks.adaptation_phases import (
    AT_REST,
    COMPETING_LOAD,
    HALF_QUOTA,
    ONE_SHARED_CPU,
    Phase,
    Resources,
    course,
    distinct,
    drawn_course,
)
from benchmarks.adaptation_plot import draw
from benchmarks.adaptation_report import as_drawn_json, as_drawn_markdown, as_json, as_markdown
from benchmarks.children import child
from benchmarks.figures import BenchmarkError
from benchmarks.sentences import sentences_of_30_words
from tests.test_benchmarks import ENVIRONMENT

ROOT = Path(__file__).parent.parent
BUDGET_MS = 100.0
BLEU = {"small": 20.0, "middle": 28.0, "large": 30.0}
QUALITY = {"small": -3.3, "middle": -3.0, "large": -2.9}
CALIBRATION = Calibration(largest_ms=74.0, promise=Promise(BUDGET_MS, 40))


def requests(point_id: str, *times_ms: float, began_s: float = 0.0, every_s: float = 1.0) -> list[Request]:
    """Requests one after the other."""
    return [Request(began_s + n * every_s, time_ms, point_id) for n, time_ms in enumerate(times_ms)]


def phase_run(
    name: str, resources: Resources, began_s: float, found: list[Request], *switches: Switch
) -> PhaseRun:
    """A phase of 10 s, in effect half a second after it began."""
    phase = Phase(name, resources, 10.0)
    return PhaseRun(phase, began_s, began_s + 0.5, began_s + 10, "large", tuple(found), tuple(switches))


def outcome(*, ours_ms: float = 90.0, num_switches: int = 1, fails: bool = False) -> Outcome:
    """Two phases, at rest and one shared CPU: there the largest takes 200 ms, the middle one `ours_ms`."""
    switches = [Switch(10.7 + n, "large", "middle", "over the budget") for n in range(num_switches)]
    found = [*requests("large", 200.0, began_s=10.6), *requests("middle", *[ours_ms] * 9, began_s=11.0)]
    if fails:
        found.append(Request(20.0, 5.0, None, "503"))
    ways = {
        OURS: (requests("large", *[74.0] * 9), found, tuple(switches)),
        LARGEST: (requests("large", *[74.0] * 9), requests("large", *[200.0] * 9, began_s=10.6), ()),
        SMALLEST: (requests("small", *[20.0] * 9), requests("small", *[60.0] * 9, began_s=10.6), ()),
    }
    passes = [
        Pass(
            arm,
            (
                phase_run("all CPUs", AT_REST, 0.0, at_rest),
                phase_run("one CPU, shared", ONE_SHARED_CPU, 10.0, disturbed, *switched),
            ),
        )
        for arm, (at_rest, disturbed, switched) in ways.items()
    ]
    sweep = {
        AT_REST: {point_id: requests(point_id, 50.0, 60.0) for point_id in BLEU},
        ONE_SHARED_CPU: {
            point_id: requests(point_id, time_ms, time_ms)
            for point_id, time_ms in (("small", 60.0), ("middle", 90.0), ("large", 200.0))
        },
    }
    phases = [run.phase for run in passes[0].runs]
    return Outcome(CALIBRATION, phases, passes, sweep, BLEU, QUALITY)


# --- phases ---


def test_course_leaves_out_what_cannot_be_made() -> None:
    """Without a quota the course has every phase but that one, and begins and ends at rest."""
    full = course(5.0, lambda _: True)
    assert [phase.name for phase in full if phase.resources == HALF_QUOTA] == ["half quota"]
    without = course(5.0, lambda resources: resources.quota_cpus is None)
    assert [phase for phase in full if phase.resources != HALF_QUOTA] == without
    assert full[0].resources == full[-1].resources == AT_REST
    assert not full[0].is_disturbed
    assert all(phase.is_disturbed for phase in full[1:-1])


def test_drawn_course_is_the_seeds() -> None:
    """The same seed draws the same course, another one another; it lasts as long as asked for."""
    one = drawn_course(7, 120.0, lambda _: True)
    assert one == drawn_course(7, 120.0, lambda _: True)
    assert one != drawn_course(8, 120.0, lambda _: True)
    assert sum(phase.duration_s for phase in one) == pytest.approx(120.0)


def test_drawn_course_changes_at_every_phase() -> None:
    """It begins at rest, and no phase is like the one before."""
    phases = drawn_course(3, 600.0, lambda resources: resources.quota_cpus is None)
    assert phases[0].resources == AT_REST
    assert all(before.resources != after.resources for before, after in pairwise(phases))
    assert COMPETING_LOAD in distinct(phases)
    assert HALF_QUOTA not in distinct(phases)


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        (AT_REST, "all CPUs"),
        (ONE_SHARED_CPU, "1 CPU, 1 busy process"),
        (Resources(quota_cpus=0.5, num_busy=2), "quota 0.5 CPU, 2 busy processes"),
    ],
)
def test_resources_in_words(resources: Resources, words: str) -> None:
    """Resources say what is left."""
    assert resources.in_words() == words


def test_sentences() -> None:
    """There are forty different sentences of 30 to 33 words, each ending once."""
    sentences = sentences_of_30_words()
    assert len(set(sentences)) == 40
    assert {len(sentence.split()) for sentence in sentences} <= {30, 31, 32, 33}
    assert all(sentence.endswith(".") and sentence.count(".") == 1 for sentence in sentences)


# --- figures ---


def test_share_over() -> None:
    """A request exactly at the budget is within it; one that failed is over it; of none there is no share."""
    found = [*requests("large", 99.0, 100.0, 100.1), Request(3.0, 1.0, None, "503")]
    assert share_over(found, BUDGET_MS) == 0.5
    assert share_over([], BUDGET_MS) is None


def test_cell() -> None:
    """A cell pools the rounds; only what began 2 s after the disturbance took effect counts as reacted."""
    first = phase_run(
        "p",
        ONE_SHARED_CPU,
        10.0,
        [Request(12.4, 300.0, "large"), Request(12.5, 83.0, "middle", predicted_ms=88.0, answered_ms=80.0)],
        Switch(11.5, "large", "middle", "why"),
    )
    second = phase_run(
        "p", ONE_SHARED_CPU, 50.0, [Request(59.0, 90.0, "middle"), Request(59.5, 7.0, None, "503")]
    )
    first, second = replace(first, batch_errors=(-0.3, 0.1)), replace(second, batch_errors=(0.05,))
    found = cell_of_runs([first, second], BUDGET_MS, BLEU)
    assert (found.num_requests, found.num_failed) == (4, 1)
    assert found.over == 0.5
    assert found.over_reacted == pytest.approx(1 / 3)
    assert (found.median_ms, found.p95_ms) == (90.0, 300.0)
    assert found.bleu == pytest.approx((30 + 28 + 28) / 3)
    assert (found.prediction_error, found.batch_error) == (pytest.approx(0.1), 0.1)
    assert found.settled_s == (1.0, 0.0)
    assert found.num_switches == (1, 0)
    assert found.point_id is None


def test_settled_is_never_negative() -> None:
    """A switch while the disturbance was still taking effect settles it at 0 s; the last switch counts."""
    early = Switch(10.2, "large", "middle", "why")
    assert phase_run("p", ONE_SHARED_CPU, 10.0, [], early).settled_s == 0.0
    late = Switch(14.5, "middle", "small", "why")
    assert phase_run("p", ONE_SHARED_CPU, 10.0, [], early, late).settled_s == 4.0


def test_switches_go_to_their_phases() -> None:
    """A phase gets the switches from its beginning to the next one's, and lasts until then."""
    runs = [phase_run("a", AT_REST, 0.0, []), phase_run("b", ONE_SHARED_CPU, 10.2, [])]
    switches = [Switch(at_s, "large", "middle", "why") for at_s in (-1.0, 0.0, 10.1, 10.2, 20.1, 30.0)]
    first, second = with_switches(runs, switches)
    assert [one.at_s for one in first.switches] == [0.0, 10.1]
    assert [one.at_s for one in second.switches] == [10.2, 20.1]
    assert (first.ended_s, second.ended_s) == (10.2, 20.2)


def test_oracle_is_the_best_that_holds_the_budget() -> None:
    """Of the points with at most 5 % over the budget the best is taken, whatever its latency."""
    of_points = {
        "small": requests("small", *[10.0] * 20),
        "middle": requests("middle", *[99.0] * 19, 101.0),
        "large": requests("large", *[60.0] * 18, 101.0, 101.0),
    }
    assert oracle_point(of_points, BUDGET_MS, QUALITY) == "middle"


def test_oracle_where_none_holds_the_budget() -> None:
    """Then the least share over it counts, and of equals the best."""
    of_points = {
        "small": requests("small", 90.0, 110.0),
        "middle": requests("middle", 110.0, 90.0),
        "large": requests("large", 110.0, 110.0),
    }
    assert oracle_point(of_points, BUDGET_MS, QUALITY) == "middle"


def test_flaps() -> None:
    """A point that comes back within 5 s is a flap; later, or after a disturbance in between, it is none."""
    down, up = Switch(10.0, "large", "middle", "why"), Switch(14.0, "middle", "large", "why")
    assert flaps([down, up], []) == [up]
    assert flaps([down, up], [9.0]) == [up]
    assert flaps([down, up], [12.0]) == []
    assert flaps([down, Switch(15.1, "middle", "large", "why")], []) == []


def test_flap_over_a_third_point() -> None:
    """A point that comes back by way of another one has flapped, too; points that only follow each other have not."""
    there = [Switch(10.0, "large", "middle", "why"), Switch(11.0, "middle", "small", "why")]
    back = Switch(12.0, "small", "large", "why")
    assert flaps(there, []) == []
    assert flaps([*there, back], []) == [back]


# --- verdicts and report ---


def test_oracle_cell_is_the_sweeps() -> None:
    """The oracle's figures are those of its point under the phase's resources."""
    found = outcome().cell(ORACLE, 1)
    assert (found.point_id, found.bleu, found.num_requests) == ("middle", 28.0, 2)


def test_all_aims_met() -> None:
    """Where ours follows the oracle at once, every aim is met."""
    assert [one.is_met for one in outcome().verdicts()] == [True] * 5


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        (outcome(ours_ms=120.0), 0),
        (outcome(num_switches=3), 2),
        (outcome(fails=True), 3),
    ],
)
def test_missed_aims(changed: Outcome, missed: int) -> None:
    """Being over the budget, switching thrice, and failing a request each miss their own aim."""
    assert not changed.verdicts()[missed].is_met


def test_the_largest_is_judged_over_the_disturbed_phases_together() -> None:
    """A phase that costs it nothing is told, and counts by its requests; one at rest does not count."""
    found = outcome()
    largest = next(one for one in found.passes if one.arm == LARGEST)
    at_rest, slow = largest.runs
    spared = phase_run("one CPU", ONE_SHARED_CPU, 20.0, requests("large", *[74.0] * 10, began_s=20.6))
    unspared = replace(spared, requests=tuple(requests("large", *[74.0] * 8, began_s=20.6)))
    for third, words, is_met in ((spared, "47%", False), (unspared, "53%", True)):
        passes = [
            Pass(
                one.arm,
                (*one.runs, replace(one.runs[1], phase=third.phase))
                if one.arm != LARGEST
                else (at_rest, slow, third),
            )
            for one in found.passes
        ]
        phases = [*found.phases, third.phase]
        verdict = Outcome(CALIBRATION, phases, passes, found.sweep, BLEU, QUALITY).verdicts()[4]
        assert verdict.figure == f"{words}: one CPU, shared 100%, one CPU 0%"
        assert verdict.is_met is is_met


def test_quality_too_far_below_the_oracle() -> None:
    """An arm that stays small where the largest fits misses the quality aim, and the report shouts."""
    found = outcome()
    lazy = Pass(
        OURS,
        (
            phase_run("all CPUs", AT_REST, 0.0, requests("small", *[20.0] * 9)),
            found.passes[0].runs[1],
        ),
    )
    changed = Outcome(CALIBRATION, found.phases, [lazy, *found.passes[1:]], found.sweep, BLEU, QUALITY)
    assert changed.verdicts()[1].is_met is False
    assert "all CPUs 0.667 (missed)" in as_markdown(changed, ENVIRONMENT, "command", "plot.png", [])
    assert "| MISSED |" in as_markdown(changed, ENVIRONMENT, "command", "plot.png", [])


def test_markdown() -> None:
    """The report names device, command, budget, phases and picture, and has a row per phase and arm."""
    report = as_markdown(outcome(), ENVIRONMENT, "python -m it", "plot.png", ["A note."])
    for part in (
        "Some Board, 4 CPUs (aarch64)",
        "\n    python -m it\n",
        "budget is 100 ms for a sentence of 40 tokens: 1.25 times the 74 ms",
        "- one CPU, shared: 1 CPU, 1 busy process",
        "(plot.png)",
        "| all CPUs | ours | 9 | 0 | 0% | 0% | 74 ms | 74 ms | 30.0 | 0.0 s | 0 |",
        "|  | static largest | 9 | 0 | 100% | 100% | 200 ms | 200 ms | 30.0 | – | – |",
        "|  | oracle (middle) | 2 | 0 | 0% | 0% | 90 ms | 90 ms | 28.0 | – | – |",
        "| no failed request, in any arm | 0 of 59 | met |",
    ):
        assert part in report
    assert report.endswith("A note.\n")


def test_json_holds_every_request() -> None:
    """The object can be written as JSON and holds each request, switch and verdict."""
    told = json.loads(json.dumps(as_json(outcome(), ENVIRONMENT, "command")))
    assert [one["is_met"] for one in told["verdicts"]] == [True] * 5
    assert sum(len(run["requests"]) for one in told["passes"] for run in one["runs"]) == 55
    assert told["passes"][0]["runs"][1]["switches"][0]["to_id"] == "middle"
    assert len(told["cells"]) == 8


def drawn(*switches: Switch) -> DrawnOutcome:
    """Ours at rest and on one shared CPU, as if drawn by chance."""
    runs = list(outcome().passes[0].runs)
    return DrawnOutcome(CALIBRATION, 5, Pass(OURS, with_switches(runs, switches)), BLEU)


def test_drawn_report() -> None:
    """It says how many disturbances and switches there were, and that nothing flapped."""
    found = drawn(Switch(11.0, "large", "middle", "why"))
    report = as_drawn_markdown(found, ENVIRONMENT, "command", "plot.png", [])
    assert "seed 5: 1 disturbances" in report
    assert "1 switches (1.00 per disturbance)" in report
    assert "0 of 1 switches | met |" in report
    assert [one.is_met for one in found.verdicts()] == [True] * 4
    assert json.loads(json.dumps(as_drawn_json(found, ENVIRONMENT, "command")))["seed"] == 5


def test_drawn_report_names_a_flap() -> None:
    """A flap misses the aim and is told with its reason."""
    found = drawn(Switch(11.0, "large", "middle", "why"), Switch(13.0, "middle", "large", "because"))
    assert found.verdicts()[0].is_met is False
    assert "- middle -> large, flapping: because" in as_drawn_markdown(found, ENVIRONMENT, "c", "p.png", [])


def test_picture(tmp_path: Path) -> None:
    """Pictures are drawn with and without the largest point's panel, whatever is missing or off the axis."""
    ours, largest, _ = outcome(ours_ms=900.0, fails=True).passes
    for name, lowest in (("three.png", largest), ("two.png", None)):
        draw(tmp_path / name, ours, lowest, BUDGET_MS, list(BLEU), "A title")
        assert (tmp_path / name).stat().st_size > 10_000


# --- disturbances ---


def test_affinity_of_all_threads() -> None:
    """One CPU means every thread of the process, and all of them get their CPUs back, also after an error."""
    cpus = os.sched_getaffinity(0)
    program = (
        "import threading, time; threading.Thread(target=time.sleep, args=(600,)).start(); print(flush=True)"
    )
    with child(["-c", program]) as process:
        process.first_line()
        threads = [int(name) for name in os.listdir(f"/proc/{process.popen.pid}/task")]
        assert len(threads) >= 2

        def fail_meanwhile() -> None:
            with Device.of(process, with_quota=False) as device:
                device.give(Resources(num_cpus=1))
                assert [os.sched_getaffinity(thread) for thread in threads] == [{min(cpus)}] * len(threads)
                raise RuntimeError("over")

        with pytest.raises(RuntimeError, match="over"):
            fail_meanwhile()
        assert [os.sched_getaffinity(thread) for thread in threads] == [cpus] * len(threads)


def test_quota_files(tmp_path: Path) -> None:
    """Without a v1 cpu controller a quota is refused in words; no folder is left."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    with pytest.raises(OSError, match="no cgroup v1 cpu controller"), CpuQuota.made(tmp_path):
        pass


@pytest.mark.skipif(why_no_quota() is not None, reason=f"quota: {why_no_quota()}")
def test_quota() -> None:
    """The process is put under the quota, and its cgroup is gone afterwards though the process lives on."""
    with child(["-c", "import time; print(flush=True); time.sleep(600)"]) as process:
        process.first_line()
        pid = process.popen.pid
        with Device.of(process, with_quota=True) as device:
            device.give(HALF_QUOTA)
            membership = Path(f"/proc/{pid}/cgroup").read_text()
            (path,) = (
                line.split(":", 2)[2]
                for line in membership.splitlines()
                if "cpu" in line.split(":")[1].split(",")
            )
            folder = adaptation_device._own_cgroup(Path("/")) / Path(path).name
            assert folder.name.startswith("dynhat-benchmark-")
            assert (folder / "cpu.cfs_quota_us").read_text() == "5000\n"
            device.give(AT_REST)
            assert (folder / "cpu.cfs_quota_us").read_text() == "-1\n"
        assert not folder.exists()
        assert process.popen.poll() is None


def test_without_stress_ng(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its absence is an error that names the package."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchmarkError, match="install the package stress-ng"):
        check_stress()


def test_competing_load_is_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The competing program runs while it is asked for, restarts with other CPUs, and none is left in the end."""
    log = tmp_path / "started"
    stand_in = tmp_path / "stress-ng"
    stand_in.write_text(
        f'#!/bin/sh\necho "$@" >> {log}\nsleep 600 & echo $! >> {tmp_path}/pids\nsleep 600 & wait\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with child(["-c", "import time; time.sleep(600)"]) as process:
        with Device.of(process, with_quota=False) as device:
            device.give(COMPETING_LOAD)
            device.give(COMPETING_LOAD)
            device.give(ONE_SHARED_CPU)
        assert [line.split()[:2] for line in log.read_text().splitlines()] == [["--cpu", "2"], ["--cpu", "1"]]
        cpu = str(min(os.sched_getaffinity(0)))
        assert f"--taskset {cpu} " in log.read_text().splitlines()[1]
    give_up_s = time.monotonic() + 10.0
    for pid in (tmp_path / "pids").read_text().split():
        while not _is_gone(int(pid)):  # it was killed, which takes its moment
            assert time.monotonic() < give_up_s, f"{pid} goes on"
            time.sleep(0.01)


def _is_gone(pid: int) -> bool:
    """Ended, whether or not somebody has taken note of it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


# --- command line ---


def test_help() -> None:
    """Help comes from anywhere and gives examples."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks/adaptation.py"), "--help"],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert "--random-minutes 10 --seed 1" in done.stdout


def test_absurd_minutes(capsys: pytest.CaptureFixture[str]) -> None:
    """Minutes that cannot be are refused in words."""
    for minutes in ("0", "-1", "nan"):
        with pytest.raises(SystemExit):
            parse([f"--random-minutes={minutes}"])
        assert "give minutes above 0" in capsys.readouterr().err
