"""Any SubTransformer made to say what is on the sentence's vocabulary shortlist only: the reference, and what serves
where the native decoder is not there.

It is no faster than the whole vocabulary: it scores all of it and rules the rest out, so that a softmax over what is
left is a softmax over the list. The native decoder computes the list alone; this module knows nothing of it.

Shapes: B sentences, K beams, N = B * K rows, S source length, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dynhat_runtime.design_space import SubTransformerConfig
from dynhat_runtime.model.shortlist import Shortlist
from dynhat_runtime.model.sub_transformer import EncoderOutput, IncrementalDecoder, SubTransformer


@dataclass(frozen=True, slots=True)
class ListedOutput:
    """An encoder's output, and what may be said to it.

    Attributes:
        encoded: The output.
        bar_BV: 0 where a token is listed, minus infinity elsewhere.
    """

    encoded: EncoderOutput
    bar_BV: Tensor


@dataclass(frozen=True, slots=True)
class ShortlistedSubTransformer:
    """Encoder and decoder of one architecture: a value, like `SubTransformer`."""

    sub: SubTransformer
    shortlist: Shortlist

    @property
    def config(self) -> SubTransformerConfig:
        """The architecture."""
        return self.sub.config

    @property
    def src_vocab_size(self) -> int:
        """Source token ids are below it."""
        return self.sub.src_vocab_size

    @property
    def device(self) -> torch.device:
        """Where tokens and scores live."""
        return self.sub.device

    def encode(self, src_tokens_BS: Tensor) -> ListedOutput:
        """Encode token ids (B, S) that end in eos; padding may stand on either side."""
        bar_BV = torch.full((len(src_tokens_BS), self.shortlist.tgt_vocab_size), -torch.inf)
        for bar_V, row_S in zip(bar_BV, src_tokens_BS.cpu().numpy(), strict=True):
            bar_V[torch.from_numpy(self.shortlist.listed(row_S[row_S != self.sub.pad_id])).long()] = 0.0
        return ListedOutput(self.sub.encode(src_tokens_BS), bar_BV.to(self.device))

    def start(self, encoded: ListedOutput, num_beams: int) -> ShortlistedDecoder:
        """Begin decoding with `num_beams` rows per sentence."""
        return ShortlistedDecoder(self.sub.start(encoded.encoded, num_beams), encoded.bar_BV, num_beams)


class ShortlistedDecoder:
    """Decodes like the decoder it is given, and scores what is not listed minus infinity."""

    def __init__(self, decoder: IncrementalDecoder, bar_BV: Tensor, num_beams: int) -> None:
        self._decoder, self._bar_BV, self._num_beams = decoder, bar_BV, num_beams

    def step(self, tokens_N: Tensor) -> Tensor:
        """Scores (N, V) of what follows `tokens_N`, the last token of every row."""
        logits_NV = self._decoder.step(tokens_N)
        return logits_NV + self._bar_BV.repeat_interleave(self._num_beams, dim=0)

    def reorder(self, rows_N: Tensor) -> None:
        """Continue with these rows; each stays within its sentence."""
        self._decoder.reorder(rows_N)

    def keep_sentences(self, sentences_B: Tensor, rows_N: Tensor) -> None:
        """Continue with these sentences only; `rows_N` are the rows to keep, in order."""
        self._decoder.keep_sentences(sentences_B, rows_N)
        self._bar_BV = self._bar_BV.index_select(0, sentences_B)

    @property
    def size_bytes(self) -> int:
        """Memory of the caches."""
        return self._decoder.size_bytes
