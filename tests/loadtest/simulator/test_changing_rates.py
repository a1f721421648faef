"""Arrivals whose rate changes keep their mean and repeat by seed."""

from __future__ import annotations

import numpy as np
import pytest

from loadtest import arrivals


def test_a_modulated_process_has_the_mean_of_its_states_weighted_by_their_time() -> None:
    times = arrivals.mmpp2((200, 1800), (0.3, 0.1), 200, 4)
    assert len(times) == pytest.approx(200 * (0.75 * 200 + 0.25 * 1800), rel=0.1)
    assert (np.diff(times) >= 0).all()
    assert np.array_equal(times, arrivals.mmpp2((200, 1800), (0.3, 0.1), 200, 4))


def test_a_modulated_process_is_burstier_than_poisson() -> None:
    times = arrivals.mmpp2((200, 1800), (0.3, 0.1), 100, 4)
    counts = np.bincount(times // 50_000_000, minlength=2000)
    assert counts.var() > 5 * counts.mean()


def test_a_state_may_be_silent() -> None:
    times = arrivals.mmpp2((0, 1000), (1.0, 1.0), 20, 1)
    assert 5_000 < len(times) < 15_000


def test_a_ramp_climbs_evenly() -> None:
    times = arrivals.ramp(100, 1900, 20, 2)
    counts = np.bincount(times // 5_000_000_000, minlength=4)
    assert counts.sum() == pytest.approx(20_000, rel=0.05)
    expected = [5 * (100 + 1800 * (k + 0.5) / 4) for k in range(4)]
    assert counts == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    "make",
    [
        lambda: arrivals.mmpp2((0, 0), (1, 1), 1, 0),
        lambda: arrivals.mmpp2((-1, 5), (1, 1), 1, 0),
        lambda: arrivals.mmpp2((1, 5), (0, 1), 1, 0),
        lambda: arrivals.ramp(0, 5, 1, 0),
        lambda: arrivals.ramp(5, float("nan"), 1, 0),
    ],
)
def test_rates_that_mean_nothing_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"rate"):
        make()  # type: ignore[operator]
