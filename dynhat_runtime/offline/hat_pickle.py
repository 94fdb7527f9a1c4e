"""Reading a fairseq `.pt` file without running anything that is in it.

A checkpoint is a pickle, and a pickle may call whatever it names. Two readers are tried: torch's own `weights_only`,
then a restricted one for full checkpoints, whose training state holds fairseq objects. Rules of the second:
(1) names of the allow-list become the rebuild function, type or class they name, guarded against being altered;
(2) names of fairseq and numpy become inert stubs that swallow what they are given;
(3) every other name ends the reading. Knows no sizes and no weights' names.
"""

from __future__ import annotations

import argparse
import pickle
import types
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch._utils import _rebuild_parameter, _rebuild_tensor, _rebuild_tensor_v2

from dynhat_runtime.errors import CheckpointError, DynhatError

_ZIP_MAGIC = b"PK\x03\x04"
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of torch.save before torch 1.6: a pickled magic number."""
_TORCHSCRIPT_MARK = "constants.pkl"
_STUBBED_PACKAGES = ("fairseq", "numpy")


@dataclass(frozen=True, slots=True)
class HatCheckpoint:
    """What of a checkpoint is used: how the network was asked for, its weights, and how long it was trained."""

    path: Path
    args: Mapping[str, Any]
    state: Mapping[str, Tensor]
    num_updates: int | None


class _Args:
    """Stands for argparse.Namespace."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.values = state


class _Inert:
    """Stands for an object of a package we do not load: takes everything, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Swallow an item of a stubbed list."""

    def extend(self, items: Any) -> None:
        """Swallow items of a stubbed list."""


class _Guarded:
    """A function that a pickle may call but not alter."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        raise CheckpointError("it tries to alter a function")


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("argparse", "Namespace"): _Args,
    ("torch._utils", "_rebuild_tensor"): _Guarded(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): _Guarded(_rebuild_tensor_v2),
    ("torch._utils", "_rebuild_parameter"): _Guarded(_rebuild_parameter),
    ("torch", "Size"): torch.Size,
    **{
        ("torch", name): getattr(torch, name)
        for name in ("float16", "float32", "float64", "bfloat16", "int32", "int64", "uint8", "bool")
    },
}


class _Unpickler(pickle.Unpickler):
    """Knows the allow-list; storage types are torch's own affair and never come here."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle gets for a name (rules 1 to 3)."""
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module.split(".")[0] in _STUBBED_PACKAGES:
            return type("_InertStub", (_Inert,), {})
        shown = f"{module}.{name}"[:80]
        raise CheckpointError(f"it asks for {shown!r}, which no HAT checkpoint needs; nothing in it was run")


def _load(file: BinaryIO, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_RESTRICTED_PICKLE = types.SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__="restricted_pickle")
"""What torch.load takes as its `pickle_module`."""


def read_checkpoint(path: Path) -> HatCheckpoint:
    """Read a HAT / fairseq checkpoint; nothing in the file is executed.

    Raises:
        CheckpointError: In one line: the file cannot be read, is no checkpoint, is truncated, or asks for code.
    """
    _sniff(path)
    try:
        content = _read_safely(path)
    except DynhatError as error:
        raise CheckpointError(f"{path}: refused: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged pickle can fail in any way
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(f"{path}: truncated or damaged ({reason}): download it again") from error
    return _parsed(path, content)


def _sniff(path: Path) -> None:
    """Only torch.save's two formats go further: not TorchScript, not tar files."""
    try:
        with path.open("rb") as file:
            head = file.read(len(_LEGACY_MAGIC))
        if head.startswith(_ZIP_MAGIC):
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith(_TORCHSCRIPT_MARK) for name in archive.namelist()):
                    raise CheckpointError(
                        f"{path}: a TorchScript program, not a checkpoint of HAT or fairseq"
                    )
        elif head != _LEGACY_MAGIC:
            raise CheckpointError(f"{path}: not a checkpoint: torch.save did not write it")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{path}: truncated or damaged ({error}): download it again") from error


def _read_safely(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice on file formats is not the user's business
        if hasattr(torch.serialization, "safe_globals"):  # torch >= 2.5
            try:
                with torch.serialization.safe_globals([argparse.Namespace]):
                    return torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:
                pass  # a full checkpoint, or a malicious one: the restricted reader tells them apart
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_RESTRICTED_PICKLE)


def _parsed(path: Path, content: Any) -> HatCheckpoint:
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise CheckpointError(f"{path}: not a checkpoint of HAT or fairseq: it holds no 'model'")
    args = content.get("args")
    if isinstance(args, argparse.Namespace):
        values: Any = vars(args)
    else:
        values = getattr(args, "values", None) if isinstance(args, _Args) else None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise CheckpointError(f"{path}: holds no 'args': the network's sizes are not known")
    state = content["model"]
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: 'model' holds {str(key)[:80]!r}, which is no named tensor")
    return HatCheckpoint(path, values, state, _num_updates(content))


def _num_updates(content: Mapping[str, Any]) -> int | None:
    history = content.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history else None
    number = last.get("num_updates") if isinstance(last, dict) else None
    return number if isinstance(number, int) else None
