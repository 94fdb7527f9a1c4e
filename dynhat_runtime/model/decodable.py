"""What decoding needs of a network. Protocols only: the native network and PyTorch's have them, and needs neither.

Shapes: B sentences, K beams, N = B * K rows, S source length, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.model.shortlist import Shortlist
from dynhat_runtime.operating_point import Precision

if TYPE_CHECKING:
    import torch
    from torch import Tensor

RawHypothesis = tuple[Sequence[int], Sequence[float]]
"""Tokens of a finished output, and the sums of log-probabilities up to and with each."""


class IncrementalDecoding(Protocol):
    """Decoding of N rows, one position at a time."""

    def step(self, tokens_N: Tensor) -> Tensor:
        """Scores (N, V) of what follows each row's last token."""

    def reorder(self, rows_N: Tensor) -> None:
        """Continue with these rows, each within its sentence."""

    def keep_sentences(self, sentences_B: Tensor, rows_N: Tensor) -> None:
        """Continue with these sentences and these rows only."""


class Decodable(Protocol):
    """One SubTransformer as decoding sees it."""

    @property
    def config(self) -> SubTransformerConfig:
        """The architecture."""

    @property
    def src_vocab_size(self) -> int:
        """Source token ids are below it."""

    @property
    def device(self) -> torch.device:
        """Where tokens and scores live."""

    def encode(self, src_tokens_BS: Tensor) -> Any:
        """Encode token ids (B, S); what comes back is for `start` of the same network."""

    def start(self, encoded: Any, num_beams: int) -> IncrementalDecoding:
        """Begin decoding with `num_beams` rows per sentence."""


class ComputingPoint(Protocol):
    """An operating point, measured or to be: an architecture, and how it computes."""

    @property
    def config(self) -> SubTransformerConfig:
        """The architecture."""

    @property
    def precision(self) -> Precision:
        """How its matrices are kept."""

    @property
    def num_threads(self) -> int:
        """Threads that share each matrix product."""

    @property
    def has_shortlist(self) -> bool:
        """Whether it says what is on the sentence's vocabulary shortlist only."""


@runtime_checkable
class SearchesItself(Protocol):
    """A decoder that runs the whole search by the rules of `decoding.beam_search`, faster than step by step."""

    def search(
        self,
        max_lengths: Sequence[int],
        *,
        beam_size: int,
        min_length: int,
        no_repeat_size: int,
        eos_id: int,
        pad_id: int,
        is_cancelled: Callable[[], bool],
    ) -> Sequence[Sequence[RawHypothesis]] | None:
        """Per sentence the tokens and running totals of its hypotheses as they finished; None when cancelled."""


@runtime_checkable
class SearchesSentences(Protocol):
    """A network whose decoders search on their own, and which needs no tensors to begin."""

    def start_search(self, sources: Sequence[Sequence[int]], num_beams: int) -> SearchesItself:
        """Encode sentences of token ids that end in eos, and begin with `num_beams` rows for each."""


class PreparedSuper(Protocol):
    """A SuperTransformer laid out for decoding in one precision."""

    def extract(
        self, config: SubTransformerConfig, num_threads: int = 1, shortlist: Shortlist | None = None
    ) -> Decodable:
        """Cut out one SubTransformer; copies no weight.

        Raises:
            DesignSpaceError: `config` lies outside the design space.
        """

    @property
    def size_bytes(self) -> int:
        """Memory of all weights, whatever the number of points."""
