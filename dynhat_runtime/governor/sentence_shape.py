"""What a batch's shape costs: further sentences, and the length of a target not yet written. Values that learn."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

LENGTH_WEIGHT = 0.05
"""Of the newest sentence in the target's length, once there are many."""
SHORTEST_TELLING_TOKENS = 4
"""Sources shorter than this say little of the ratio: a word may become three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchGrowth:
    """A batch of n sentences takes 1 + `per_sentence` (n - 1) times one: a line, learned from batches.

    The first figure is what beam 4 takes on a CPU: the rows of one sentence's beams do not fill it.
    """

    log_mean: float = math.log(0.4)
    log_variance: float = 0.25**2

    @property
    def per_sentence(self) -> float:
        """Share of a sentence's time that one more in the batch takes."""
        return math.exp(self.log_mean)

    def factor(self, num_sentences: int) -> float:
        """Time of a batch over that of a single sentence."""
        return 1 + self.per_sentence * (num_sentences - 1)

    def variance(self, num_sentences: int) -> float:
        """Of the factor's logarithm."""
        return self._slope(num_sentences) ** 2 * self.log_variance

    def updated(self, num_sentences: int, surprise: float, other_variance: float) -> BatchGrowth:
        """What a batch teaches.

        Args:
            num_sentences: In it.
            surprise: Logarithm of its time over the one expected.
            other_variance: Of that logarithm for other reasons: the less certain these are, the less is learned.
        """
        if num_sentences == 1:
            return self
        slope = self._slope(num_sentences)
        gain = self.log_variance * slope / (slope**2 * self.log_variance + other_variance)
        # Clipped: one wild batch is no law. Between nothing gained by a batch's common steps, and all of it.
        log_mean = self.log_mean + gain * min(max(surprise, -0.5), 0.5)
        return BatchGrowth(
            log_mean=min(max(log_mean, math.log(0.02)), math.log(1.5)),
            log_variance=max((1 - gain * slope) * self.log_variance, 0.03**2),
        )

    def _slope(self, num_sentences: int) -> float:
        """Change of the factor's logarithm with that of `per_sentence`."""
        further = self.per_sentence * (num_sentences - 1)
        return further / (1 + further)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetLength:
    """A target has about `ratio` times the source's tokens, and two more."""

    ratio: float = 1.0
    log_variance: float = 0.15**2
    """Of a single target's length around that."""
    num_observed: int = 0

    def expected(self, num_src_tokens: int) -> int:
        """Tokens of the target to a source of this length."""
        return max(round(self.ratio * num_src_tokens) + 2, 1)

    def updated(self, num_src_tokens: int, num_tgt_tokens: int) -> TargetLength:
        """What one finished sentence teaches; a degenerate one, four times off, teaches no more than that."""
        if num_src_tokens < SHORTEST_TELLING_TOKENS:
            return self
        seen = min(max((num_tgt_tokens - 2) / num_src_tokens, 0.25), 4.0)
        weight = max(LENGTH_WEIGHT, 1 / (self.num_observed + 10))
        off = math.log(max(num_tgt_tokens, 1) / self.expected(num_src_tokens))
        log_variance = self.log_variance + weight * (min(off**2, 9 * self.log_variance) - self.log_variance)
        return replace(
            self,
            ratio=self.ratio + weight * (seen - self.ratio),
            log_variance=max(log_variance, 0.02**2),
            num_observed=self.num_observed + 1,
        )
