"""A bundle on disk: one SuperTransformer with everything needed to serve it, and sha256 of every file.

    manifest.json                 format version, languages, sha256 and size of each file below
    model.json                    `SuperTransformerSpec`: design space, vocabulary, norms
    super_transformer.safetensors weights (by default half precision at rest, single precision in memory)
    tokenizer.model               sentencepiece; other text pipelines have other files (`TEXT_FILES`)
    training_record.json          data, licences, steps, seed, losses
    shortlist.safetensors         which target tokens may translate which source tokens, where it was learned
    tables/<device>.json          operating points, one table per measured device

Reads no text and trains nothing. A file that is missing, truncated or altered is named, with the remedy.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError

from dynhat_runtime.design_space import DesignSpace
from dynhat_runtime.errors import BundleError, DesignSpaceError, first_complaint
from dynhat_runtime.model.shortlist import Shortlist
from dynhat_runtime.model.spec import SuperTransformerSpec, Weights
from dynhat_runtime.model.weights_file import Content, arrays_of, read_file
from dynhat_runtime.monitor.identity import device_name
from dynhat_runtime.operating_point import OperatingPointTable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dynhat_runtime.model.super_transformer import SuperTransformer

MANIFEST, MODEL, WEIGHTS, TRAINING_RECORD, TABLES, SHORTLIST = (
    "manifest.json", "model.json", "super_transformer.safetensors", "training_record.json", "tables",
    "shortlist.safetensors",
)  # fmt: skip
REQUIRED_FILES = (MODEL, WEIGHTS, TRAINING_RECORD)

SENTENCEPIECE_MODEL = "tokenizer.model"
SRC_DICT, TGT_DICT, BPE_CODES = "src.dict", "tgt.dict", "bpe.codes"
TextPipeline = Literal["sentencepiece", "moses-bpe"]
TEXT_FILES: dict[TextPipeline, tuple[str, ...]] = {
    "sentencepiece": (SENTENCEPIECE_MODEL,),
    "moses-bpe": (SRC_DICT, TGT_DICT, BPE_CODES),
}
"""Files that turn text into tokens and back, by the manifest's `text_pipeline`."""
PAPER_POINTS = "paper_points.json"
"""Published architectures; a folder with these alone waits for weights."""
FORMAT_VERSION: Literal[1] = 1
REMEDY = "restore the file, or give another bundle with --bundle"


class FileRecord(BaseModel):
    """What a file of the bundle must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0)]

    @classmethod
    def of(cls, content: Content) -> FileRecord:
        """The record of some content."""
        return cls(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))


class Manifest(BaseModel):
    """First file read of a bundle."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    name: str
    src_lang: str
    tgt_lang: str
    max_src_tokens: Annotated[int, Field(gt=1)]
    """Longest source sentence the model was trained for, in tokens with eos."""
    text_pipeline: TextPipeline = "sentencepiece"
    length_penalty: Annotated[float, Field(ge=0, le=10)] = 0.6
    """Exponent of the length in beam search's scores (HAT: 0.6 on WMT, 1 on IWSLT)."""
    no_repeat_size: Annotated[int, Field(ge=0, le=64)] = 0
    """No run of so many tokens comes twice in an output; 0, as HAT searches, lets everything repeat."""
    files: dict[str, FileRecord]


class _TrainingRecord(RootModel[dict[str, Any]]):
    """Any object: who trained it decides what is worth saying."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """An opened bundle: its manifest is read and every file in it has been checked.

    Attributes:
        contents: Every file of the manifest as it was when it was checked, read once: what is loaded is what was
            hashed, whatever happens to the files. Goes with the bundle, weights included.
    """

    path: Path
    manifest: Manifest
    spec: SuperTransformerSpec
    contents: Mapping[str, Content] = field(repr=False, compare=False)

    @property
    def src_lang(self) -> str:
        """Code of the source language, such as en."""
        return self.manifest.src_lang

    @property
    def tgt_lang(self) -> str:
        """Code of the target language, such as de."""
        return self.manifest.tgt_lang

    @property
    def design_space(self) -> DesignSpace:
        """The choices the SuperTransformer was trained for."""
        return self.spec.design_space

    @property
    def weights_sha256(self) -> str:
        """Identifies the SuperTransformer that a table was measured on."""
        return self.manifest.files[WEIGHTS].sha256

    def check_weights(self, loaded_sha256: str) -> None:
        """Refuse weights other than those that were loaded before.

        Raises:
            BundleError: The weights are others now.
        """
        if self.weights_sha256 != loaded_sha256:
            raise BundleError(f"{self.path}: the weights are others now: restart to load them")

    @property
    def shortlist_sha256(self) -> str | None:
        """Identifies the vocabulary shortlist that a table was measured with; None where there is none."""
        return self.manifest.files[SHORTLIST].sha256 if SHORTLIST in self.manifest.files else None

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Read the manifest and check every file it lists.

        Raises:
            BundleError: Naming the file that is missing, truncated or altered, and the remedy.
        """
        if not (path / MANIFEST).exists() and (path / PAPER_POINTS).exists():
            raise BundleError(_weights_to_import(path))
        manifest = _parse(Manifest, path / MANIFEST, _read(path / MANIFEST))
        required = (*REQUIRED_FILES, *TEXT_FILES[manifest.text_pipeline])
        missing = [name for name in required if name not in manifest.files]
        if missing:
            raise BundleError(f"{path / MANIFEST}: lists no {missing[0]}: {REMEDY}")
        outside = [name for name in manifest.files if not _is_inside(name)]
        if outside:
            raise BundleError(
                f"{path / MANIFEST}: names a file outside the bundle ({outside[0]!r}): {REMEDY}"
            )
        contents = {name: _checked_content(path / name, record) for name, record in manifest.files.items()}
        spec = _parse(SuperTransformerSpec, path / MODEL, bytes(contents[MODEL]))
        return cls(path, manifest, spec, contents)

    def weights(self) -> Weights:
        """The weights in single precision, in memory of their own.

        Raises:
            BundleError: The weights file does not hold what `model.json` says.
        """
        try:
            arrays = arrays_of(self.contents[WEIGHTS])
        except ValueError as error:
            raise BundleError(f"{self.path / WEIGHTS}: no safetensors file ({error}): {REMEDY}") from error
        return Weights(self.spec, {name: array.astype(np.float32) for name, array in arrays.items()})

    def super_transformer(self, device: str = "cpu") -> SuperTransformer:
        """The weights in PyTorch's hands, in single precision, in memory of their own on `device`.

        Raises:
            BundleError: The weights file does not hold what `model.json` says.
        """
        # Here: serving with the native decoder opens bundles, and has no use for the second that torch takes.
        from dynhat_runtime.model.super_transformer import SuperTransformer

        return SuperTransformer.of_weights(self.weights(), device)

    def shortlist(self) -> Shortlist | None:
        """Which target tokens may translate which source tokens; None where nobody has learned it.

        Raises:
            BundleError: The file does not hold what it should.
        """
        if SHORTLIST not in self.contents:
            return None
        sizes = self.spec.src_vocab_size, self.spec.tgt_vocab_size
        content = bytes(self.contents[SHORTLIST])
        return Shortlist.of_bytes(content, sizes, str(self.path / SHORTLIST))

    def text_file(self, name: str) -> bytes:
        """Content of one of the text pipeline's files."""
        return bytes(self.contents[name])

    def training_record(self) -> dict[str, Any]:
        """What the bundle says of its training.

        Raises:
            BundleError: It says nothing that can be read.
        """
        return dict(
            _parse(_TrainingRecord, self.path / TRAINING_RECORD, bytes(self.contents[TRAINING_RECORD])).root
        )

    def table(self, path: Path | None = None) -> OperatingPointTable:
        """The operating points to serve: those in `path`, else those measured on this device, else the nearest.

        Nearest: a table of the same processor architecture, then any.

        Raises:
            BundleError: There is none, or it was measured on other weights or for another design space.
        """
        if path is not None:
            return self._checked(OperatingPointTable.load(path), path)
        tables = self.tables()
        if not tables:
            raise BundleError(
                f"{self.path / TABLES}: no operating points yet: measure them with 'dynhat profile --points'"
            )
        here, machine = device_name(), platform.machine()
        return min(tables, key=lambda table: (table.device.name != here, table.device.machine != machine))

    def tables(self) -> list[OperatingPointTable]:
        """All tables, whatever device they were measured on.

        Raises:
            BundleError: One was measured on other weights or for another design space.
        """
        names = [name for name in sorted(self.manifest.files) if name.startswith(f"{TABLES}/")]
        paths = [self.path / name for name in names]
        return [
            self._checked(OperatingPointTable.parse(bytes(self.contents[name]), path), path)
            for name, path in zip(names, paths, strict=True)
        ]

    def _checked(self, table: OperatingPointTable, path: Path) -> OperatingPointTable:
        if table.weights_sha256 != self.weights_sha256:
            raise BundleError(
                f"{path}: was measured on other weights: measure it again with 'dynhat profile --points'"
            )
        if table.shortlist_sha256 not in (None, self.shortlist_sha256):
            raise BundleError(
                f"{path}: was measured with another vocabulary shortlist: measure it again with 'dynhat profile "
                f"--points --from {path}'"
            )
        table.check_against(self.design_space)
        return table

    def with_table(self, table: OperatingPointTable) -> Bundle:
        """Write a measured table into the bundle and return the bundle with it.

        Raises:
            BundleError: The bundle's folder cannot be written.
        """
        return self._with_file(f"{TABLES}/{_slug(table.device.name)}.json", table.as_json().encode())

    def with_shortlist(self, content: bytes) -> Bundle:
        """Write a vocabulary shortlist into the bundle and return the bundle with it.

        Raises:
            BundleError: The bundle's folder cannot be written, or a table was measured with another shortlist.
        """
        new_sha256 = FileRecord.of(content).sha256
        stale = [table for table in self.tables() if table.shortlist_sha256 not in (None, new_sha256)]
        if stale:
            raise BundleError(
                f"{self.path}: points on {stale[0].device.name} were measured with the shortlist there is: measure "
                "them without first, with 'dynhat profile --points --no-shortlist'"
            )
        return self._with_file(SHORTLIST, content)

    def _with_file(self, name: str, content: bytes) -> Bundle:
        files = {**self.manifest.files, name: FileRecord.of(content)}
        manifest = self.manifest.model_copy(update={"files": files})
        _write_all(self.path, {name: content, MANIFEST: _manifest_json(manifest)})
        return Bundle(self.path, manifest, self.spec, {**self.contents, name: content})


def write_bundle(
    path: Path,
    *,
    name: str,
    languages: tuple[str, str],
    spec: SuperTransformerSpec,
    weights: Mapping[str, Tensor],
    text_files: Mapping[str, bytes],
    training_record: Mapping[str, Any],
    max_src_tokens: int,
    text_pipeline: TextPipeline = "sentencepiece",
    length_penalty: float = 0.6,
    no_repeat_size: int = 0,
    dtype: torch.dtype | None = None,
) -> Bundle:
    """Write a bundle without operating points; tables of other weights that stood there are removed.

    `dtype` is the weights' precision at rest; None is half precision.

    Raises:
        BundleError: The folder cannot be written.
    """
    import torch  # here, as in `Bundle.super_transformer`
    from safetensors.torch import save

    contents = {
        MODEL: (spec.model_dump_json(indent=1) + "\n").encode(),
        WEIGHTS: save(
            {
                key: weight.detach().to("cpu", dtype or torch.float16).contiguous()
                for key, weight in weights.items()
            }
        ),
        **text_files,
        TRAINING_RECORD: (json.dumps(training_record, indent=1, ensure_ascii=False) + "\n").encode(),
    }
    src_lang, tgt_lang = languages
    manifest = Manifest(
        name=name,
        src_lang=src_lang,
        tgt_lang=tgt_lang,
        max_src_tokens=max_src_tokens,
        text_pipeline=text_pipeline,
        length_penalty=length_penalty,
        no_repeat_size=no_repeat_size,
        files={file: FileRecord.of(content) for file, content in contents.items()},
    )
    for old in (path / TABLES).glob("*.json"):
        old.unlink()
    _write_all(path, {**contents, MANIFEST: _manifest_json(manifest)})
    return Bundle(path, manifest, spec, contents)


def shipped_bundle_path(name: str = "en-de") -> Path:
    """The bundle that comes with the package, installed or in a working copy, or another such folder."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "operating_points" / name
    return installed if installed.exists() else package.parent / "operating_points" / name


def _weights_to_import(path: Path) -> str:
    return (
        f"{path}: the weights are not shipped: download the {path.resolve().name} SuperTransformer checkpoint of HAT "
        "(Hardware-Aware Transformers, MIT HAN Lab) with its dictionary and BPE codes, then run 'dynhat import-hat "
        "CHECKPOINT --dict DICT --bpe-codes CODES --out BUNDLE' and serve that bundle"
    )


def _manifest_json(manifest: Manifest) -> bytes:
    return (manifest.model_dump_json(indent=1) + "\n").encode()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}): {REMEDY}") from error


def _is_inside(name: str) -> bool:
    """Whether a file's name in the manifest is one below the bundle's folder."""
    parts = PurePosixPath(name).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and name.isprintable()


def _checked_content(path: Path, record: FileRecord) -> Content:
    """A file that is what its record says; weights in memory of their own.

    Raises:
        BundleError: It is missing, truncated or altered.
    """
    try:
        content = read_file(path) if path.name == WEIGHTS else path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}): {REMEDY}") from error
    if len(content) != record.size_bytes:
        raise BundleError(f"{path}: has {len(content)} bytes, should have {record.size_bytes}: {REMEDY}")
    if FileRecord.of(content) != record:
        raise BundleError(f"{path}: was altered (its sha256 is not the manifest's): {REMEDY}")
    return content


def _write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write each file under a temporary name first; the last one, the manifest, makes them valid."""
    try:
        for name, content in contents.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            partial = file.with_name(file.name + ".partial")
            partial.write_bytes(content)
            partial.replace(file)
    except OSError as error:
        raise BundleError(
            f"{folder}: cannot be written ({error.strerror}): give a folder you may write to"
        ) from error


def _parse(model: type[Any], path: Path, content: bytes) -> Any:
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("format_version",):
            raise BundleError(
                f"{path}: is of format version {first['input']!r}, this dynhat reads version {FORMAT_VERSION}: "
                "install the dynhat that the bundle was made for, or give another bundle with --bundle"
            ) from error
        raise BundleError(f"{path}: {first_complaint(error)}: {REMEDY}") from error
    except DesignSpaceError as error:
        raise BundleError(f"{path}: {error}: {REMEDY}") from error


def _slug(device: str) -> str:
    words = "".join(character if character.isalnum() else " " for character in device.lower()).split()
    return "-".join(words)[:60] or "device"
