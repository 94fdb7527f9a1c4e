"""Texts cut into sentences, and what the model is asked for each: all that can be said before anything is decoded.

Made once per request, by whoever asks first how long it is; the engine translates what it gets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dynhat_runtime.decoding.translator import PlannedSentence, Translator
from dynhat_runtime.text.sentences import Cuts, Segment, split_sentences

Place = tuple[int, int]
"""(text, segment) of a sentence."""


@dataclass(frozen=True, slots=True)
class PreparedTexts:
    """One caller's texts.

    Attributes:
        texts: The segments of each; joined they are the text.
        planned: The sentences there are to translate, in order.
    """

    texts: Sequence[Sequence[Segment]]
    planned: Mapping[Place, PlannedSentence]

    @classmethod
    def of(
        cls, texts: Sequence[str], translator: Translator, language: str, cuts: Cuts = "lines"
    ) -> PreparedTexts:
        """Cut texts where `cuts` says, and plan every sentence that has language in it."""
        segments = [split_sentences(text, language, cuts) for text in texts]
        planned = {
            (number, position): translator.plan(segment.sentence)
            for number, text in enumerate(segments)
            for position, segment in enumerate(text)
            if segment.is_translatable
        }
        return cls(segments, planned)

    @property
    def part_lengths(self) -> tuple[int, ...]:
        """Tokens, with eos, of everything that is decoded at once, in order."""
        return tuple(length for sentence in self.planned.values() for length in sentence.part_lengths)
