"""Sentences in, sentences out, for one SubTransformer at a time. Knows no queues and no operating-point table.

Shapes: B sentences, S source length, K beams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from dynhat_runtime.decoding.beam_search import BeamOptions, beam_search
from dynhat_runtime.decoding.sentences import split_in_two
from dynhat_runtime.decoding.tokenizer import EOS_ID, PAD_ID, Tokenizer, tokenizer_of
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.sub_transformer import SubTransformer


@dataclass(frozen=True, slots=True)
class LengthLimits:
    """Bounds on one sentence, in tokens with eos.

    Attributes:
        max_src_tokens: Longer sentences are cut and translated in parts.
        max_tgt_ratio: Target tokens per source token before the output is ended ...
        max_tgt_extra: ... plus this many.
    """

    max_src_tokens: int = 64
    max_tgt_ratio: float = 1.6
    max_tgt_extra: int = 10

    def max_tgt_tokens(self, num_src_tokens: int) -> int:
        """Tokens before eos is forced."""
        return int(self.max_tgt_ratio * num_src_tokens) + self.max_tgt_extra


@dataclass(frozen=True, slots=True)
class SentenceTranslation:
    """One translated sentence and its size."""

    text: str
    num_src_tokens: int
    num_tgt_tokens: int


class Translator:
    """Tokenises, searches and detokenises batches of sentences."""

    def __init__(self, tokenizer: Tokenizer, limits: LengthLimits | None = None) -> None:
        self.tokenizer = tokenizer
        self.limits = limits or LengthLimits()

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> Translator:
        """The translator that `bundle`'s text files and limits make.

        Raises:
            BundleError: Its text files are not what they should be.
        """
        return cls(tokenizer_of(bundle), LengthLimits(max_src_tokens=bundle.manifest.max_src_tokens))

    def encode(self, sentence: str) -> list[int]:
        """Source token ids of one sentence, ending in eos."""
        return [*self.tokenizer.encode(sentence), EOS_ID]

    @torch.inference_mode()
    def translate(
        self,
        sub: SubTransformer,
        sentences: Sequence[str],
        options: BeamOptions,
        *,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> list[SentenceTranslation]:
        """Translate sentences in one batch; over-long ones are cut in two until they fit.

        Raises:
            SearchCancelledError: `is_cancelled` said so between two steps.
        """
        parts: list[tuple[int, str, list[int]]] = []
        for number, sentence in enumerate(sentences):
            parts += [(number, separator, ids) for separator, ids in self._parts(sentence)]
        outputs = self._search(sub, [ids for _, _, ids in parts], options, is_cancelled)
        texts, src_tokens, tgt_tokens = ([""] * len(sentences), [0] * len(sentences), [0] * len(sentences))
        for (number, separator, ids), tokens in zip(parts, outputs, strict=True):
            texts[number] += separator + self.tokenizer.decode(tokens)
            src_tokens[number] += len(ids)
            tgt_tokens[number] += len(tokens)
        return [SentenceTranslation(*fields) for fields in zip(texts, src_tokens, tgt_tokens, strict=True)]

    def _parts(self, sentence: str) -> list[tuple[str, list[int]]]:
        """Token ids of a sentence's parts, each with the white space before it."""
        ids = self.encode(sentence)
        if len(ids) <= self.limits.max_src_tokens:
            return [("", ids)]
        if len(sentence) < 2:
            return [("", [*ids[: self.limits.max_src_tokens - 1], EOS_ID])]
        first, separator, second = split_in_two(sentence)
        (_, second_ids), *rest = self._parts(second)
        return [*self._parts(first), (separator, second_ids), *rest]

    def _search(
        self,
        sub: SubTransformer,
        sources: list[list[int]],
        options: BeamOptions,
        is_cancelled: Callable[[], bool],
    ) -> list[tuple[int, ...]]:
        """Best output of every source."""
        if not sources:
            return []
        device = sub.output.weight_OI.device
        longest = max(map(len, sources))
        src_BS = torch.tensor([[PAD_ID] * (longest - len(ids)) + ids for ids in sources], device=device)
        decoder = sub.start(sub.encode(src_BS), options.beam_size)
        max_lengths = [self.limits.max_tgt_tokens(len(ids)) for ids in sources]
        found = beam_search(decoder, max_lengths, options, device=device, is_cancelled=is_cancelled)
        return [hypotheses[0].tokens for hypotheses in found]
