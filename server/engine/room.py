"""How much time there is: until the device is free, until it must turn to unanswered jobs, and for one
launch.

Pure arithmetic over the state; decides nothing.
"""

from __future__ import annotations

import math

import numpy as np

from server.engine.prices import GRID, price_of
from server.engine.state import LOW_BUDGET, RARE_ARRIVALS, State, arrival_rate

NEVER = 1 << 62
LONGEST_HORIZON_NS = 500_000_000


def free_ns(state: State, now_ns: int) -> int:
    """When the device is expected to be free."""
    return max(now_ns, state.busy_until_ns) if state.outstanding is not None else now_ns


def secure_start(state: State, model: str = "", skip: int = 0) -> int:
    """The latest time at which the device must turn to the unanswered jobs so that each is answered in time.

    `skip` leaves out the earliest jobs of `model`: those that the candidate under consideration would serve.
    """
    batches: list[tuple[int, int]] = []
    for name, queue in state.models.items():
        if queue.usable and queue.unanswered:
            batches += queue.secure_groups(skip if name == model else 0)
    if len(state.models) > 1:
        batches.sort()
    start = NEVER
    guard_ns = state.config.guard_ns
    for deadline_ns, ns in reversed(batches):
        start = min(deadline_ns - guard_ns, start) - ns
    return start


def backlog_ns(state: State) -> int:
    """Device time of the first rungs that are still owed."""
    return sum(ns for queue in state.models.values() if queue.usable for _, ns in queue.secure_groups())


def blocking_cap_ns(state: State, now_ns: int) -> float:
    """How long a launch may be so that tight jobs arriving right after its start still get their first rung.

    Those who arrive during L nanoseconds need L·load of the device themselves, so L + L·load + first ≤ low
    budget − guard. Where hardly anybody is expected to arrive meanwhile, nothing is at stake: a launch in which fewer
    than RARE_ARRIVALS are expected is never too long.
    """
    if not state.sorted_budgets:
        return math.inf
    rate = load = 0.0
    first_ns = 0
    for queue in state.models.values():
        if queue.usable:
            own_rate = arrival_rate(queue, now_ns)
            rate += own_rate
            load += own_rate * queue.first_work_ns
            first_ns = max(first_ns, queue.first_ns)
    low = state.sorted_budgets[int(len(state.sorted_budgets) * LOW_BUDGET)]
    cap_ns = (low - first_ns - state.config.guard_ns) / (1.0 + load)
    return max(cap_ns, RARE_ARRIVALS / rate) if rate > 0.0 else math.inf


def price_places(state: State, now_ns: int) -> tuple[int, int]:
    """The places in GRID of the price of device time now: for answered jobs, and for the first rung of new ones.

    It is the lowest at which all that is here and all that will probably come within a typical budget fits into that
    budget, each image following the plan that the price makes best for it. For the choice of a first rung, what has
    not come yet counts half: a whole queue of beginners can still be served by the cheapest rung when it has come.
    """
    if not state.sorted_budgets:
        return 0, 0
    typical_ns = state.sorted_budgets[len(state.sorted_budgets) // 2]
    horizon_ns = min(typical_ns * state.config.horizon, LONGEST_HORIZON_NS)
    here = np.zeros(len(GRID))
    coming = np.zeros(len(GRID))
    for queue in state.models.values():
        if queue.usable:
            queue.plans.refresh()
            here += queue.planned_ns()
            coming += queue.plans.root_cost * (arrival_rate(queue, now_ns) * horizon_ns)
    room_ns = horizon_ns * state.config.fill
    return price_of(here + coming, room_ns), price_of(here + state.config.foresight * coming, room_ns)


def first_answer_ns(state: State, model: str, now_ns: int) -> int:
    """Nanoseconds until a job of `model` that arrives now could have its first rung, wherever its deadline
    lies.

    A tight job overtakes the queue as long as the others stay secure; otherwise it must wait behind all of
    them.
    """
    queue = state.models[model]
    if not queue.usable:
        return NEVER
    until_free_ns = free_ns(state, now_ns) - now_ns
    own_ns = queue.first_ns + state.config.guard_ns
    if secure_start(state) >= now_ns + until_free_ns + queue.first_work_ns:
        return until_free_ns + own_ns
    return until_free_ns + backlog_ns(state) + own_ns
