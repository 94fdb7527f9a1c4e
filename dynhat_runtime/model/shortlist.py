"""A vocabulary shortlist: the target tokens that may translate a sentence, by the tokens it has. Learns nothing.

Learned at design time by `offline.make_shortlist`. With it, decoding scores some hundreds of tokens in each step and
normalises over these. On disk it is one safetensors file: `common` (tokens that may translate
anything), `starts` and `tokens` (row i of the source vocabulary is `tokens[starts[i]:starts[i + 1]]`), and how it was
made as text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dynhat_runtime.errors import BundleError

Tokens = NDArray[np.int32]
EOS_ID = 2
"""The format's own, as in `decoding.tokenizer`: in every list, or nothing could end."""
REMEDY = "make it again with 'dynhat make-shortlist'"


@dataclass(frozen=True, slots=True)
class Shortlist:
    """Which target tokens may translate which source tokens.

    Attributes:
        common: Target tokens of every list, eos among them.
        starts: Where a source token's own begin in `tokens`, for every source token; at the end their number.
        tokens: Target tokens that may translate a source token beside the common ones.
        tgt_vocab_size: Target ids are below it.
    """

    common: Tokens
    starts: Tokens
    tokens: Tokens
    tgt_vocab_size: int
    _rows: Tokens = field(init=False, repr=False, compare=False)
    """`tokens` as a table of equally long rows, filled up with a common token: one look-up for all of a sentence."""

    def __post_init__(self) -> None:
        lengths = np.diff(self.starts)
        rows = np.full((len(lengths), int(lengths.max(initial=0))), self.common[0], np.int32)
        rows[np.arange(rows.shape[1]) < lengths[:, None]] = self.tokens
        object.__setattr__(self, "_rows", rows)

    def listed(self, src_ids: Sequence[int] | NDArray[np.int64]) -> Tokens:
        """The target tokens that may translate a sentence, ascending."""
        is_listed_V = np.zeros(self.tgt_vocab_size, np.bool_)
        is_listed_V[self.common] = True
        is_listed_V[self._rows[np.asarray(src_ids)]] = True
        return np.flatnonzero(is_listed_V).astype(np.int32)

    def as_bytes(self, made_how: Mapping[str, object]) -> bytes:
        """The file's content; `made_how` is kept in it for readers."""
        kind = np.uint16 if self.tgt_vocab_size <= 1 << 16 else np.int32
        arrays = {
            "common": self.common.astype(kind),
            "starts": self.starts.astype(np.int32),
            "tokens": self.tokens.astype(kind),
        }
        return save(arrays, {"made_how": json.dumps(made_how, ensure_ascii=False)})

    @classmethod
    def of_bytes(cls, content: bytes, vocab_sizes: tuple[int, int], name: str) -> Shortlist:
        """Read a file's content.

        Args:
            content: Of the file.
            vocab_sizes: Of source and target.
            name: Of the file, for messages.

        Raises:
            BundleError: It is no shortlist, or not one of these vocabularies.
        """
        try:
            arrays = {key: array.astype(np.int32) for key, array in load(content).items()}
            common, starts, tokens = arrays["common"], arrays["starts"], arrays["tokens"]
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise BundleError(f"{name}: no vocabulary shortlist ({error}): {REMEDY}") from error
        complaint = _complaint(common, starts, tokens, vocab_sizes)
        if complaint is not None:
            raise BundleError(f"{name}: {complaint}: {REMEDY}")
        return cls(common, starts, tokens, vocab_sizes[1])


def _complaint(common: Tokens, starts: Tokens, tokens: Tokens, vocab_sizes: tuple[int, int]) -> str | None:
    """What is wrong with a shortlist, if something is."""
    src_vocab_size, tgt_vocab_size = vocab_sizes
    if any(array.ndim != 1 for array in (common, starts, tokens)):
        return "its arrays are no lists"
    if len(starts) != src_vocab_size + 1:
        return f"is for {len(starts) - 1} source tokens, the model has {src_vocab_size}"
    if starts[0] != 0 or starts[-1] != len(tokens) or bool((np.diff(starts) < 0).any()):
        return "its lists do not follow one another"
    listed = np.concatenate([common, tokens])
    if len(listed) and not (listed.min() >= 0 and listed.max() < tgt_vocab_size):
        return f"names a target token outside 0 to {tgt_vocab_size - 1}"
    if EOS_ID not in common:
        return f"the end of a sentence (token {EOS_ID}) is not among its common tokens"
    return None
