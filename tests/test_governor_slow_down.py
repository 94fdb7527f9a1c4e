"""Tests of dynhat_runtime.governor.slow_down."""

from __future__ import annotations

import math
import random
from statistics import median

import pytest

from dynhat_runtime.governor.slow_down import LARGEST_NOISE_VARIANCE, SlowDown

NOTHING_SEEN = SlowDown.planned(1.0, 0.3)


def after(belief: SlowDown, ratios: list[float], interval_s: float = 0.1) -> SlowDown:
    """The belief after these ratios, one every `interval_s`."""
    for ratio in ratios:
        belief = belief.updated(ratio, (belief.monotonic_s or 0.0) + interval_s)
    return belief


def draws(seed: int, factor: float, noise: float, number: int) -> list[float]:
    """Ratios around `factor`."""
    rng = random.Random(seed)
    return [factor * math.exp(rng.gauss(0.0, noise)) for _ in range(number)]


def test_the_first_observation_replaces_most_of_the_plan() -> None:
    """A single translation moves a belief that rests on nothing nearly all the way."""
    assert after(SlowDown.planned(1.5, 0.3), [1.0]).factor == pytest.approx(1.0, rel=0.06)


@pytest.mark.parametrize("step", [0.3, 0.5, 2.0, 4.0])
@pytest.mark.parametrize("noise", [0.02, 0.05, 0.1])
def test_a_step_is_followed_within_three_observations(step: float, noise: float) -> None:
    """Three translations after everything became `step` times as slow, the factor is within a tenth of it."""
    errors = [
        abs(after(NOTHING_SEEN, draws(seed, 1.0, noise, 40) + draws(~seed, step, noise, 3)).factor / step - 1)
        for seed in range(60)
    ]
    assert median(errors) <= 0.1


@pytest.mark.parametrize("outlier", [0.1, 0.3, 3.0, 50.0])
def test_a_single_outlier_hardly_moves_the_factor(outlier: float) -> None:
    """One translation far off, between ordinary ones, leaves the factor within 3 % of where it was."""
    before = after(NOTHING_SEEN, draws(1, 1.0, 0.05, 30))
    during = after(before, [outlier])
    assert during.factor == pytest.approx(before.factor, rel=0.001)
    assert during.is_surprised
    assert after(during, [1.0, 1.02, 0.98]).factor == pytest.approx(before.factor, rel=0.03)


def test_an_outlier_beside_a_common_deviation_is_no_jump_to_it() -> None:
    """A wild observation followed by one that is merely off the mean does not take the factor along."""
    before = after(NOTHING_SEEN, draws(1, 1.0, 0.05, 30))
    assert after(before, [50.0, 1.1]).factor < 1.25


@pytest.mark.parametrize("noise", [0.03, 0.08, 0.12])
def test_steady_predictions_are_within_a_tenth(noise: float) -> None:
    """While nothing changes and single translations spread by 12 % or less, the median error is at most 10 %."""
    belief, errors = NOTHING_SEEN, []
    for ratio in draws(7, 1.7, noise, 400):
        errors.append(abs(belief.factor / ratio - 1))
        belief = after(belief, [ratio])
    assert median(errors[20:]) <= 0.1


@pytest.mark.parametrize("noise", [0.05, 0.15, 0.3])
def test_the_noise_is_learned(noise: float) -> None:
    """The spread of single translations is estimated to within a third, whatever the device."""
    belief = after(NOTHING_SEEN, draws(3, 1.0, noise, 400))
    assert math.sqrt(belief.noise_variance) == pytest.approx(noise, rel=0.33)


def test_a_jump_does_not_count_as_noise() -> None:
    """A change of pace leaves the noise about as it was."""
    before = after(NOTHING_SEEN, draws(3, 1.0, 0.05, 200))
    behind = after(before, draws(4, 3.0, 0.05, 3))
    assert behind.noise_variance < 1.6 * before.noise_variance


def test_a_jump_is_uncertain_at_first() -> None:
    """Right after a jump the factor is less certain than before, and becomes certain again."""
    before = after(NOTHING_SEEN, draws(3, 1.0, 0.05, 100))
    jumped = after(before, [2.0, 2.05, 1.98])
    assert jumped.std > 2 * before.std
    assert after(jumped, draws(5, 2.0, 0.05, 50)).std < jumped.std / 2


def test_two_wild_ones_in_a_row_are_no_slow_down() -> None:
    """Two translations that took thrice as long move the factor by less than a tenth; a third one is believed."""
    before = after(NOTHING_SEEN, draws(3, 1.0, 0.1, 100))
    assert after(before, [3.0, 3.1]).factor == pytest.approx(before.factor, rel=0.1)
    assert after(before, [3.0, 3.1, 2.9]).factor == pytest.approx(3.0, rel=0.1)


def test_two_quick_ones_are_a_speed_up() -> None:
    """Nothing makes translations wildly fast by chance: two are believed."""
    before = after(NOTHING_SEEN, draws(3, 3.0, 0.1, 100))
    assert after(before, [1.0, 1.05]).factor == pytest.approx(1.0, rel=0.1)


def test_a_slow_drift_is_followed() -> None:
    """A pace that falls by 2 % with every ten translations is followed without a lag of more than 10 %."""
    rng, belief, pace = random.Random(2), NOTHING_SEEN, 1.0
    for _ in range(600):
        pace *= 1.002
        belief = after(belief, [pace * math.exp(rng.gauss(0, 0.05))])
    assert belief.factor == pytest.approx(pace, rel=0.1)


def test_time_without_observations_widens_and_moves_nothing() -> None:
    """Ageing raises the variance, within bounds, and leaves the factor alone."""
    belief = after(NOTHING_SEEN, draws(3, 1.3, 0.05, 50))
    aged, very_old = belief.aged(60.0), belief.aged(1e9)
    assert aged.factor == very_old.factor == belief.factor
    assert belief.std < aged.std < very_old.std < 0.25


@pytest.mark.parametrize("ratio", [1e-300, 1e300])
def test_absurd_ratios_stay_finite(ratio: float) -> None:
    """Nonsense repeated gives a finite belief with bounded noise."""
    belief = after(NOTHING_SEEN, [ratio, 1.0] * 20 + [ratio] * 5)
    assert math.isfinite(belief.factor)
    assert 0 < belief.noise_variance <= LARGEST_NOISE_VARIANCE


def test_a_belief_does_not_hold_on_to_all_that_it_was() -> None:
    """After many jumps a belief holds one former belief, not a chain of them."""
    belief = after(NOTHING_SEEN, [1.0, 1.0, 1.0] + [3.0] * 5 + [1.0] * 5 + [3.0] * 5)
    assert belief.before_jump is not None
    assert belief.before_jump.before_jump is None
