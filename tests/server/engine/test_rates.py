"""How fast jobs come."""

from __future__ import annotations

import random

import pytest

from server.engine.rates import Rates

MS = 1_000_000
SECOND = 1_000_000_000


def arrive(rates: Rates, start_ns: float, per_second: float, seconds: float, seed: int = 0) -> float:
    """Poisson arrivals; returns when they end."""
    draw, now = random.Random(seed), start_ns
    while (now := now + draw.expovariate(per_second) * SECOND) < start_ns + seconds * SECOND:
        rates.count(round(now))
    return start_ns + seconds * SECOND


def test_nobody_has_come_yet() -> None:
    assert Rates().per_ns(5) == 0


@pytest.mark.parametrize("per_second", [20, 200, 5000])
def test_of_a_steady_stream_it_is_the_rate(per_second: float) -> None:
    rates, now, seen = Rates(), 0.0, []
    for seed in range(200):
        now = arrive(rates, now, per_second, 0.1, seed)
        seen.append(rates.per_ns(round(now)) * SECOND)
    assert sum(seen[20:]) / len(seen[20:]) == pytest.approx(per_second, rel=0.15)


def test_a_burst_is_known_long_before_the_long_mean_knows() -> None:
    rates = Rates()
    now = arrive(rates, 0, 50, 5)
    now = arrive(rates, now, 3000, 0.03)
    assert rates.per_ns(round(now)) * SECOND > 1000


def test_after_it_the_rate_sinks() -> None:
    rates = Rates()
    now = arrive(rates, 0, 3000, 1)
    assert rates.per_ns(round(now + SECOND)) * SECOND < 30
