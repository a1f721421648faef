"""Pareto fronts of (time the device is free, utility so far). Knows neither requests nor rungs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.bounds.bound import Floats

SIEVE_BINS = 512
"""Bins of the coarse front that sorts out most candidates before the rest are sorted by time."""


@dataclass(frozen=True)
class Front:
    """States [m] by rising `free` (ns) and utility. `low`: utility of a real schedule; `high`: of the best it
    stands for. The two are equal until states are merged.
    """

    free: Floats
    low: Floats
    high: Floats

    def merged(self, step: float, debt: float) -> "Front":
        """One state for all whose `high` falls into the same step, unless its `high - low` would exceed `debt`.

        It has the earliest time of them, that one's `low`, and the highest `high`.
        """
        if step == 0.0 or len(self.free) < 2:
            return self
        place = np.floor(self.high / step)
        first, last = _runs(place)
        too_far = self.high[last] - self.low[first] > debt
        if too_far.any():
            place = np.where(np.repeat(too_far, last - first + 1), -1.0 - np.arange(len(place)), place)
            first, last = _runs(place)
        return Front(self.free[first], self.low[first], self.high[last])


def _runs(place: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and last index of each run of equal values."""
    changes = np.flatnonzero(place[1:] != place[:-1])
    return np.append(0, changes + 1), np.append(changes, len(place) - 1)


def sieve(free: Floats, high: Floats, start: float, end: float) -> NDArray[np.intp]:
    """Indices of the candidates that no candidate of an earlier time bin equals or betters in utility.

    `free` [m] lies in start…end. A cheap filter: what it removes is dominated, what it leaves may be, too.
    """
    scale = (SIEVE_BINS - 1) / max(end - start, 1.0)
    place = ((free - start) * scale).astype(np.intp)
    best = np.full(SIEVE_BINS + 1, -np.inf)
    np.maximum.at(best, place + 1, high)
    before = np.maximum.accumulate(best)
    return np.flatnonzero(high > before[place])


def pareto(free: Floats, high: Floats) -> NDArray[np.intp]:
    """Indices of the states that none other equals or betters in both, by rising time."""
    order = np.lexsort((-high, free))
    ordered = high[order]
    best = np.maximum.accumulate(ordered)
    return np.asarray(order[np.append(True, ordered[1:] > best[:-1] + 1e-9)])
