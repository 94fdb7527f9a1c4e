"""The decode benchmark's own parts: what it counts, compares, keeps and says; nothing here judges a time."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import decode, decode_engines
from benchmarks.decode_engines import Absent, Engines, OurDecoder
from benchmarks.decode_floor import Floor, Roof, Work
from benchmarks.decode_latency import Case, Effort, Row, RowFile, Spread, all_cases, measure_rows, take_turns
from benchmarks.decode_report import Found, found_as_json, found_as_markdown
from benchmarks.decode_shapes import Shape, Shapes, Stock
from benchmarks.eager_baseline import EagerDecoder
from benchmarks.figures import BenchmarkError
from dynhat_runtime.decoding.tokenizer import EOS_ID
from dynhat_runtime.errors import NativeUnavailableError
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.shortlist import Shortlist
from dynhat_runtime.model.super_transformer import SuperTransformer
from tests.test_benchmarks import ENVIRONMENT, ROOT, result

EFFORT = Effort(num_rounds=2, row_s=0.0, num_eager_rounds=1)
WEIGHED = ("ratio_to_ctranslate2", "floor_ms", "ours_ms", "ctranslate2_ms")


@pytest.fixture(scope="session")
def shapes(tiny_bundle: Bundle) -> Shapes:
    """Shapes of the tiny bundle."""
    return Shapes(tiny_bundle)


def lively(shape: Shape) -> Shape:
    """`shape` with biases, norms and an output in which every weight matters, so that a mistake shows."""
    generator = torch.Generator().manual_seed(3)
    weights = {
        name: weight + 0.3 * torch.randn(weight.shape, generator=generator) / weight.shape[-1] ** 0.5
        for name, weight in shape.stock.weights.weights.items()
    }
    model = SuperTransformer(shape.stock.weights.spec, weights)
    return dataclasses.replace(shape, stock=Stock(model, shape.stock.vocabulary, shape.stock.text_ids))


def row(**changes: object) -> Row:
    """A row, made up."""
    values: dict[str, object] = {
        "shape": "l1", "num_tokens": 30, "beam": 1, "threads": 1, "precision": "fp32", "num_pairs": 3,
        "ours_ms": 8.0, "ours_low_ms": 7.5, "ours_high_ms": 9.0, "ctranslate2_ms": 16.0,
        "ctranslate2_low_ms": 15.0, "ctranslate2_high_ms": 17.0, "ratio_to_ctranslate2": 0.5, "ratio_low": 0.45,
        "ratio_high": 0.55, "floor_ms": 4.0, "encoder_floor_ms": 1.0, "times_floor": 2.0,
        "ctranslate2_times_floor": 4.0, "eager_ms": 80.0, "ratio_to_eager": 0.1, "has_equal_output": True,
        "why_not": None,
    }  # fmt: skip
    return Row(**{**values, **changes})  # type: ignore[arg-type]


def absent_row() -> Row:
    """A row of a precision that we do not have."""
    nothing = ("ours_ms", "ours_low_ms", "ours_high_ms", "ratio_to_ctranslate2", "ratio_low", "ratio_high")
    return row(
        precision="int8", **dict.fromkeys((*nothing, "times_floor", "eager_ms", "ratio_to_eager")),
        has_equal_output=None, why_not="int8: nothing is compiled",
    )  # fmt: skip


def found(*rows: Row, not_measured: tuple[Case, ...] = ()) -> Found:
    """A run that found `rows`."""
    return Found(
        ENVIRONMENT, "4.0", "python -m benchmarks.decode", rows, not_measured, {"l2": "layer 2 has 4 heads"},
        Roof(0.0), [result()], ["paper"],
    )  # fmt: skip


# --- what is compared ---


def test_spans_are_one(shapes: Shapes) -> None:
    """Every shape, of the bundle or of the paper's size, has cross-attention span 1 in every layer."""
    assert shapes.names[:3] == shapes.shipped_names == ["small", "middle", "large"]
    assert [set(shapes[name].config.cross_attention_spans) for name in shapes.shipped_names] == [{1}] * 3


def test_source_has_the_length_asked_for(shapes: Shapes) -> None:
    """A source of n tokens has n ids, of which only the last is eos."""
    source = shapes["small"].source(12)
    assert (len(source), source.index(2)) == (12, 11)


def test_point_that_ctranslate2_cannot_express(tiny_bundle: Bundle) -> None:
    """A point with mixed heads is left out, and asking for it names the layer."""
    table = tiny_bundle.table()
    mixed = table["middle"].config.model_copy(update={"decoder_attention_heads": (4, 2)})
    points = tuple(
        point.model_copy(update={"config": mixed}) if point.id == "middle" else point for point in table
    )

    class OtherTable:
        def table(self) -> object:
            return table.model_copy(update={"points": points})

    shapes = Shapes(OtherTable())  # type: ignore[arg-type]  # all that it asks a bundle for here
    assert shapes.shipped_names == ["small", "large"]
    with pytest.raises(
        BenchmarkError, match=r"'middle': CTranslate2 cannot express it: decoder layer 2 has 2"
    ):
        shapes["middle"]


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("name", ["small", "large"])
def test_eager_baseline_says_the_same(shapes: Shapes, name: str, beam: int) -> None:
    """The baseline finds what our search finds, in exactly the steps asked for."""
    shape = lively(shapes[name])
    ours = OurDecoder(shape.stock.prepared("fp32").extract(shape.config), 1)
    eager = EagerDecoder(shape.stored(), 1)
    for num_steps in (1, 9, 20):
        said = ours.decode(shape.source(14), num_steps, beam)
        assert len(said) == num_steps
        assert said.index(2) == num_steps - 1
        assert eager.decode(shape.source(14), num_steps, beam) == said


def test_ctranslate2_says_the_same_in_as_many_steps(shapes: Shapes, tmp_path: Path) -> None:
    """CTranslate2 on the converted weights takes exactly the steps asked for and agrees up to the forced eos."""
    pytest.importorskip("ctranslate2")
    engines = Engines(lively(shapes["large"]), tmp_path)
    ours, theirs = engines.ours("fp32", 1), engines.ctranslate2("fp32", 1)
    assert not isinstance(ours, Absent)
    source = engines.shape.source(14)
    said, they_said = ours.decode(source, 12, 1), theirs.decode(source, 12, 1)
    assert len(they_said) == 12
    assert 2 not in they_said
    assert said[:-1] == they_said[:-1]


def test_ctranslate2s_map_holds_what_our_shortlist_holds(shapes: Shapes, tmp_path: Path) -> None:
    """As served, neither engine says anything but what is listed for the sentence; without a map CTranslate2 does."""
    pytest.importorskip("ctranslate2")
    shape = lively(shapes[shapes.shipped_names[0]])
    source, vocab_size = shape.source(6), shape.stock.weights.spec.tgt_vocab_size
    own = {source[0]: [20, 21], source[1]: [22], source[2]: [23]}
    rows = [own.get(i, []) for i in range(shape.stock.weights.spec.src_vocab_size)]
    shortlist = Shortlist(
        common=np.array([EOS_ID, 10, 11], np.int32),
        starts=np.cumsum([0, *map(len, rows)]).astype(np.int32),
        tokens=np.array([i for row in rows for i in row], np.int32),
        tgt_vocab_size=vocab_size,
    )
    stock = Stock(shape.stock.weights, shape.stock.vocabulary, shape.stock.text_ids, shortlist)
    engines = Engines(dataclasses.replace(shape, stock=stock), tmp_path)
    listed = set(shortlist.listed(source).tolist())
    assert set(engines.ctranslate2("int8", 1, has_map=True).decode(source, 12, 4)) <= listed
    assert not set(engines.ctranslate2("int8", 1).decode(source, 12, 4)) <= listed
    ours = engines.ours("int8", 1, has_shortlist=True)
    if not isinstance(ours, Absent):
        assert set(ours.decode(source, 12, 4)) <= listed


def test_a_section_that_fails_does_not_cost_the_others_their_report(
    monkeypatch: pytest.MonkeyPatch, tiny_bundle: Bundle
) -> None:
    """What kept it from being measured stands in the report as a check that does not hold."""

    def fail(*_: object) -> None:
        raise BenchmarkError("no translation began")

    monkeypatch.setattr(decode, "_measure_section", fail)
    found = decode._measured_or_not("switching", tiny_bundle, is_quick=True)
    assert [(check.claim, check.holds) for check in found.checks] == [
        ("it could be measured: no translation began", False)
    ]


def test_without_ctranslate2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library the message says what to install."""
    monkeypatch.setattr(decode_engines.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BenchmarkError, match=r"pip install 'dynhat-runtime\[bench\]'"):
        decode_engines.check_ctranslate2()


# --- the floor ---


def test_work_of_a_step(shapes: Shapes) -> None:
    """A step reads every decoder matrix but cross-attention's keys and values, its biases and norms, and the output."""
    sub = shapes["small"].stored()
    width, qkv, ffn, vocab = 16, 16, 16, sub.output.weight_OI.shape[0]
    matrices = width * (3 * qkv) + qkv * width + width * qkv + qkv * width + 2 * width * ffn + vocab * width
    rows = 3 * qkv + width + qkv + width + ffn + width
    norms = 3 * 2 * width
    assert Work.of(sub, "fp32").step_bytes == 4 * (matrices + rows + norms)
    assert Work.of(sub, "int8").step_bytes == matrices + 4 * (rows + rows + vocab + norms)


def test_work_of_the_encoder(shapes: Shapes) -> None:
    """The encoder's operations grow with the tokens and, in attention, with their square."""
    sub = shapes["small"].stored()
    layer = 16 * 48 + 16 * 16 + 2 * 16 * 16
    work = Work.of(sub, "fp32")
    assert work.encoder_flops(1) == 2 * (2 * layer + 16 * 32) + 2 * 4 * 16
    assert work.encoder_flops(3) == 3 * 2 * (2 * layer + 16 * 32) + 9 * 2 * 4 * 16


def test_floor_adds_up() -> None:
    """The floor is the encoder's time and one step's as often as there are steps."""
    assert Floor(encoder_ms=2.0, step_ms=0.5, num_steps=30).total_ms == 17.0


def test_more_threads_never_read_slower() -> None:
    """A rate of two threads is at least that of one, so that the floor stays one."""
    roof = Roof(measuring_s=0.0)
    assert roof.bandwidth(2**20, 2) >= roof.bandwidth(2**20, 1) > 0
    assert roof.arithmetic("int8", 1) >= roof.arithmetic("fp32", 1) > 0


# --- taking turns ---


def test_turns_alternate() -> None:
    """Every other round runs backwards; who takes part in fewer rounds is left out of the rest."""
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in ("ours", "theirs", "eager")}
    times_ms = take_turns(runs, Effort(3, row_s=60.0, num_eager_rounds=1), {"eager": 1}, 0.0)
    assert order == ["ours", "theirs", "eager", "theirs", "ours", "ours", "theirs"]
    assert [len(samples) for samples in times_ms.values()] == [3, 3, 1]


def test_turns_end_with_the_time() -> None:
    """When a row's time is over no further round begins, but two are made."""
    assert len(take_turns({"ours": lambda: None}, Effort(9, 0.0, 0), {}, 0.0)["ours"]) == 2


def test_spread() -> None:
    """Median and quartiles; a single sample is all three."""
    assert Spread.of([4.0, 1.0, 2.0, 3.0, 5.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0)


# --- rows ---


def test_rows_of_both_precisions(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row has ratio, floor and baseline; a precision we lack is null with the reason."""
    pytest.importorskip("ctranslate2")

    def unavailable() -> None:
        raise NativeUnavailableError("nothing is compiled")

    monkeypatch.setattr("dynhat_runtime.model.laid_out.load", unavailable)
    shapes = Shapes(tiny_bundle)
    cases = all_cases(["small"], [10], [4], [1])
    rows = list(measure_rows(cases, lambda name: Engines(shapes[name], tmp_path), Roof(0.0), EFFORT))
    assert [found.case for found in rows] == cases
    fp32, int8 = rows
    assert fp32.ours_ms is not None
    assert fp32.eager_ms is not None
    assert fp32.ratio_to_ctranslate2 == fp32.ours_ms / fp32.ctranslate2_ms
    assert fp32.ratio_to_eager == fp32.ours_ms / fp32.eager_ms
    assert fp32.times_floor == fp32.ours_ms / fp32.floor_ms
    assert fp32.why_not is None
    assert (int8.ours_ms, int8.ratio_to_ctranslate2, int8.times_floor) == (None, None, None)
    assert int8.why_not == "int8: nothing is compiled"
    assert int8.ctranslate2_ms > 0


def test_time_is_up(shapes: Shapes, tmp_path: Path) -> None:
    """No row is begun once time is up."""
    cases = all_cases(["small"], [10], [1], [1])
    assert (
        list(
            measure_rows(cases, lambda name: Engines(shapes[name], tmp_path), Roof(0.0), EFFORT, lambda: True)
        )
        == []
    )


def test_row_file_goes_on(tmp_path: Path) -> None:
    """Rows come back from the file, under the same identity only; None stays None."""
    path = tmp_path / "rows.jsonl"
    RowFile(path, {"commit": "a"}).add(row())
    RowFile(path, {"commit": "a"}).add(absent_row())
    again = RowFile(path, {"commit": "a"})
    assert again.rows == [row(), absent_row()]
    assert again.row_of(row().case) == row()
    assert again.row_of(dataclasses.replace(row().case, beam=4)) is None
    with pytest.raises(
        BenchmarkError, match="measured with commit 'a', now it is 'b': give --rows another file"
    ):
        RowFile(path, {"commit": "b"})


def test_row_file_of_something_else(tmp_path: Path) -> None:
    """A file of something else is refused and left alone."""
    path = tmp_path / "notes.txt"
    path.write_text("{}\nmy notes\n")
    with pytest.raises(BenchmarkError, match="holds no rows of this benchmark"):
        RowFile(path, {"commit": "a"})
    assert path.read_text() == "{}\nmy notes\n"


# --- what is said ---


def test_json_has_rows() -> None:
    """The object's rows hold what others read from them; what was not measured is null or listed."""
    unreached = Case("paper", 60, 4, 2, "int8")
    told = json.loads(json.dumps(found_as_json(found(row(), absent_row(), not_measured=(unreached,)))))
    first, second = told["rows"]
    assert [first[name] for name in ("shape", "precision", "beam", "threads")] == ["l1", "fp32", 1, 1]
    assert [first[name] for name in WEIGHED] == [0.5, 4.0, 8.0, 16.0]
    assert [second[name] for name in WEIGHED] == [None, 4.0, None, 16.0]
    assert told["not_measured"] == [
        {"shape": "paper", "num_tokens": 60, "beam": 4, "threads": 2, "precision": "int8"}
    ]
    assert told["environment"]["device"] == "Some Board, 4 CPUs"


def test_markdown_tells_ratios_floors_and_what_is_missing() -> None:
    """The report has every row with quartiles and floor, counts aims, and says what is not there."""
    text = found_as_markdown(
        found(row(), row(beam=4, ratio_to_ctranslate2=1.2), absent_row(), row(shape="paper", times_floor=1.4))
    )
    for part in (
        "# Decoding, ours and CTranslate2's, 2026-03-04\n",
        "- CTranslate2 4.0",
        "| fp32: ours / CTranslate2 <= 0.8 | 2 of 3 | 0.50 | 1.20 |",
        "| int8: ours / CTranslate2 <= 0.8 | nothing measured | – | – |",
        "| ours / floor <= 1.5 at the paper's size | 1 of 1 | 1.40 | 1.40 |",
        "| 30 | 1 | 1 | fp32 | 8.0 ms | 16.0 ms | 0.50 [0.45 – 0.55] | 3 | 4.0 ms | 2.00 | 4.00 | 80.0 ms | 0.10 |",
        "| 30 | 1 | 1 | int8 | – | 16.0 ms | – | 3 | 4.0 ms | – | 4.00 | – | – |",
        "| l1 | 30 | 1 | 8.0 ms (fp32, 1 thread) | 16.0 ms (fp32, 1 thread) | 0.50 | 0.10 |",
        "Rows without our time: int8: nothing is compiled.",
        "Not compared: l2: CTranslate2 cannot express it: layer 2 has 4 heads.",
        "were the same in both engines in 3 of 3 rows",
        "## A made-up benchmark",
    ):
        assert part in text


# --- the command ---


def test_command(tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command measures what it was asked for, prints one object, keeps rows, and does not measure them again."""
    pytest.importorskip("ctranslate2")
    arguments = [
        "--quick", "--json", "--bundle", str(tiny_bundle.path), "--shapes", "small", "--tokens", "10",
        "--beams", "1", "--threads", "1", "--rounds", "2", "--rows", str(tmp_path / "rows.jsonl"),
    ]  # fmt: skip
    assert decode.main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert [found["precision"] for found in first["rows"]] == ["fp32", "int8"]
    assert "/tmp" not in first["command"]
    assert decode.main([*arguments, "--out", str(tmp_path)]) == 0
    again = capsys.readouterr()
    assert json.loads(again.out)["rows"] == first["rows"]
    assert " of " not in again.err
    assert "### small" in next(tmp_path.glob("*-decode.md")).read_text(encoding="utf-8")


def test_interrupted(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Interrupted, the command reports the rows that are finished and lists the others."""
    pytest.importorskip("ctranslate2")
    measured: list[Case] = []

    def interrupt(case: Case, *others: object) -> Row:
        measured.append(case)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return row(**dataclasses.asdict(case))

    monkeypatch.setattr("benchmarks.decode_latency.measure_row", interrupt)
    arguments = [
        "--quick",
        "--json",
        "--bundle",
        str(tiny_bundle.path),
        "--shapes",
        "small",
        "--threads",
        "1",
    ]
    assert decode.main(arguments) == decode.INTERRUPTED
    told = json.loads(capsys.readouterr().out)
    assert (len(told["rows"]), len(told["not_measured"])) == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latenzy"], "no section 'latenzy': choose among latency, served, throughput"),
        (["--tokens", "0"], "give numbers above 0"),
        (["--rounds", "0"], "--rounds 0: give 1 or more"),
    ],
)
def test_refused_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument is refused with what would be right."""
    with pytest.raises(SystemExit) as ended:
        decode.parse(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--shapes", "l9", "no shape 'l9': choose among small, middle, large, paper-512-2048-3"),
        ("--precisions", "fp16", "no precision 'fp16': choose among fp32, int8"),
    ],
)
def test_refused_choices(
    tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str], option: str, value: str, message: str
) -> None:
    """A shape or precision that does not exist is refused with those that do."""
    pytest.importorskip("ctranslate2")
    assert decode.main(["--bundle", str(tiny_bundle.path), option, value]) == 1
    assert message in capsys.readouterr().err


def test_help() -> None:
    """Help comes without torch, and names every section."""
    code = (
        "import sys; from benchmarks import decode\n"
        "try: decode.main(['--help'])\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.endswith("False\n")
    assert all(f"\n  {name} " in done.stdout for name in decode.SECTIONS)
