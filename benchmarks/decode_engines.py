"""The engines that are compared, behind one verb: `decode` one sentence in an exact number of steps.

The one place that says how our engine is had at a precision and a number of threads. What there is not is an `Absent`
with the reason, never a stand-in. Measures nothing.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmarks.decode_shapes import Shape
from benchmarks.eager_baseline import EagerDecoder
from benchmarks.figures import BenchmarkError
from dynhat_runtime.decoding.beam_search import beam_search
from dynhat_runtime.decoding.search import BeamOptions
from dynhat_runtime.errors import NativeUnavailableError
from dynhat_runtime.model.decodable import Decodable
from dynhat_runtime.model.shortlist import Shortlist
from dynhat_runtime.offline.export_ctranslate2 import Vocabulary, write_model
from dynhat_runtime.operating_point import Precision

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
COMPUTE_TYPES: dict[Precision, str] = {"fp32": "float32", "int8": "int8"}
"""What CTranslate2 calls them. It quantises the float32 model as it loads it."""


LENGTH_PENALTY = BeamOptions().length_penalty


class Decoder(Protocol):
    """Something that decodes."""

    def decode(self, src_ids: Sequence[int], num_steps: int, beam_size: int) -> tuple[int, ...]:
        """The best output of one sentence (ids, eos included) after exactly `num_steps` decoder steps."""


@dataclass(frozen=True, slots=True)
class Absent:
    """An engine that there is not, and why."""

    reason: str


class OurDecoder:
    """Our engine, as translations are served."""

    def __init__(self, sub: Decodable, num_threads: int) -> None:
        self._sub = sub
        self._num_threads = num_threads

    @torch.inference_mode()
    def decode(self, src_ids: Sequence[int], num_steps: int, beam_size: int) -> tuple[int, ...]:
        """Eos is forbidden before the last step and forced there."""
        torch.set_num_threads(self._num_threads)  # where PyTorch decodes
        options = BeamOptions(beam_size=beam_size, min_length=num_steps - 1)
        decoder = self._sub.start(self._sub.encode(torch.tensor([src_ids])), beam_size)
        (hypotheses,) = beam_search(decoder, [num_steps - 1], options)
        return hypotheses[0].tokens


class CTranslate2Decoder:
    """CTranslate2 on a converted model; with `has_map` it says what its vocabulary map allows only."""

    def __init__(
        self, folder: Path, shape: Shape, precision: Precision, num_threads: int, *, has_map: bool = False
    ) -> None:
        import ctranslate2

        self._has_map = has_map
        self._pieces = shape.stock.vocabulary.src_pieces()
        self._ids = {piece: i for i, piece in enumerate(shape.stock.vocabulary.tgt_pieces())}
        self._translator: Any = ctranslate2.Translator(
            str(folder), compute_type=COMPUTE_TYPES[precision], inter_threads=1, intra_threads=num_threads
        )

    def decode(self, src_ids: Sequence[int], num_steps: int, beam_size: int) -> tuple[int, ...]:
        """It forbids eos while it has to go on and forces none: its last token is one of any kind. It adds the
        source's eos itself."""
        (result,) = self._translator.translate_batch(
            [[self._pieces[i] for i in src_ids[:-1]]],
            beam_size=beam_size,
            length_penalty=LENGTH_PENALTY,
            min_decoding_length=num_steps,
            max_decoding_length=num_steps,
            use_vmap=self._has_map,
        )
        return tuple(self._ids[piece] for piece in result.hypotheses[0])


class Engines:
    """Engines of one shape, each made when it is first asked for.

    Args:
        shape: What they decode with.
        folder: An existing folder for the converted model.
    """

    def __init__(self, shape: Shape, folder: Path) -> None:
        self.shape = shape
        self._folder = folder
        self._made: dict[tuple[str, Precision, int, bool], Decoder] = {}

    def ours(
        self, precision: Precision, num_threads: int, *, has_shortlist: bool = False
    ) -> Decoder | Absent:
        """Our engine, if it can do that; in int8 with the shortlist it runs as the daemon serves the shipped points."""
        if has_shortlist and self.shape.stock.shortlist is None:
            return Absent("the bundle has no vocabulary shortlist")
        try:
            prepared = self.shape.stock.prepared(precision)
        except NativeUnavailableError as error:
            return Absent(f"{precision}: {error}")
        return self._once(
            ("ours", precision, num_threads, has_shortlist),
            lambda: OurDecoder(
                prepared.extract(self.shape.config, precision, num_threads, has_shortlist=has_shortlist),
                num_threads,
            ),
        )

    def ctranslate2(self, precision: Precision, num_threads: int, *, has_map: bool = False) -> Decoder:
        """CTranslate2 on the same weights, with a vocabulary map of what our shortlist holds or without."""
        return self._once(
            ("ctranslate2", precision, num_threads, has_map),
            lambda: CTranslate2Decoder(
                self.model_folder(), self.shape, precision, num_threads, has_map=has_map
            ),
        )

    def eager(self, num_threads: int) -> Decoder:
        """The eager baseline; fp32."""
        return self._once(
            ("eager", "fp32", num_threads, False),
            lambda: EagerDecoder(self.shape.stored(), num_threads),
        )

    def _once(self, key: tuple[str, Precision, int, bool], make: Callable[[], Decoder]) -> Decoder:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def model_folder(self) -> Path:
        """The shape as a CTranslate2 model, converted on the first call."""
        folder = self._folder / self.shape.name
        if not folder.exists():
            write_model(self.shape.stored(), self.shape.stock.vocabulary, folder)
            if self.shape.stock.shortlist is not None:
                write_vocabulary_map(self.shape.stock.shortlist, self.shape.stock.vocabulary, folder)
        return folder


def write_vocabulary_map(shortlist: Shortlist, vocabulary: Vocabulary, folder: Path) -> None:
    """Give the model in `folder` a vocabulary map: a line for every source token, its target tokens behind it; the
    line without a source token holds those of every sentence. It is used only where `use_vmap` asks for it."""
    sources, targets = vocabulary.src_pieces(), vocabulary.tgt_pieces()
    rows = [("", shortlist.common)]
    rows += [
        (sources[number], shortlist.tokens[begin:end])
        for number, (begin, end) in enumerate(pairwise(shortlist.starts))
        if begin < end
    ]
    lines = (f"{source}\t{' '.join(targets[i] for i in ids)}\n" for source, ids in rows)
    (folder / "vmap.txt").write_text("".join(lines), encoding="utf-8")


def check_ctranslate2() -> str:
    """The version of CTranslate2.

    Raises:
        BenchmarkError: It is not installed.
    """
    if importlib.util.find_spec("ctranslate2") is None:
        raise BenchmarkError("ctranslate2 is not installed: pip install 'dynhat-runtime[bench]'")
    import ctranslate2

    return str(ctranslate2.__version__)
