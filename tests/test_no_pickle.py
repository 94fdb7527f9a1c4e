"""Nothing that is read can run code: one confined reader of foreign pickles, and bundles without any."""

from __future__ import annotations

import ast
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynhat_runtime.model.checkpoint import Bundle, shipped_bundle_path

PACKAGE = Path(__file__).parent.parent / "dynhat_runtime"
SOURCES = sorted(PACKAGE.rglob("*.py"))
CONFINED = "offline/hat_pickle.py"
"""The one reader of foreign pickles; test_import_hat.py attacks it."""
FORBIDDEN_MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib"}
PICKLE_USES = {"offline/run_folder.py": {"UnpicklingError"}, CONFINED: {"UnpicklingError", "Unpickler"}}
"""Names of the module pickle, by the files that may use them."""


def name_of(node: ast.expr) -> str:
    """A dotted name, or nothing."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def loads(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls of torch.load."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and name_of(node.func) == "torch.load":
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_source_loads_a_pickle(path: Path) -> None:
    """torch.load is called with weights_only, but for the confined reader, which brings its own unpickler; the module
    pickle is used for nothing but its error; nothing else runs what it reads."""
    name, tree = str(path.relative_to(PACKAGE)), ast.parse(path.read_text(encoding="utf-8"))
    for call in loads(tree):
        options = {each.arg: ast.unparse(each.value) for each in call.keywords}
        is_confined = name == CONFINED and options.get("pickle_module") == "_RESTRICTED_PICKLE"
        assert options.get("weights_only") == "True" or is_confined
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and name_of(node.value) == "pickle"
    }
    assert used <= PICKLE_USES.get(name, set())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not {each.name.split(".")[0] for each in node.names} & FORBIDDEN_MODULES
            assert all(each.asname is None for each in node.names if each.name == "pickle")
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in FORBIDDEN_MODULES | {"pickle"}
        elif isinstance(node, ast.Call):
            assert name_of(node.func) not in {"eval", "exec", "yaml.load", "yaml.unsafe_load", "os.system"}
            assert not any(each.arg in ("allow_pickle", "shell") for each in node.keywords)


def test_there_is_one_confined_reader() -> None:
    """It is there, so that the exception above is one for something."""
    (call,) = [
        call
        for call in loads(ast.parse((PACKAGE / CONFINED).read_text(encoding="utf-8")))
        if any(each.arg == "pickle_module" for each in call.keywords)
    ]
    assert ast.unparse(next(each.value for each in call.keywords if each.arg == "weights_only")) == "False"


def is_pickle(path: Path) -> bool:
    """Whether a file, or one in an archive, is a pickle."""
    if zipfile.is_zipfile(path):
        return True
    content = path.read_bytes()
    if not content.startswith(b"\x80") or len(content) < 4:
        return False
    try:
        for _ in pickletools.genops(content):
            pass
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("which", ["shipped", "written"])
def test_no_bundle_holds_a_pickle(which: str, tiny_bundle: Bundle) -> None:
    """Neither the shipped bundle nor one that we write."""
    folder = shipped_bundle_path() if which == "shipped" else tiny_bundle.path
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) >= 5
    assert [path for path in files if is_pickle(path)] == []


def test_a_pickle_would_be_noticed(tmp_path: Path) -> None:
    """What torch.save writes, old and new, is one."""
    import torch

    for number, is_zip in enumerate((True, False)):
        path = tmp_path / f"{number}.pt"
        torch.save({"a": 1}, path, _use_new_zipfile_serialization=is_zip)
        assert is_pickle(path) or not is_zip
    import pickle

    (tmp_path / "plain").write_bytes(pickle.dumps({"a": [1, 2]}))
    assert is_pickle(tmp_path / "plain")


MODEL = Path(__file__).parent.parent / "docs/threat-model.md"


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`(test_\w+\.py)`", MODEL.read_text(encoding="utf-8"))))
)
def test_the_threat_model_names_tests(name: str) -> None:
    """What the threat model says is shown, is shown by a test that there is."""
    assert (Path(__file__).parent / name).exists()
