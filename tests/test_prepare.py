"""From text to shards: the same bytes every time, whatever is interrupted, and nothing lost without being counted."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dynhat_runtime import cli
from dynhat_runtime.decoding.tokenizer import SentencePieceTokenizer
from dynhat_runtime.errors import TrainingError
from dynhat_runtime.offline import prepare as prepare_module
from dynhat_runtime.offline.data import TokenisedCorpus
from dynhat_runtime.offline.prepare import evenly, prepare
from dynhat_runtime.offline.prepared_data import PreparedData
from dynhat_runtime.offline.recipe import DataRecipe
from tests.toy_text import toy_pairs, toy_tokenizer_model, write_pairs
from tests.toy_training import as_toml, toy_fields, toy_recipe

ROOT = Path(__file__).parent.parent
QUIET = Console(quiet=True)
DEV = toy_pairs(20, seed=2)
BAD = [
    "no tab",
    "one\ttwo\tthree",
    "same words in both texts\tsame words in both texts",
    f"{DEV[0][0]}\tDer König hört heute wieder einen Vogel.",
]


def _data(**changes: Any) -> DataRecipe:
    corpora = [{"file": "train.tsv.gz", "max_words": 9}, {"file": "more.tsv.gz"}]
    return toy_recipe(data={"corpora": corpora, **changes}).data


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora, the second with bad lines and with pairs of the first; a dev set; a vocabulary."""
    folder = tmp_path_factory.mktemp("data")
    first = list(dict.fromkeys(toy_pairs(300, seed=1)))
    write_pairs(folder / "train.tsv.gz", first)
    lines = [f"{source}\t{target}" for source, target in [*first[:5], *toy_pairs(40, seed=3)]] + BAD
    (folder / "more.tsv.gz").write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    write_pairs(folder / "dev.tsv.gz", DEV)
    (folder / "tokenizer.model").write_bytes(toy_tokenizer_model())
    return folder


def _prepare(
    data_dir: Path, out: Path, data: DataRecipe | None = None, console: Console = QUIET
) -> PreparedData:
    return prepare(data or _data(), data_dir, out, tokenizer=data_dir / "tokenizer.model", console=console)


@pytest.fixture(scope="module")
def prepared(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Prepared without interruption; not to be written to."""
    return _prepare(data_dir, tmp_path_factory.mktemp("prepared") / "whole")


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _texts(corpus: TokenisedCorpus, prepared: PreparedData) -> list[tuple[str, str]]:
    tokenizer = SentencePieceTokenizer.load(prepared.tokenizer)
    return [
        (tokenizer.decode(corpus.source(i).tolist()), tokenizer.decode(corpus.target(i).tolist()))
        for i in range(len(corpus))
    ]


# --- what is made ---


def test_shards_hold_what_stays(prepared: PreparedData, data_dir: Path) -> None:
    """Every good pair comes back from the shards in order; dev text is cleaned of nothing."""
    train, more = prepared.load(prepared.manifest.corpora)
    assert len(train) > 250
    first = [pair for pair in dict.fromkeys(toy_pairs(300, seed=1)) if max(len(s.split()) for s in pair) <= 9]
    held_out = {side for pair in DEV for side in pair}
    assert _texts(train, prepared) == [pair for pair in first if not held_out & set(pair)]
    assert not {*_texts(more, prepared)} & {*_texts(train, prepared)}
    (dev,) = prepared.load(prepared.manifest.dev)
    assert _texts(dev, prepared) == DEV


def test_every_line_is_accounted_for(prepared: PreparedData) -> None:
    """Lines read are pairs kept and lines removed, reason by reason, with the numbers of a few of them."""
    for record in (*prepared.manifest.corpora, *prepared.manifest.dev):
        assert record.num_lines == record.num_pairs + sum(record.removed.values())
    more = prepared.manifest.corpora[1]
    assert more.num_lines == 49
    assert more.removed["broken_line"] == 2
    assert more.examples["broken_line"] == (46, 47)
    assert more.removed["copied"] == 1
    assert more.examples["copied"] == (48,)
    assert 49 in more.examples["overlap"]
    assert more.removed["duplicate"] >= 5


def test_report_for_people(prepared: PreparedData) -> None:
    """The report has a row per corpus with every filter's count, and the sums."""
    training = (prepared.path / "report.md").read_text().partition("Dev text")[0]
    rows = {
        cells[0]: cells[1:]
        for line in training.splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) > 3
    }
    more = prepared.manifest.corpora[1]
    broken = rows["corpus"].index("broken_line")
    assert rows["more.tsv.gz"][0] == "49"
    assert rows["more.tsv.gz"][broken] == rows["all"][broken] == "2"
    assert rows["more.tsv.gz"][rows["corpus"].index("pairs kept")] == str(more.num_pairs)


def test_too_many_tokens_are_counted(data_dir: Path, tmp_path: Path) -> None:
    """Pairs over the recipe's tokens are left out and counted."""
    prepared = _prepare(data_dir, tmp_path / "out", _data(max_tokens_per_sentence=25))
    (train, _) = prepared.manifest.corpora
    assert train.removed["too_many_tokens"] > 0
    (corpus, _) = prepared.load(prepared.manifest.corpora)
    assert max(corpus.src_lengths.max(), corpus.tgt_lengths.max()) <= 25


def test_tokens_take_two_bytes(prepared: PreparedData) -> None:
    """Ids are held in 16 bits."""
    assert {corpus.src_ids.itemsize for corpus in prepared.load(prepared.manifest.corpora)} == {2}


# --- the same bytes ---


def test_same_bytes_in_another_process_with_a_vocabulary_of_its_own(data_dir: Path, tmp_path: Path) -> None:
    """Two processes, hashing differently, make the same bytes, trained vocabulary included; the command says so."""
    fields = toy_fields()
    fields["data"] |= {"corpora": [{"file": "train.tsv.gz", "max_words": 9}, {"file": "more.tsv.gz"}]}
    (tmp_path / "toy.toml").write_text(as_toml(fields))
    for name in ("one", "two"):
        command = ["prepare-data", "toy.toml", "--data-dir", str(data_dir), "--out", name, "--json"]
        done = subprocess.run(
            [sys.executable, "-m", "dynhat_runtime", *command],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "1" if name == "one" else "2"},
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["corpora"][1]["removed"]["broken_line"] == 2
        assert re.search(r"more\.tsv\.gz: 2 broken lines left out, at 46, 47\n", done.stderr)
        assert "train.tsv.gz: 2" in done.stderr
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")


def test_same_vocabulary_of_more_text_than_it_takes(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is more text than a vocabulary is made of, it is made of the same part every time."""
    monkeypatch.setattr(prepare_module, "MAX_VOCABULARY_PAIRS", 150)
    one, two = (prepare(_data(), data_dir, tmp_path / name, console=QUIET) for name in ("one", "two"))
    assert one.tokenizer.read_bytes() == two.tokenizer.read_bytes()
    monkeypatch.setattr(prepare_module, "MAX_VOCABULARY_PAIRS", 1000)
    three = prepare(_data(), data_dir, tmp_path / "three", console=QUIET)
    assert three.tokenizer.read_bytes() != one.tokenizer.read_bytes()


@pytest.mark.parametrize(("count", "most"), [(7, 3), (3, 7), (10, 5), (1, 1), (100, 99)])
def test_an_even_part(count: int, most: int) -> None:
    """A part has as many pairs as it may, in order, and no two gaps in it differ by more than one."""
    part = [int(source) for source, _ in evenly(((str(i), "") for i in range(count)), count, most)]
    assert len(part) == min(count, most)
    gaps = [after - before for before, after in itertools.pairwise(part)]
    assert max(gaps, default=1) - min(gaps, default=1) <= 1
    assert min(gaps, default=1) > 0


@pytest.mark.parametrize("stage", ["_clean_chunk", "tokenise"])
@pytest.mark.parametrize("calls", [1, 4])
def test_interrupted_anywhere_it_goes_on(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, calls: int
) -> None:
    """After Ctrl-C finished chunks are not done again, and the end is byte for byte that of a whole run."""
    monkeypatch.setattr(prepare_module, "CHUNK_LINES", 70)
    whole = _prepare(data_dir, tmp_path / "whole")
    real = getattr(prepare_module, stage)
    num_calls = 0

    def dies(*arguments: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls > calls:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(prepare_module, stage, dies)
        with pytest.raises(KeyboardInterrupt):
            _prepare(data_dir, tmp_path / "out")
    with pytest.raises(TrainingError, match=r"holds no prepared\.json"):
        PreparedData.open(tmp_path / "out")
    done_again = 0

    def counted(*arguments: Any) -> Any:
        nonlocal done_again
        done_again += 1
        return real(*arguments)

    monkeypatch.setattr(prepare_module, stage, counted)
    _prepare(data_dir, tmp_path / "out")
    num_chunks = len([file for file in _bytes(whole.path) if file.endswith(".npz")])
    assert num_chunks > 5
    assert done_again == num_chunks - calls
    assert _bytes(tmp_path / "out") == _bytes(whole.path)


def test_ready_data_is_left_alone(prepared: PreparedData, data_dir: Path) -> None:
    """Asked again for the same, nothing is written."""
    before = {path: path.stat().st_mtime_ns for path in prepared.path.iterdir()}
    again = _prepare(data_dir, prepared.path)
    assert again.manifest == prepared.manifest
    assert {path: path.stat().st_mtime_ns for path in prepared.path.iterdir()} == before


def test_work_of_another_recipe_is_not_used(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an interrupted preparation left is thrown away when the recipe has changed."""
    with monkeypatch.context() as patched:
        patched.setattr(prepare_module, "tokenise", None)
        with pytest.raises(TypeError):
            _prepare(data_dir, tmp_path / "out", _data(cleaning={"filters": []}))
    _prepare(data_dir, tmp_path / "out")
    assert _bytes(tmp_path / "out") == _bytes(_prepare(data_dir, tmp_path / "fresh").path)


# --- what cannot be prepared ---


def test_other_data_in_the_folder_is_not_overwritten(
    prepared: PreparedData, data_dir: Path, tmp_path: Path
) -> None:
    """A folder of another recipe, another text or another tokenizer is refused, naming what differs."""
    with pytest.raises(TrainingError, match=r"data\.cleaning\.max_length_ratio=2\.2 \(not 3\.0\)"):
        _prepare(data_dir, prepared.path, _data(cleaning={"max_length_ratio": 3}))
    for file in data_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    write_pairs(tmp_path / "more.tsv.gz", toy_pairs(5))
    with pytest.raises(TrainingError, match=r"more\.tsv\.gz: is not the text"):
        _prepare(tmp_path, prepared.path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"corpora": [{"file": "absent.tsv.gz"}]}, r"absent\.tsv\.gz.*--data-dir"),
        ({"held_out": ["absent.tsv.gz"]}, r"absent\.tsv\.gz.*--data-dir"),
        ({"corpora": [{"file": "train.tsv.gz", "max_words": 1}]}, "no training pair is left"),
        ({"dev": [{"file": "dev.tsv.gz", "max_words": 1}]}, "no dev pair is left"),
        ({"vocab_size": 500}, r"tokenizer\.model has 320 pieces: give one of data\.vocab_size=500"),
    ],
)
def test_what_cannot_be_prepared(
    data_dir: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    """Text that is not there, filters that leave nothing, and a tokenizer of another size are named."""
    with pytest.raises(TrainingError, match=message):
        _prepare(data_dir, tmp_path / "out", _data(**changes))


def test_truncated_text_is_named_before_anything_is_done(data_dir: Path, tmp_path: Path) -> None:
    """A file cut short is refused at once, though it comes last."""
    for name in ("train.tsv.gz", "more.tsv.gz", "dev.tsv.gz", "tokenizer.model"):
        (tmp_path / name).write_bytes((data_dir / name).read_bytes())
    (tmp_path / "dev.tsv.gz").write_bytes((data_dir / "dev.tsv.gz").read_bytes()[:-30])
    with pytest.raises(TrainingError, match=r"dev\.tsv\.gz: cannot be read as gzipped UTF-8 TSV"):
        _prepare(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_spoilt_shard_is_named(data_dir: Path, tmp_path: Path) -> None:
    """A shard that is missing or altered is refused by name, with what to do."""
    prepared = _prepare(data_dir, tmp_path / "out")
    shard = prepared.path / prepared.manifest.corpora[0].shards[0].file
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(
        TrainingError, match=rf"{shard.name}: is not what was prepared: prepare the data anew"
    ):
        prepared.load(prepared.manifest.corpora)
    shard.unlink()
    with pytest.raises(TrainingError, match=rf"{shard.name}: cannot be read .*: prepare the data anew"):
        prepared.load(prepared.manifest.corpora)


def test_spoilt_manifest_is_named(tmp_path: Path) -> None:
    """A manifest that is none is refused by file and field."""
    (tmp_path / "prepared.json").write_text('{"format_version": 2}')
    with pytest.raises(
        TrainingError, match=r"prepared\.json: cannot be read \(format_version: .*the data anew"
    ):
        PreparedData.open(tmp_path)


def test_a_bar_on_a_terminal(data_dir: Path, tmp_path: Path) -> None:
    """On a terminal a bar reaches its end and names what is at work."""
    output = io.StringIO()
    _prepare(data_dir, tmp_path / "out", console=Console(file=output, width=120, force_terminal=True))
    assert "tokens of dev.tsv.gz" in output.getvalue()
    assert "100 %" in output.getvalue()


def test_command_says_one_line(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A vocabulary that the text cannot fill ends the command with one line that has the value and the reason."""
    (tmp_path / "toy.toml").write_text(as_toml(toy_fields(data={"vocab_size": 4000})))
    arguments = [
        "prepare-data",
        str(tmp_path / "toy.toml"),
        "--data-dir",
        str(data_dir),
        "--out",
        str(tmp_path / "o"),
    ]
    monkeypatch.setattr(sys, "argv", ["dynhat", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.search(r"vocab_size=4000 can be made of this text: .*too high", error)
