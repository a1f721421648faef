"""U1: the clairvoyant optimum over schedules themselves, by dynamic programming. Knows rungs, batches and arrivals.

Why it bounds: with equal budgets requests have one order, by arrival and by deadline alike. If two launches have
members out of that order, exchange them (the earlier launch takes the earlier requests): both still start after the
arrival of their last member and end by the deadline of their first, and the utility, a mean accuracy for every
member, is the same. If a launch leaves out a request between its members and that request is dropped, let it take the
place of the launch's first member. So some optimum drops requests and runs the others in order, in launches of
neighbours. The state after request i is the set of (time the device is free, utility) that no other state betters in
both; the moves are: drop request i + 1, or run rung k on the next b requests, started at the later of the free time and
the last one's arrival, if it ends by the first one's deadline. A request is served by one launch: a policy that runs
several rungs for it is covered when accuracies come from `pooled_accuracies`.
"""

import numpy as np
from numpy.typing import ArrayLike

from loadtest.bounds.bound import (
    NOTHING_OFFERED,
    Bound,
    Floats,
    checked_accuracies,
    checked_latencies,
    checked_windows,
)
from loadtest.bounds.search import Problem, best_front


def u1(
    accuracies: ArrayLike,
    latency_ns: ArrayLike,
    arrivals_ns: ArrayLike,
    budget_ns: float,
    tolerance: float = 0.0005,
) -> Bound:
    """U1: the best effective accuracy of any schedule on one device that knows all arrivals but not the images.

    `accuracies` [K] mean accuracy a rung; `latency_ns` [K, B] for batches of 1…B; `arrivals_ns` [n]; one
    `budget_ns` for all. With `tolerance` = 0 nothing is pruned but dominated states and the result is exact. Else
    states of nearly equal utility are merged into one that has the earliest time and the highest utility of them:
    the result stays an upper bound, `Bound.reached` is what a schedule really attains, and the two differ by at most
    `tolerance` (usually much less). Bounds every policy whose choices do not look at the images.
    Raises ValueError for shapes that do not match, a budget that is not positive or a negative tolerance.
    """
    latencies = checked_latencies(latency_ns)
    values = checked_accuracies(accuracies, len(latencies))
    arrivals = checked_windows(arrivals_ns, arrivals_ns)[0]
    if not (budget_ns > 0 and tolerance >= 0):
        raise ValueError(f"budget {budget_ns} must be positive, tolerance {tolerance} not negative")
    if len(arrivals) == 0:
        return NOTHING_OFFERED
    best = best_front(_problem(values, latencies, arrivals, budget_ns), tolerance)
    answered = best_front(_problem(np.ones(len(values)), latencies, arrivals, budget_ns), 0.0)
    high, low, most = best.high.max(), best.low.max(), answered.high.max()
    return Bound(float(high / len(arrivals)), float(most / len(arrivals)), float(low / len(arrivals)))


def _problem(values: Floats, latencies: Floats, arrivals: Floats, budget_ns: float) -> Problem:
    values, latencies = _undominated(values, latencies)
    gains = values[:, None] * np.arange(1, latencies.shape[1] + 1)
    return Problem(gains, latencies, arrivals, arrivals + budget_ns)


def _undominated(values: Floats, latencies: Floats) -> tuple[Floats, Floats]:
    """The rungs that no other rung equals or betters in accuracy and in the latency of every batch."""
    kept: list[int] = []
    for rung in np.argsort(-values, kind="stable"):
        if not any((latencies[other] <= latencies[rung]).all() for other in kept):
            kept.append(int(rung))
    return values[kept], latencies[kept]
