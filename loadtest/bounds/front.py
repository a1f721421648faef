"""Pareto fronts of (time the device is free, utility so far). Knows neither requests nor rungs."""

from dataclasses import dataclass

import numpy as np

from loadtest.bounds.bound import Floats


@dataclass(frozen=True)
class Front:
    """States [m] by rising `free` (ns). `low`: the utility of a real schedule; `high`: of the best it stands for."""

    free: Floats
    low: Floats
    high: Floats

    def usable(self, now: float, latest: float) -> "Front":
        """The states that matter to a launch at `now` or later, `latest` at most, begun no earlier than `now`."""
        first = max(int(np.searchsorted(self.free, now, side="right")) - 1, 0)
        last = int(np.searchsorted(self.free, latest, side="right")) if now <= latest else 0
        return Front(np.maximum(self.free[first:last], now), self.low[first:last], self.high[first:last])

    def after(self, latency: float, gain: float, deadline: float) -> "Front":
        """The states after a launch, as far as it ends by the deadline."""
        end = self.free + latency
        last = int(np.searchsorted(end, deadline, side="right"))
        return Front(end[:last], self.low[:last] + gain, self.high[:last] + gain)


def start_front(now: float) -> Front:
    """The one state in which nothing has happened."""
    return Front(np.array([now]), np.zeros(1), np.zeros(1))


def merged(parts: list[Front], coming: float, tolerance: float) -> Front:
    """The Pareto front of all states; times before `coming` (the next arrival) are worth no more than `coming`."""
    free = np.maximum(np.concatenate([part.free for part in parts]), coming)
    order = np.argsort(free)
    free = free[order]
    low = np.concatenate([part.low for part in parts])[order]
    high = np.concatenate([part.high for part in parts])[order]
    best = np.maximum.accumulate(high)
    kept = np.append(True, best[1:] > best[:-1] + 1e-9)
    free, low, high = free[kept], low[kept], high[kept]
    last = np.append(free[1:] > free[:-1], True)
    return _coarsened(Front(free[last], low[last], high[last]), tolerance)


def _coarsened(front: Front, step: float) -> Front:
    """One state for all whose utilities fall into the same step."""
    if step == 0.0:
        return front
    place = np.floor(front.high / step)
    fresh = place[1:] > place[:-1]
    first, last = np.append(True, fresh), np.append(fresh, True)
    return Front(front.free[first], front.low[first], front.high[last])
