"""Disks that fail: full, read-only, or changed under the running daemon. Nothing is lost; one line says what to do."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynhat_runtime.decoding.tokenizer import train_tokenizer
from dynhat_runtime.decoding.translator import Translator
from dynhat_runtime.errors import (
    BundleError,
    LatencyDataError,
    SearchError,
    SettingsError,
    TraceError,
    TrainingError,
)
from dynhat_runtime.model.checkpoint import (
    MANIFEST,
    SENTENCEPIECE_MODEL,
    WEIGHTS,
    Bundle,
    FileRecord,
    write_bundle,
)
from dynhat_runtime.offline.latency_dataset import read_latency_dataset
from dynhat_runtime.offline.loss_cache import LossCache, LossKey, MeasuredLoss
from dynhat_runtime.offline.run_folder import RunFolder
from dynhat_runtime.offline.train import train
from dynhat_runtime.recording import TraceRecording
from dynhat_runtime.trace_file import TraceFile
from dynhat_runtime.trace_ring import TraceRing
from tests.daemon_process import until
from tests.disks import Disk, small_disk, why_no_disk
from tests.test_end_to_end import Daemon
from tests.test_profile_dataset import OPTIONS, Device
from tests.test_recording import Served
from tests.test_trace import HEADER
from tests.tiny_bundle import SENTENCES
from tests.toy_text import toy_tokenizer_model
from tests.toy_training import toy_recipe, write_toy_data

needs_disks = pytest.mark.skipif(why_no_disk() is not None, reason=f"needs disks of its own: {why_no_disk()}")
TABLE = "tables/made-up.json"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A megabyte."""
    with small_disk(tmp_path / "disk", 3072) as disk:
        yield disk


# --- files that change under the running daemon ---


@pytest.fixture(scope="module")
def served(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Path]]:
    """A daemon on a bundle of its own."""
    folder = Path(shutil.copytree(tiny_bundle.path, tmp_path_factory.mktemp("served") / "bundle"))
    daemon = Daemon(folder)
    yield daemon, folder
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(60) == 0, daemon.log


def reload(daemon: Daemon) -> str:
    """What a SIGHUP is answered with."""
    num_lines = len(daemon.log)
    daemon.process.send_signal(signal.SIGHUP)
    return str(
        until(
            lambda: next(
                (line for line in daemon.log[num_lines:] if re.search("reload(ed:| refused)", line)), ""
            )
        )
    )


def cut_short(file: Path) -> None:
    """In its place, as by a copy that a full disk ended."""
    os.truncate(file, 10)


def overwrite(file: Path) -> None:
    """In its place, the same length."""
    size_bytes = file.stat().st_size
    with file.open("r+b") as opened:
        opened.write(b"\xff" * size_bytes)


def swap(file: Path) -> None:
    """Another file takes its name."""
    other = file.with_name("other")
    other.write_bytes(b"\xff" * file.stat().st_size)
    other.replace(file)


@pytest.mark.daemon
@pytest.mark.parametrize("change", [cut_short, overwrite, swap, Path.unlink])
@pytest.mark.parametrize("name", [WEIGHTS, SENTENCEPIECE_MODEL, TABLE, MANIFEST])
def test_files_that_change_under_the_daemon(
    served: tuple[Daemon, Path], name: str, change: Callable[[Path], None]
) -> None:
    """It translates as before, on every point; a reload is refused, naming the file; with the file back it reloads."""
    daemon, folder = served
    before = daemon.translate(SENTENCES[0])[1]
    content = (folder / name).read_bytes()
    change(folder / name)
    assert daemon.translate(SENTENCES[0])[:2] == (200, before)
    line = reload(daemon)
    assert f"reload refused, everything stays as it was: {folder / name}" in line
    assert daemon.translate(SENTENCES[0])[:2] == (200, before)
    (folder / name).write_bytes(content)
    assert "reloaded: " in reload(daemon)
    assert not any("Traceback" in line for line in daemon.log)


@pytest.mark.daemon
def test_other_weights_under_the_daemon(served: tuple[Daemon, Path], tmp_path: Path) -> None:
    """A whole bundle of other weights in the place of the served one is refused by a reload: that takes a restart."""
    daemon, folder = served
    kept = shutil.copytree(folder, tmp_path / "kept")
    other = Bundle.open(folder)
    weights = {name: weight + 1 for name, weight in other.super_transformer().weights.items()}
    write_bundle(
        folder, name="other", languages=("en", "de"), spec=other.spec, weights=weights, max_src_tokens=24,
        text_files={SENTENCEPIECE_MODEL: other.text_file(SENTENCEPIECE_MODEL)}, training_record={},
    )  # fmt: skip
    assert "the weights are others now: restart to load them" in reload(daemon)
    assert daemon.translate(SENTENCES[0])[0] == 200
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    assert "reloaded: " in reload(daemon)


def test_tokenizer_of_another_bundle(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """A tokenizer that the manifest vouches for, and that has another vocabulary than the weights, is refused."""
    folder = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    manifest = json.loads((folder / MANIFEST).read_text())
    foreign = train_tokenizer(SENTENCES, vocab_size=305)
    (folder / SENTENCEPIECE_MODEL).write_bytes(foreign)
    manifest["files"][SENTENCEPIECE_MODEL] = FileRecord.of(foreign).model_dump()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(
        BundleError, match=r"tokenizer has 305 .* weights have 310 .* belongs to another bundle"
    ):
        Translator.of_bundle(Bundle.open(folder))


# --- a disk that is full ---


@needs_disks
def test_full_while_recording(disk: Disk) -> None:
    """What fitted on the disk is a recording that can be read, one error says so, and the daemon is not concerned."""
    served = Served(TraceRing(HEADER))
    served.tell(*range(1, 4000))
    try:
        disk.resize(64)
        path = disk.folder / "trace.jsonl"
        with pytest.raises(TraceError, match=r"trace\.jsonl: cannot be written \(No space left on device\)"):
            TraceRecording(served.url, path, 64.0).run(threading.Event(), seconds=0.0)
        assert len(list(TraceFile(path).events())) > 100
    finally:
        served.close()


@needs_disks
def test_full_while_measuring(disk: Disk) -> None:
    """Rows that were measured stay readable; with room again the same command goes on behind them."""
    out, many = disk.folder / "dataset.csv", replace(OPTIONS, num_samples=60)
    device = Device()
    real = device.measure

    def fills_up(config: Any) -> Any:
        if len(device.measured) == 3:
            disk.fill()
        return real(config)

    device.measure = fills_up  # type: ignore[method-assign]
    with pytest.raises((LatencyDataError, SettingsError), match=r"dataset\.csv.*No space left on device"):
        device.fill(out, many)
    kept = len(read_latency_dataset(out))
    assert kept >= 3
    (disk.folder / "ballast").unlink()
    assert Device().fill(out, many) == many.num_samples - kept
    assert len(read_latency_dataset(out)) == many.num_samples


@needs_disks
def test_full_while_a_table_is_written(tiny_bundle: Bundle, disk: Disk) -> None:
    """The bundle on the disk stays what it was, manifest included."""
    folder = Path(shutil.copytree(tiny_bundle.path, disk.folder / "bundle"))
    bundle = Bundle.open(folder)
    table = bundle.table()
    here = table.model_copy(update={"device": table.device.model_copy(update={"name": "here"})})
    disk.fill()
    with pytest.raises(BundleError, match=r"cannot be written \(No space left on device\)"):
        bundle.with_table(here)
    assert Bundle.open(folder).tables() == [table]


@needs_disks
def test_full_while_searching(disk: Disk) -> None:
    """Losses kept before stay; with room again the file goes on."""
    path = disk.folder / "losses.jsonl"
    cache = LossCache(path)
    kept, lost = LossKey("a", "b", (1, 2)), LossKey("a", "b", tuple(range(5000)))
    cache.add(kept, MeasuredLoss(1.0, 0.1))
    ballast = disk.fill()
    with pytest.raises(SearchError, match=r"losses\.jsonl: cannot be used \(No space left on device\)"):
        cache.add(lost, MeasuredLoss(2.0, 0.1))
    ballast.unlink()
    again = LossCache(path)
    assert again.get(kept) == MeasuredLoss(1.0, 0.1)
    again.add(lost, MeasuredLoss(2.0, 0.1))
    assert len(LossCache(path)) == 2


@needs_disks
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_training_on_such_a_disk(tmp_path: Path, disk: Disk, fault: str) -> None:
    """The last checkpoint stays whole, one error names the file; with room again the run goes on to its end."""
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    write_toy_data(data_dir)
    run_dir = disk.folder / "run"
    run_dir.mkdir()
    (run_dir / "tokenizer.model").write_bytes(toy_tokenizer_model())
    train(toy_recipe(optimizer={"max_updates": 3}), data_dir, run_dir)
    before = RunFolder(run_dir).last.read_bytes()
    longer = toy_recipe()
    RunFolder(run_dir).recipe.write_text(longer.model_dump_json())
    disk.fill() if fault == "full" else disk.make_read_only()
    words = "No space left on device" if fault == "full" else "Read-only file system"
    with pytest.raises(TrainingError, match=rf"{run_dir}.*{words}"):
        train(longer, data_dir, run_dir)
    assert RunFolder(run_dir).last.read_bytes() == before
    if fault == "full":
        (disk.folder / "ballast").unlink()
        run = train(longer, data_dir, run_dir)
        assert [file.stem for file in run.weights()][-1] == "update_00000006"


# --- a disk that may not be written to ---


@needs_disks
@pytest.mark.daemon
def test_a_read_only_state_folder(tiny_bundle: Bundle, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon serves where its state folder and home may not be written to: it keeps nothing."""
    disk.make_read_only()
    for name in ("STATE_DIRECTORY", "HOME", "XDG_CACHE_HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(disk.folder))
    daemon = Daemon(tiny_bundle.path)
    try:
        assert daemon.translate(SENTENCES[0])[0] == 200
        assert "reloaded: " in reload(daemon)
    finally:
        daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(60) == 0, daemon.log


@needs_disks
def test_what_writes_says_where_it_cannot(tiny_bundle: Bundle, disk: Disk) -> None:
    """Whoever writes files names the one that cannot be written, in an error of ours."""
    bundle = Bundle.open(Path(shutil.copytree(tiny_bundle.path, disk.folder / "bundle")))
    disk.make_read_only()
    with pytest.raises(LatencyDataError, match=r"dataset\.csv: cannot be written \(Read-only file system\)"):
        Device().fill(disk.folder / "dataset.csv")
    with pytest.raises(BundleError, match=r"bundle: cannot be written \(Read-only file system\)"):
        bundle.with_table(bundle.table())
    with pytest.raises(SearchError, match=r"losses\.jsonl: cannot be used \(Read-only file system\)"):
        LossCache(disk.folder / "losses.jsonl")
    with pytest.raises(TrainingError, match=r"run: cannot be written \(Read-only file system\)"):
        RunFolder(disk.folder / "run").create()
