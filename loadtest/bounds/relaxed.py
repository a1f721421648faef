"""U1' and U2: bounds on recorded arrivals with any mix of budgets, by dividing the device's time freely.

The relaxation: a launch of rung k with b members lasts T_k(b) >= b kappa_k and lies between the arrival and the
deadline of each member. Give every member its b-th part. Then each request i received some device time
w_i within [arrival, deadline], at any moment at most one request is served, and the request's expected accuracy is
at most g(w_i), g being the concave hull of (cost, accuracy) of the options. Maximising sum g(w_i) over all such
divisions of time, interrupted and resumed at will, is a linear programme, and bounds every schedule.

It is solved exactly and without bins. The vectors w that the windows allow form a polymatroid (a flow from
requests to moments), g is concave and piecewise linear, so the greedy is optimal: fill the segments of all hulls
in order of slope. By the polymatroid's exchange property the total work in all segments of slope >= s is
simply the most work that can be done when request i asks for the work at which its hull's slope falls
below s. And the most work is what earliest-deadline-first does, throwing away what expires.
"""

import heapq
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loadtest.bounds.bound import NOTHING_OFFERED, Bound, Floats, checked_windows
from loadtest.bounds.options import Options, direct_options


def u1_prime(
    accuracies: ArrayLike, latency_ns: ArrayLike, arrivals_ns: ArrayLike, deadlines_ns: ArrayLike
) -> Bound:
    """U1': a bound for mixed budgets on every policy whose choices do not look at the images.

    `accuracies` [K] mean accuracy a rung (see `pooled_accuracies` where finished rungs are pooled); `latency_ns` [K, B]
    for batches of 1…B; `arrivals_ns`, `deadlines_ns` [n] absolute, in any order. Exact for the relaxation in this
    module's docstring; takes O(K n log n), n = 10^5 in seconds. Raises ValueError for shapes that do not match.
    """
    return relaxed(direct_options(accuracies, latency_ns), arrivals_ns, deadlines_ns)


def u2(options: Options, arrivals_ns: ArrayLike, deadlines_ns: ArrayLike) -> Bound:
    """U2: the same bound when the options are cascades (`cascade_options`), charged or not (`Options.charged`).

    Bounds every policy that treats an image by its confidences through thresholds of the grid, however it mixes
    thresholds over requests and time. As `cascade_options` includes the single rungs it is never below `u1_prime`.
    """
    return relaxed(options, arrivals_ns, deadlines_ns)


def relaxed(options: Options, arrivals_ns: ArrayLike, deadlines_ns: ArrayLike) -> Bound:
    """The best mean of g(w_i) over all divisions of one device's time, for any options.

    An option is open only to requests whose budget is at least its `shortest_ns`.
    """
    arrivals, deadlines = checked_windows(arrivals_ns, deadlines_ns)
    if len(arrivals) == 0:
        return NOTHING_OFFERED
    best = _best(options, arrivals, deadlines)
    return Bound(best, _attainment(options, arrivals, deadlines), best)


def _best(options: Options, arrivals: Floats, deadlines: Floats) -> float:
    total, done = 0.0, 0.0
    ladders = _hulls_by_budget(options, deadlines - arrivals)
    for slope, wanted in _wanted_by_slope(ladders, len(arrivals)):
        work = most_work(arrivals, deadlines, wanted)
        total += slope * (work - done)
        done = work
    return total / len(arrivals)


def _hulls_by_budget(options: Options, budgets: Floats) -> list[tuple[Options, NDArray[np.intp]]]:
    """Pairs of a hull and the places of the requests whose budgets leave just these options."""
    steps = np.unique(options.shortest_ns)
    reach = np.searchsorted(steps, budgets, side="right")
    return [
        (options.within(steps[level - 1]).hull(), np.flatnonzero(reach == level))
        for level in np.unique(reach)
        if level > 0
    ]


def _wanted_by_slope(
    ladders: list[tuple[Options, NDArray[np.intp]]], requests: int
) -> Iterator[tuple[float, Floats]]:
    """Each slope of any hull, falling, with the work every request asks for at that slope or steeper."""
    slopes = [_slopes(hull) for hull, _ in ladders]
    wanted = np.zeros(requests)
    for slope in sorted({float(value) for steps in slopes for value in steps}, reverse=True):
        for (hull, members), steps in zip(ladders, slopes, strict=True):
            reached = int((steps >= slope).sum())
            if reached:
                wanted[members] = hull.cost_ns[reached - 1]
        yield slope, wanted


def _slopes(hull: Options) -> Floats:
    return np.diff(hull.accuracy, prepend=0.0) / np.diff(hull.cost_ns, prepend=0.0)


def most_work(arrivals: Floats, deadlines: Floats, wanted: Floats) -> float:
    """The most device time that can go to requests, request i taking at most `wanted[i]` in arrivals[i]…deadlines[i].

    `arrivals` [n] must be sorted. Work may be cut short anywhere: the earliest deadline first is then optimal.
    """
    waiting: list[tuple[float, float]] = []
    done = 0.0
    following = np.append(arrivals[1:], np.inf)
    for arrival, until, deadline, work in zip(
        arrivals.tolist(), following.tolist(), deadlines.tolist(), wanted.tolist(), strict=True
    ):
        now = arrival
        heapq.heappush(waiting, (deadline, work))
        while waiting and now < until:
            due, left = heapq.heappop(waiting)
            spent = min(left, due - now, until - now)
            if spent <= 0:
                continue
            now += spent
            done += spent
            if spent < left and now < due:
                heapq.heappush(waiting, (due, left - spent))
    return done


def _attainment(options: Options, arrivals: Floats, deadlines: Floats) -> float:
    """The largest share answered on time: the same programme when every answer is worth one."""
    answered = replace(options, accuracy=np.ones(len(options)))
    return _best(answered, arrivals, deadlines)
