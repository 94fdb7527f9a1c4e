"""How much slower than the table everything is now: one factor, learned from finished translations.

A value: `updated` gives another one. Knows nothing of points, caps and budgets, and has no clock.

Why not the plain filter: `docs/decisions/0009-slow-down.md`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import fmean

FIRST_NOISE_VARIANCE = 0.1**2
"""Of a single translation's logarithm, before there are two to compare."""
LEAST_NOISE_VARIANCE = 0.03**2
LARGEST_NOISE_VARIANCE = 0.6**2
NOISE_WEIGHT = 0.02
"""Of the newest difference in the noise, once there are many."""
FIRST_NOISE_COUNT = 8
"""Observations that the first noise is worth."""

DRIFT_SHARE = 0.003
"""Variance the factor gains from one observation to the next, as a share of the noise: sets how calm it is."""
AGEING_VARIANCE_PER_S = 0.01**2
"""Variance it gains in every second, told when it is next observed or returned to."""
LARGEST_AGEING_VARIANCE = 0.2**2

SURPRISE_STDS = 3.0
"""An observation further off is set aside: it moves nothing unless the next ones say the same."""
JUMP_STDS = 3.7
"""So far, in all, must observations in a row lie on one side for the factor to jump to them."""
DOUBT_STDS = 2.8
"""So far, for the belief to be in doubt: its variance widens at once, so that it follows the next ones faster."""
WINDOW = 8
"""Observations in a row that are looked at for a jump."""
FEWEST_SLOWER, FEWEST_FASTER = 3, 2
"""Of them for one upward, and downward. Beside other work two wild ones in a row are common, wildly fast ones never."""
LARGEST_LOG_RATIO = math.log(1000.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowDown:
    """Belief in the slow-down factor: its logarithm is normal."""

    log_mean: float
    log_variance: float
    noise_variance: float = FIRST_NOISE_VARIANCE
    """Of a single translation around the factor (logarithm), estimated from differences of neighbours."""
    num_observed: int = 0
    """Since nothing was known, or since the last jump."""
    recent: tuple[float, ...] = ()
    """Logarithms of the latest ratios, at most `WINDOW`, none from before a jump."""
    num_compared: int = 0
    """Differences that the noise rests on."""
    monotonic_s: float | None = None
    """Of the latest observation."""
    jumped_monotonic_s: float | None = None
    before_jump: SlowDown | None = None
    """What was believed until the last jump."""

    @classmethod
    def planned(cls, factor: float, std: float) -> SlowDown:
        """What to believe before anything is observed."""
        return cls(log_mean=math.log(factor), log_variance=std**2)

    @property
    def factor(self) -> float:
        """Median of the factor."""
        return math.exp(self.log_mean)

    @property
    def std(self) -> float:
        """Standard deviation of the factor's logarithm; about its relative error."""
        return math.sqrt(self.log_variance)

    @property
    def predictive_std(self) -> float:
        """Likewise of the next single translation: what is not known of the factor, and the noise."""
        return math.sqrt(self.log_variance + self.noise_variance)

    @property
    def is_surprised(self) -> bool:
        """The latest observation was set aside: the next one tells whether to believe it."""
        return (
            bool(self.recent) and abs(self.recent[-1] - self.log_mean) > SURPRISE_STDS * self.predictive_std
        )

    def is_slower_than(self, other: SlowDown) -> bool:
        """By more than what is not known of the two."""
        doubt = DOUBT_STDS * math.sqrt(self.log_variance + other.log_variance)
        return self.log_mean > other.log_mean + doubt

    def aged(self, seconds: float) -> SlowDown:
        """The belief after `seconds` without an observation: the same factor, less certain."""
        variance = min(AGEING_VARIANCE_PER_S * max(seconds, 0.0), LARGEST_AGEING_VARIANCE)
        return replace(self, log_variance=max(self.log_variance, min(self.log_variance + variance, 1.0)))

    # Rules, first match decides:
    #   1  The latest observations, 3 to 8 slower ones or 2 to 8 faster ones, are together too far off to be noise
    #                                       -> jump to their mean, forget the older ones.
    #   2  This observation alone is too far off to be noise -> set it aside, move nothing.
    #   3  Otherwise                        -> move by the Kalman gain; a run nearly as far off as in 1
    #                                          widens the variance first, so that the gain is larger.
    # The noise learns from differences of neighbours, clipped, so that neither a drift nor a jump inflates it.
    def updated(self, ratio: float, monotonic_s: float, more_variance: float = 0.0) -> SlowDown:
        """The belief after one more translation took `ratio` times what the table says.

        Args:
            ratio: Measured over base latency, above 0.
            monotonic_s: When it was done.
            more_variance: Of this ratio's logarithm beyond the noise, for what else is uncertain of it.
        """
        assert ratio > 0
        log_ratio = min(max(math.log(ratio), -LARGEST_LOG_RATIO), LARGEST_LOG_RATIO)
        seconds = 0.0 if self.monotonic_s is None else monotonic_s - self.monotonic_s
        prior_variance = self.aged(seconds).log_variance + DRIFT_SHARE * self.noise_variance
        noise_variance = self.noise_variance + more_variance
        seen = replace(
            self._with_noise_from(log_ratio),
            recent=(*self.recent, log_ratio)[-WINDOW:],
            monotonic_s=monotonic_s,
            num_observed=self.num_observed + 1,
        )
        noise_std = math.sqrt(noise_variance)
        if run := self._run_off_the_belief(seen.recent, noise_std, JUMP_STDS):
            # What lies far beyond the nearest counts less: one wild observation beside a common one does no harm.
            near, far = min(run, key=lambda value: abs(value - self.log_mean)), 2 * noise_std
            jump_to = fmean(min(max(value, near - far), near + far) for value in run)
            return replace(
                seen,
                log_mean=jump_to,
                log_variance=noise_variance,
                num_observed=len(run),
                recent=run,
                jumped_monotonic_s=monotonic_s,
                before_jump=replace(self, before_jump=None),
            )
        surprise = log_ratio - self.log_mean
        if abs(surprise) > SURPRISE_STDS * math.sqrt(prior_variance + noise_variance):
            return replace(seen, num_observed=self.num_observed)
        if run := self._run_off_the_belief(seen.recent, noise_std, DOUBT_STDS):
            prior_variance = max(prior_variance, noise_variance / len(run))
        gain = prior_variance / (prior_variance + noise_variance)
        return replace(
            seen, log_mean=self.log_mean + gain * surprise, log_variance=(1 - gain) * prior_variance
        )

    def _run_off_the_belief(
        self, recent: tuple[float, ...], noise_std: float, threshold: float
    ) -> tuple[float, ...] | None:
        """The latest observations that together contradict the belief; the fewest that do."""
        total = 0.0
        is_above = recent[-1] > self.log_mean
        fewest = FEWEST_SLOWER if is_above else FEWEST_FASTER
        for length, value in enumerate(reversed(recent), start=1):
            off_stds = (value - self.log_mean if is_above else self.log_mean - value) / noise_std
            if off_stds <= 0:
                return None
            total += min(off_stds, SURPRISE_STDS)
            if length >= fewest and total > threshold * math.sqrt(length):
                return recent[-length:]
        return None

    def _with_noise_from(self, log_ratio: float) -> SlowDown:
        """The noise after this observation beside the one before it."""
        if not self.recent:
            return self
        # Half the squared difference of two draws is their variance. Clipped: a jump is no noise.
        clipped = min((log_ratio - self.recent[-1]) ** 2 / 2, 9 * self.noise_variance)
        weight = max(NOISE_WEIGHT, 1 / (FIRST_NOISE_COUNT + self.num_compared + 1))
        noise_variance = self.noise_variance + weight * (clipped - self.noise_variance)
        return replace(
            self,
            noise_variance=min(max(noise_variance, LEAST_NOISE_VARIANCE), LARGEST_NOISE_VARIANCE),
            num_compared=self.num_compared + 1,
        )
