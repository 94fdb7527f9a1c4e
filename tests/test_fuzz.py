"""Files that others give us, altered by chance: whatever is in them, only our errors come out, in one line each."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynhat_runtime.decoding.tokenizer import tokenizer_of
from dynhat_runtime.errors import DynhatError
from dynhat_runtime.model.checkpoint import MANIFEST, MODEL, SENTENCEPIECE_MODEL, WEIGHTS, Bundle, FileRecord
from dynhat_runtime.offline.latency_dataset import append_row, read_latency_dataset
from dynhat_runtime.operating_point import OperatingPointTable
from dynhat_runtime.service.keys import KeyRing
from dynhat_runtime.settings import load_settings
from dynhat_runtime.trace import as_line, parse_line
from dynhat_runtime.trace_file import TraceFile
from tests.property_settings import PROPERTY
from tests.test_latency_dataset import make_row
from tests.test_trace import DECISION, HEADER, OBSERVATION, SNAPSHOT
from tests.tiny_bundle import SPACE, tiny_table

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(2**53, 2**70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["", "../../etc/passwd", "1e999", "\x00", "\ud800", "nan"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


def mangled(content: bytes) -> st.SearchStrategy[bytes]:
    """The file with bytes changed, cut out, put in, doubled, or its end missing."""

    def apply(edits: list[tuple[str, float, bytes]]) -> bytes:
        found = bytearray(content)
        for kind, where, piece in edits:
            at = int(where * len(found))
            if kind == "change":
                found[at : at + len(piece)] = piece
            elif kind == "insert":
                found[at:at] = piece
            elif kind == "drop":
                del found[at : at + len(piece)]
            elif kind == "double":
                found[at:at] = found[at : at + 64]
            else:
                del found[at:]
        return bytes(found)

    kinds = st.sampled_from(["change", "insert", "drop", "double", "cut"])
    edit = st.tuples(kinds, st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8))
    return st.lists(edit, min_size=1, max_size=3).map(apply) | st.binary(max_size=64)


def rewritten(content: bytes) -> st.SearchStrategy[bytes]:
    """JSON with a value anywhere in it replaced or taken away, or bytes changed."""
    whole = json.loads(content)
    paths = list(_paths(whole))

    def apply(path: tuple[Any, ...], value: Any, is_taken: bool) -> bytes:
        changed = copy.deepcopy(whole)
        if not path:
            return _as_json(value)
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        if is_taken:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        return _as_json(changed)

    by_value = st.builds(apply, st.sampled_from(paths), VALUES, st.booleans())
    deep = st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000])
    return by_value | mangled(content) | deep


def _as_json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deeper for key, inner in items for deeper in _paths(inner, (*path, key)))]


def complaint_of(read: Callable[[], object]) -> str | None:
    """What is wrong by our own error; None where nothing is. Any other error is the test's."""
    try:
        read()
    except DynhatError as error:
        return str(error)
    return None


def only_our_errors(read: Callable[[], object]) -> None:
    """Reading succeeds, or fails with one line of ours."""
    complaint = complaint_of(read)
    assert complaint is None or (complaint and "\n" not in complaint), complaint


@pytest.fixture(scope="module")
def folder(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle to spoil, again and again."""
    return Path(shutil.copytree(tiny_bundle.path, tmp_path_factory.mktemp("fuzz") / "bundle"))


def read_all(folder: Path) -> None:
    """Everything that a start reads of a bundle."""
    bundle = Bundle.open(folder)
    bundle.table()
    bundle.training_record()
    tokenizer_of(bundle).encode("Good morning.")
    bundle.super_transformer()


def vouched(folder: Path, name: str, content: bytes) -> None:
    """Put it into the bundle, with a manifest that says it belongs there."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"][name] = FileRecord.of(content).model_dump()
    (folder / name).write_bytes(content)
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("name", "altered"),
    [
        (MODEL, rewritten),
        (WEIGHTS, mangled),
        (SENTENCEPIECE_MODEL, mangled),
        ("tables/made-up.json", rewritten),
        ("training_record.json", rewritten),
    ],
)
def test_a_bundles_files(
    tiny_bundle: Bundle, folder: Path, name: str, altered: Callable[[bytes], st.SearchStrategy[bytes]]
) -> None:
    """Also where the manifest vouches for the file, as it does for one that was made to do harm."""
    original = (tiny_bundle.path / name).read_bytes()

    @PROPERTY
    @given(altered(original))
    def tried(content: bytes) -> None:
        vouched(folder, name, content)
        only_our_errors(lambda: read_all(folder))

    try:
        tried()
    finally:
        vouched(folder, name, original)


def test_the_manifest(tiny_bundle: Bundle, folder: Path) -> None:
    """No path in it leads out of the bundle, and nothing in it breaks the reader."""
    original = (tiny_bundle.path / MANIFEST).read_bytes()

    @PROPERTY
    @given(rewritten(original))
    def tried(content: bytes) -> None:
        (folder / MANIFEST).write_bytes(content)
        only_our_errors(lambda: read_all(folder))

    try:
        tried()
    finally:
        (folder / MANIFEST).write_bytes(original)


@pytest.mark.parametrize("name", ["/etc/hostname", "../outside.json", "tables/../../outside.json"])
def test_a_manifest_that_points_outside(tiny_bundle: Bundle, tmp_path: Path, name: str) -> None:
    """A file outside the bundle's folder is not read, though its checksum is right."""
    folder = Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))
    (tmp_path / "outside.json").write_text("{}")
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"][name] = FileRecord.of((folder / name).read_bytes()).model_dump()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DynhatError, match="names a file outside the bundle"):
        Bundle.open(folder)


@PROPERTY
@given(rewritten(tiny_table("0" * 64).as_json().encode()))
def test_tables(content: bytes) -> None:
    """An operating point table."""
    only_our_errors(lambda: OperatingPointTable.parse(content, Path("table.json")))


@pytest.mark.parametrize(
    "value", [HEADER, SNAPSHOT, OBSERVATION, DECISION], ids=lambda value: type(value).__name__
)
def test_trace_lines(value: Any) -> None:
    """A line of a trace."""

    @PROPERTY
    @given(rewritten(as_line(value).encode()))
    def tried(content: bytes) -> None:
        only_our_errors(lambda: parse_line(content))

    tried()


@PROPERTY
@given(mangled("\n".join(map(as_line, (HEADER, SNAPSHOT, OBSERVATION, DECISION))).encode()))
def test_trace_files(content: bytes) -> None:
    """A whole trace: what is broken is counted, the rest is read."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        only_our_errors(lambda: list(TraceFile(Path(file.name)).events()))


@PROPERTY
@given(
    st.lists(st.integers(-5, 40) | st.integers(), max_size=60)
    | st.builds(
        lambda at, value: [*(gene := list(SPACE.gene(SPACE.largest())))[:at], value, *gene[at + 1 :]],
        st.integers(0, 20),
        st.integers(),
    )
)
def test_genes(gene: list[int]) -> None:
    """A gene is an architecture of the space, or refused."""
    only_our_errors(lambda: SPACE.check(SPACE.config_from_gene(gene)))


KEYS = b'[keys.kitchen]\nkey = "a long random string"\npriority = "batch"\n\n[keys.office]\nsha256 = "'
KEYS += b"a" * 64 + b'"\n'
SETTINGS = (
    b'port = 5001\nhost = "127.0.0.1"\nlatency_budget_ms = 60.5\ncors_origins = ["a"]\npolicy = "ladder"\n'
)


def toml_values() -> st.SearchStrategy[bytes]:
    """Settings with any values."""
    names = st.sampled_from(["port", "host", "beam_size", "load_only", "key_file", "x"])
    pair = st.builds("{} = {}".format, names, VALUES.map(repr))
    return st.lists(pair, max_size=4).map(lambda lines: "\n".join(lines).encode("utf-8", "replace"))


@PROPERTY
@given(mangled(KEYS))
def test_key_files(content: bytes) -> None:
    """A key file; and no error shows a key."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        complaint = complaint_of(lambda: KeyRing.load(Path(file.name)))
    assert complaint is None or not any(part in complaint for part in ("\n", "random string"))


@PROPERTY
@given(mangled(SETTINGS) | toml_values())
def test_settings(content: bytes) -> None:
    """The settings file."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(content)
        only_our_errors(lambda: load_settings(Path(file.name)))


def test_latency_datasets(tmp_path: Path) -> None:
    """A measured dataset."""
    file = tmp_path / "dataset.csv"
    append_row(file, make_row(1))
    original = file.read_bytes()

    @PROPERTY
    @given(mangled(original))
    def tried(content: bytes) -> None:
        file.write_bytes(content)
        only_our_errors(lambda: read_latency_dataset(file))

    tried()
