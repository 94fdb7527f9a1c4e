"""Sentences as the translator plans them: made up, and read back."""

from __future__ import annotations

from collections.abc import Sequence

from dynhat_runtime.decoding.translator import PlannedSentence, Source
from dynhat_runtime.text.sentence_plan import plan_sentence


def planned_sentence(text: str, num_tokens: int) -> PlannedSentence:
    """A sentence of so many tokens."""
    return PlannedSentence(plan_sentence(text), [[Source("", text, [5] * num_tokens)]])


def texts_of(planned: Sequence[PlannedSentence]) -> list[str]:
    """The sentences again; of those with something protected what the model is asked."""
    return [
        "".join(part.before + part.text for source in sentence.sources for part in source)
        for sentence in planned
    ]
