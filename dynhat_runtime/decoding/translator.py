"""Sentences in, sentences out, for one SubTransformer at a time. Knows no queues and no operating-point table.

Shapes: B sentences, S source length, K beams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import torch

from dynhat_runtime.decoding.beam_search import BeamOptions, beam_search
from dynhat_runtime.decoding.output_guard import Fault, judge
from dynhat_runtime.decoding.sentences import split_in_two
from dynhat_runtime.decoding.tokenizer import EOS_ID, PAD_ID, Tokenizer, tokenizer_of
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.decodable import Decodable


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
class TranslatedPart:
    """What was decoded at once: a sentence, or a part of an over-long one."""

    before: str
    """White space between it and the part before."""
    text: str
    num_src_tokens: int
    num_tgt_tokens: int
    fault: Fault | None
    """The output guard's verdict."""


@dataclass(frozen=True, slots=True)
class SentenceTranslation:
    """One translated sentence, as the parts it was decoded in."""

    parts: tuple[TranslatedPart, ...]

    @property
    def text(self) -> str:
        """The translation."""
        return "".join(part.before + part.text for part in self.parts)

    @property
    def num_src_tokens(self) -> int:
        """Of all parts, with an eos each."""
        return sum(part.num_src_tokens for part in self.parts)

    @property
    def num_tgt_tokens(self) -> int:
        """Of all parts, with an eos each."""
        return sum(part.num_tgt_tokens for part in self.parts)

    @property
    def fault(self) -> Fault | None:
        """What is wrong with it: its first degenerate part's fault."""
        return next((part.fault for part in self.parts if part.fault is not None), None)


class _Source(NamedTuple):
    """A part as it goes in."""

    before: str
    text: str
    ids: list[int]


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
        sub: Decodable,
        sentences: Sequence[str],
        options: BeamOptions,
        *,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> list[SentenceTranslation]:
        """Translate sentences in one batch; over-long ones are cut in two until they fit.

        Raises:
            SearchCancelledError: `is_cancelled` said so between two steps.
        """
        sources = [self._parts(sentence) for sentence in sentences]
        flat = list(chain.from_iterable(sources))
        outputs = self._search(sub, [part.ids for part in flat], options, is_cancelled)
        translated = iter([self._translated(*pair) for pair in zip(flat, outputs, strict=True)])
        return [SentenceTranslation(tuple(islice(translated, len(parts)))) for parts in sources]

    def part_lengths(self, sentence: str) -> tuple[int, ...]:
        """Source tokens, with eos, of every part that `sentence` is translated in: one, unless it is over-long."""
        return tuple(len(part.ids) for part in self._parts(sentence))

    def _parts(self, sentence: str) -> list[_Source]:
        """A sentence in parts that fit."""
        ids = self.encode(sentence)
        if len(ids) <= self.limits.max_src_tokens:
            return [_Source("", sentence, ids)]
        if len(sentence) < 2:
            return [_Source("", sentence, [*ids[: self.limits.max_src_tokens - 1], EOS_ID])]
        first, separator, second = split_in_two(sentence)
        begin, *rest = self._parts(second)
        return [*self._parts(first), begin._replace(before=separator), *rest]

    def _translated(self, source: _Source, tokens: tuple[int, ...]) -> TranslatedPart:
        """A part's output, judged."""
        text = self.tokenizer.decode(tokens)
        limit = self.limits.max_tgt_tokens(len(source.ids))
        fault = judge(source.text, source.ids, text, tokens, limit)
        return TranslatedPart(source.before, text, len(source.ids), len(tokens), fault)

    def _search(
        self,
        sub: Decodable,
        sources: list[list[int]],
        options: BeamOptions,
        is_cancelled: Callable[[], bool],
    ) -> list[tuple[int, ...]]:
        """Best output of every source."""
        if not sources:
            return []
        device = sub.device
        longest = max(map(len, sources))
        src_BS = torch.tensor([[PAD_ID] * (longest - len(ids)) + ids for ids in sources], device=device)
        decoder = sub.start(sub.encode(src_BS), options.beam_size)
        max_lengths = [self.limits.max_tgt_tokens(len(ids)) for ids in sources]
        found = beam_search(decoder, max_lengths, options, device=device, is_cancelled=is_cancelled)
        return [hypotheses[0].tokens for hypotheses in found]
