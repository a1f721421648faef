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
PROBES = 16
ONE_SIDED = 8  # so many that all pass or all fail, and there is no rate to be found
NARROW = 1.03


@dataclass(frozen=True)
class Found:
    """The highest passing rate (0 where none passed), the lowest failing one (inf where none failed),
    all probes, and in how many of them the sender stayed late.
    """

    rate: float
    failing: float
    probes: tuple[tuple[float, float], ...] = field(default=())
    late: int = 0

    @property
    def sound(self) -> bool:
        """Multiples of it can be measured: it is bracketed, and the sender kept time."""
        return self.bracketed and not self.late

    @property
    def bracketed(self) -> bool:
        """A rate that passes and one that fails are both known."""
        return self.rate > 0 and math.isfinite(self.failing)

    def __str__(self) -> str:
        above = "nothing failed" if math.isinf(self.failing) else f"{self.failing:.0f}/s failed"
        late = f", the sender late in {self.late}" if self.late else ""
        return f"{self.rate:.0f}/s ({above}, {len(self.probes)} probes{late})"


def highest_rate(
    attainment: Callable[[float], float], share: float, guess: float, probes: int = PROBES
) -> Found:
    """Bisects, in the logarithm of the rate, for the highest rate whose attainment is at least `share`.

    Starts at `guess`, doubles or halves until it has a rate that passes and one that fails, bisects until they are
    within NARROW of each other, and then asks the one that failed once more. For on a shared machine a rate passes only
    because the server is fast enough, but fails also because somebody else wanted the core for a second; believed at
    once, an early failure of that kind would keep all later probes below it. If it passes now the search goes on above
    it, up to the next rate that failed. At most `probes` calls; with a guess within a factor of two and nothing to take
    back, nine. After ONE_SIDED that all passed, or all failed, it gives up.
    """
    if not (guess > 0 and math.isfinite(guess)):
        raise ValueError(f"the first rate must be positive and finite, not {guess}")
    passing, seen = 0.0, []
    failures: dict[float, int] = {}  # how often, by rate; all above `passing`
    rate = guess
    while True:
        share_in_time = attainment(rate)
        seen.append((rate, share_in_time))
        if share_in_time >= share:
            passing = rate
            failures = {failed: count for failed, count in failures.items() if failed > rate}
        else:
            failures[rate] = failures.get(rate, 0) + 1
        failing = min(failures, default=math.inf)
        narrow = failing <= NARROW * passing
        passes = sum(each >= share for _, each in seen)
        one_sided = len(seen) >= ONE_SIDED and passes in {0, len(seen)}
        if len(seen) >= probes or one_sided or (narrow and failures[failing] > 1):
            return Found(passing, failing, tuple(seen))
        rate = failing if narrow else _next_rate(passing, failing)


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
