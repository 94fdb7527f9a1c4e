"""Running totals: distributions, and energy from readings of power."""

from __future__ import annotations

import threading

import pytest

from dynhat_runtime.tally import ControlTallies, Tally


def test_a_value_on_an_edge_is_below_it() -> None:
    """Each edge counts the values at or below it; number and sum are of all."""
    tally = Tally((1, 2, 5))
    for value in (0.5, 1, 1.5, 2, 7):
        tally.add(value)
    copy = tally.copy()
    assert (copy.edges, copy.at_or_below, copy.number, copy.total) == ((1, 2, 5), (2, 4, 4), 5, 12.0)


def test_several_threads_lose_nothing() -> None:
    """What several threads add at a time is all there."""
    tally = Tally((1,))

    def add() -> None:
        for _ in range(5000):
            tally.add(1)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tally.copy().number, tally.copy().total) == (20_000, 20_000)


def test_what_fails_is_not_timed() -> None:
    """A time is counted when what it is of is done."""
    tally = Tally((1,))
    with tally.timed():
        pass
    with pytest.raises(ZeroDivisionError), tally.timed():
        raise ZeroDivisionError
    assert tally.copy().number == 1
    assert 0 < tally.copy().total < 1


@pytest.mark.parametrize(
    ("readings", "energy_j"),
    [
        ([], None),
        ([(0, None)], None),
        ([(0, 4000)], 0),
        ([(0, 4000), (2, 6000)], 10),
        ([(0, 4000), (1, 4000), (3, 4000)], 12),
        ([(0, 4000), (1, None), (2, 4000), (3, 4000)], 4),
        ([(0, 4000), (60, 4000), (61, 4000)], 4),
        ([(5, 4000), (4, 4000)], 0),
    ],
)
def test_energy(readings: list[tuple[float, float | None]], energy_j: float | None) -> None:
    """Energy is the mean of two readings times the time between; gaps are left out, and no power is no energy."""
    tallies = ControlTallies()
    for monotonic_s, power_mw in readings:
        tallies.note_power(monotonic_s, power_mw)
    assert tallies.energy_j == energy_j
