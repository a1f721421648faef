"""The dynamic programme behind U1: from front to front, one request at a time. Knows rungs, batches and arrivals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest.bounds.bound import Floats
from loadtest.bounds.front import Front, pareto, sieve

STEP_PER_TOLERANCE = 20.0
"""Utilities closer than this many tolerances are merged: small against a launch's gain, so that debts grow slowly."""


@dataclass(frozen=True)
class Problem:
    """`gains`, `latencies` [K, B] of a launch of rung k on 1…B images; `arrivals`, `deadlines` [n], both rising."""

    gains: Floats
    latencies: Floats
    arrivals: Floats
    deadlines: Floats


@dataclass(frozen=True)
class _Bases:
    """States [m] that a launch may still start from, and how many requests each has decided on (`served`)."""

    states: Front
    served: NDArray[np.intp]

    def joined(self, front: Front, served: int) -> "_Bases":
        """With a new front behind them."""
        pairs = zip(_columns(self.states), _columns(front), strict=True)
        states = Front(*(np.concatenate(pair) for pair in pairs))
        return _Bases(states, np.append(self.served, np.full(len(front.free), served)))

    def pruned(self, problem: Problem, now: float, count: int) -> "_Bases":
        """Without those from which no launch with request `count` (arrived `now`) as last member is on time,
        and those that a later state of the same front betters, both being free by `now`.
        """
        batch = count - self.served
        batch[batch > problem.latencies.shape[1]] = 0
        end = np.maximum(self.states.free, now) + problem.latencies.min(axis=0)[batch - 1]
        useful = (batch > 0) & (end <= problem.deadlines[self.served])
        useful[:-1] &= (self.states.free[1:] > now) | (self.served[1:] != self.served[:-1])
        return _Bases(_taken(self.states, useful), self.served[useful])


def best_front(problem: Problem, tolerance: float) -> Front:
    """The front after the last request. `low` and `high` differ by at most `tolerance` a request."""
    front = Front(problem.arrivals[:1], np.zeros(1), np.zeros(1))
    bases = _Bases(Front(np.empty(0), np.empty(0), np.empty(0)), np.empty(0, np.intp))
    coming = np.append(problem.arrivals[1:], problem.arrivals[-1])
    for index, now in enumerate(problem.arrivals):
        bases = bases.joined(front, index).pruned(problem, now, index + 1)
        front = _next_front(problem, front, bases, index + 1, coming[index])
        front = front.merged(tolerance * STEP_PER_TOLERANCE, tolerance * (index + 1))
    return front


def _next_front(problem: Problem, front: Front, bases: _Bases, count: int, coming: float) -> Front:
    """The states after request `count`: it is dropped, or it is the last member of a launch.

    A time before `coming`, when the next request arrives, is worth no more than `coming`.
    """
    columns = count - bases.served - 1
    begin = np.maximum(bases.states.free, problem.arrivals[count - 1])
    end = begin + problem.latencies[:, columns]
    rung, base = np.nonzero(end <= problem.deadlines[bases.served])
    gain = problem.gains[rung, columns[base]]
    free = np.maximum(np.append(front.free, end[rung, base]), coming)
    high = np.append(front.high, bases.states.high[base] + gain)
    low = np.append(front.low, bases.states.low[base] + gain)
    left = sieve(free, high, coming, float(free.max()))
    best = left[pareto(free[left], high[left])]
    return Front(free[best], low[best], high[best])


def _columns(front: Front) -> tuple[Floats, Floats, Floats]:
    return front.free, front.low, front.high


def _taken(front: Front, chosen: NDArray[np.bool_]) -> Front:
    return Front(*(column[chosen] for column in _columns(front)))
