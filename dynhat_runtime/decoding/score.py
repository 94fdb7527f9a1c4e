"""How sure the model was of an output, as a value that adds up over sentences. Computes no probabilities."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """Of one output, or of several together."""

    log_probability: float
    """Sum over its tokens, each eos included; at most 0."""
    num_tokens: int

    @classmethod
    def total(cls, scores: Iterable[Score]) -> Score:
        """Of all of them together; of none it is 0 of 0 tokens."""
        parts = tuple(scores)
        return cls(sum(part.log_probability for part in parts), sum(part.num_tokens for part in parts))

    @property
    def mean(self) -> float | None:
        """Per token: comparable between texts of any length. None where nothing was decoded."""
        return self.log_probability / self.num_tokens if self.num_tokens else None
