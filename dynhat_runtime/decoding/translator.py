"""Sentences in, sentences out, for one SubTransformer at a time. Knows no queues and no operating-point table.

Shapes: B sentences, S source length, K beams.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from dynhat_runtime.decoding.output_guard import Fault, judge
from dynhat_runtime.decoding.score import Score
from dynhat_runtime.decoding.search import BeamOptions, Hypothesis, search
from dynhat_runtime.decoding.tokenizer import EOS_ID, Tokenizer, tokenizer_of
from dynhat_runtime.model.checkpoint import Bundle
from dynhat_runtime.model.decodable import Decodable
from dynhat_runtime.text.sentence_plan import SentencePlan, plan_sentence
from dynhat_runtime.text.sentences import split_in_two


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
    """What was decoded at once: a sentence, or a part of an over-long one or of one with something protected in it."""

    before: str
    """White space between it and the part before."""
    hypotheses: tuple[str, ...]
    """Translations, best first, as many as were asked for and found."""
    scores: tuple[Score, ...]
    """One for each of them."""
    num_src_tokens: int
    num_tgt_tokens: int
    fault: Fault | None
    """The output guard's verdict on the best."""
    is_used: bool = True
    """Whether the sentence's translation is made of it: some parts are decoded in case others lose something."""

    def text(self, rank: int) -> str:
        """The translation of this rank, or the last there is."""
        return self.before + self.hypotheses[self._there(rank)]

    def score(self, rank: int) -> Score:
        """That translation's score."""
        return self.scores[self._there(rank)]

    def _there(self, rank: int) -> int:
        return min(rank, len(self.hypotheses) - 1)


@dataclass(frozen=True, slots=True)
class SentenceTranslation:
    """One translated sentence, and the parts it was decoded in."""

    text: str
    """The translation."""
    alternatives: tuple[str, ...]
    """Others, the better ones first; none is the same as another."""
    scores: tuple[Score, ...]
    """The translation's, and each other's behind it."""
    parts: tuple[TranslatedPart, ...]

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
        return next((part.fault for part in self.parts if part.is_used and part.fault is not None), None)


def search_options(bundle: Bundle, beam_size: int = BeamOptions().beam_size) -> BeamOptions:
    """How `bundle` asks to be searched."""
    manifest = bundle.manifest
    return BeamOptions(
        beam_size=beam_size,
        length_penalty=manifest.length_penalty,
        no_repeat_size=manifest.no_repeat_size,
    )


class Source(NamedTuple):
    """A part as it goes in."""

    before: str
    text: str
    ids: list[int]


class PlannedSentence(NamedTuple):
    """A sentence as it goes in: what can be said of it before anything is decoded."""

    plan: SentencePlan
    sources: list[list[Source]]
    """The parts of each of the plan's sources."""

    @property
    def part_lengths(self) -> tuple[int, ...]:
        """Source tokens, with eos, of everything it is translated as: one length, unless it is over-long or something
        in it is protected."""
        return tuple(len(part.ids) for source in self.sources for part in source)

    @property
    def num_src_tokens(self) -> int:
        """Of all parts."""
        return sum(self.part_lengths)


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

    def translate(
        self,
        sub: Decodable,
        sentences: Sequence[str],
        options: BeamOptions,
        *,
        num_alternatives: int = 0,
    ) -> list[SentenceTranslation]:
        """`translate_planned` of sentences that have not been planned yet, to the end."""
        planned = [self.plan(sentence) for sentence in sentences]
        return self.translate_planned(sub, planned, options, num_alternatives=num_alternatives)

    def translate_planned(
        self,
        sub: Decodable,
        planned: Sequence[PlannedSentence],
        options: BeamOptions,
        *,
        num_alternatives: int = 0,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> list[SentenceTranslation]:
        """Translate sentences in one batch; over-long ones are in parts that fit.

        What is protected in a sentence stands in its translation exactly as often as in it.

        Args:
            sub: What computes.
            planned: Sentences, each with some language in it.
            options: How to search.
            num_alternatives: Other translations wanted of each; there are never more than the search has beams.
            is_cancelled: Asked between two steps.

        Raises:
            SearchCancelledError: `is_cancelled` said so between two steps.
        """
        flat = [part for sentence in planned for source in sentence.sources for part in source]
        max_lengths = [self.limits.max_tgt_tokens(len(part.ids)) for part in flat]
        outputs = search(sub, [part.ids for part in flat], max_lengths, options, is_cancelled)
        translated = iter(
            [
                self._translated(part, hypotheses[: num_alternatives + 1])
                for part, hypotheses in zip(flat, outputs, strict=True)
            ]
        )
        return [
            _assembled(sentence.plan, [list(islice(translated, len(parts))) for parts in sentence.sources])
            for sentence in planned
        ]

    def plan(self, sentence: str) -> PlannedSentence:
        """What to decode for a sentence; over-long ones are cut in two until they fit."""
        plan = plan_sentence(sentence)
        return PlannedSentence(plan, [self._parts(source) for source in plan.sources])

    def _parts(self, sentence: str) -> list[Source]:
        """A sentence in parts that fit."""
        ids = self.encode(sentence)
        if len(ids) <= self.limits.max_src_tokens:
            return [Source("", sentence, ids)]
        if len(sentence) < 2:
            return [Source("", sentence, [*ids[: self.limits.max_src_tokens - 1], EOS_ID])]
        first, separator, second = split_in_two(sentence)
        begin, *rest = self._parts(second)
        return [*self._parts(first), begin._replace(before=separator), *rest]

    def _translated(self, source: Source, hypotheses: Sequence[Hypothesis]) -> TranslatedPart:
        """A part's output, judged."""
        texts = tuple(self.tokenizer.decode(hypothesis.tokens) for hypothesis in hypotheses)
        scores = tuple(Score(each.totals[-1], len(each.tokens)) for each in hypotheses)
        best = hypotheses[0].tokens
        limit = self.limits.max_tgt_tokens(len(source.ids))
        fault = judge(source.text, source.ids, texts[0], best, limit)
        return TranslatedPart(source.before, texts, scores, len(source.ids), len(best), fault)


def _assembled(plan: SentencePlan, sources: Sequence[Sequence[TranslatedPart]]) -> SentenceTranslation:
    """A sentence of its parts: the best of each, and one alternative for each further rank."""
    num_ranks = max(len(part.hypotheses) for parts in sources for part in parts)
    ranked = [
        plan.assemble(["".join(part.text(rank) for part in parts) for parts in sources])
        for rank in range(num_ranks)
    ]
    best = ranked[0]
    parts = [
        replace(part, is_used=number in best.used) for number, source in enumerate(sources) for part in source
    ]
    scored: dict[str, Score] = {}
    for rank, assembled in enumerate(ranked):
        used = (part for number in assembled.used for part in sources[number])
        scored.setdefault(assembled.text, Score.total(part.score(rank) for part in used))
    return SentenceTranslation(best.text, tuple(scored)[1:], tuple(scored.values()), tuple(parts))
