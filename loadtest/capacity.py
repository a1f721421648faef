"""Capacity and front-end ceiling: the highest Poisson rate at which enough requests are in time at 50 ms.

The search is pure and knows only a function from a rate to an attainment; what is probed is decided
elsewhere.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

CAPACITY_SHARE = 0.99
CEILING_SHARE = 0.995
DEADLINE_MS = 50.0
MAX_DRIFT = 0.10
PROBES = 8


@dataclass(frozen=True)
class Found:
    """The highest passing rate (0 where none passed), the lowest failing one (inf where none failed),
    all probes.
    """

    rate: float
    failing: float
    probes: tuple[tuple[float, float], ...] = field(default=())

    @property
    def bracketed(self) -> bool:
        """A rate that passes and one that fails are both known."""
        return self.rate > 0 and math.isfinite(self.failing)

    def __str__(self) -> str:
        above = "nothing failed" if math.isinf(self.failing) else f"{self.failing:.0f}/s failed"
        return f"{self.rate:.0f}/s ({above}, {len(self.probes)} probes)"


def highest_rate(
    attainment: Callable[[float], float], share: float, guess: float, probes: int = PROBES
) -> Found:
    """Bisects, in the logarithm of the rate, for the highest rate whose attainment is at least `share`.

    Starts at `guess`, doubles or halves until it has a rate that passes and one that fails, then bisects;
    `probes` calls in all. With 8 of them and a guess within a factor of two the answer is within about 2 %.
    """
    if not (guess > 0 and math.isfinite(guess)):
        raise ValueError(f"the first rate must be positive and finite, not {guess}")
    passing, failing, seen = 0.0, math.inf, []
    rate = guess
    for _ in range(probes):
        share_in_time = attainment(rate)
        seen.append((rate, share_in_time))
        if share_in_time >= share:
            passing = rate
        else:
            failing = rate
        rate = _next_rate(passing, failing)
    return Found(passing, failing, tuple(seen))


def _next_rate(passing: float, failing: float) -> float:
    if not passing:
        return failing / 2
    if math.isinf(failing):
        return passing * 2
    return math.sqrt(passing * failing)


def drift(before: float, after: float) -> float:
    """Relative change from one measurement to the same one later, as a fraction of the first."""
    return abs(after - before) / before if before else math.inf


def drifted(before: float, after: float) -> bool:
    """More than MAX_DRIFT apart: what was measured in between is void."""
    return drift(before, after) > MAX_DRIFT
