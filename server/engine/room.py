"""How much time there is: until the device is free, until it must turn to unanswered jobs, and for one
launch.

Pure arithmetic over the state; decides nothing.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from server.engine.events import Job
from server.engine.prices import price_of
from server.engine.queues import ModelQueue
from server.engine.state import State, sorted_budgets

NEVER: Final = 1 << 62
MOST_BATCHES: Final = 8
SPARE: Final = 1.5  # a launch is taken to block so much longer: what it blocks has other delays too
LONGEST_HORIZON_NS: Final = 500_000_000


def free_ns(state: State, now_ns: int) -> int:
    """When the device is expected to be free."""
    return max(now_ns, state.busy_until_ns) if state.outstanding is not None else now_ns


def secure_start(state: State, model: str = "", skip: int = 0) -> int:
    """The latest time at which the device must turn to the unanswered jobs so that each is answered in time.

    `skip` leaves out the earliest jobs of `model`: those that the candidate under consideration would serve.
    """
    owed = [
        queue.owed(skip if name == model else 0) for name, queue in state.models.items() if queue.unanswered
    ]
    start = NEVER
    if len(owed) == 1:
        ((latest, each_ns, ns),) = owed
        for latest_ns in reversed(latest):
            start = min(start, latest_ns) - ns
            ns = each_ns
    else:
        for latest_ns, ns in sorted((pair for one in owed for pair in _batches(*one)), reverse=True):
            start = min(start, latest_ns) - ns
    return start if start == NEVER else start - state.config.guard_ns


def _batches(latest: list[int], each_ns: int, last_ns: int) -> Iterator[tuple[int, int]]:
    """(When it must be done, its work) of each batch."""
    for place, latest_ns in enumerate(latest, 1):
        yield latest_ns, each_ns if place < len(latest) else last_ns


def admits(state: State, queue: ModelQueue, job: Job, free_at_ns: int) -> bool:
    """Whether all unanswered jobs, of which `job` is one by now, can be answered if they begin then.

    The new one makes a schedule for the others at most so much later as its own first rung takes in a launch of its
    own. So what was found to be secure before settles most arrivals, and the queue is walked for few of them.
    """
    latest_ns = job.deadline_ns - queue.latency.tail_ns - state.config.guard_ns
    start_ns = min(state.secure_ns, latest_ns) - queue.first_work_ns
    if start_ns < free_at_ns:
        start_ns = secure_start(state)
    state.secure_ns = start_ns
    return start_ns >= free_at_ns or all_in_time(state, free_at_ns)


def all_in_time(state: State, start_ns: int) -> bool:
    """Whether first rungs from `start_ns` on, each in the largest batch that its first deadline bears, save everyone.

    `secure_start` puts jobs of late deadlines into the batch of an early one that fills it up; where that makes the
    batch too long, they can still come after it.
    """
    waiting = [queue for queue in state.models.values() if queue.unanswered]
    if len(waiting) != 1:
        return not waiting
    (queue,) = waiting
    latency, first, jobs = queue.latency, queue.ladder.first, queue.unanswered
    if len(jobs) > MOST_BATCHES * latency.max_batch:  # too many to look at for each arrival
        return False
    end_ns = start_ns + state.config.guard_ns + latency.tail_ns
    place = 0
    for _ in range(MOST_BATCHES):
        if place >= len(jobs):
            return True
        room_ns = jobs[place].deadline_ns - end_ns
        fitting = [size for size in latency.buckets if latency.work_ns(first, size) <= room_ns]
        if not fitting:
            return False
        count = min(fitting[-1], len(jobs) - place)
        end_ns += latency.work_ns(first, count)
        place += count
    return False


def backlog_ns(state: State) -> int:
    """Device time of the first rungs that are still owed."""
    owed = [queue.owed() for queue in state.models.values() if queue.unanswered]
    return sum(max(len(latest) - 1, 0) * each_ns + last_ns for latest, each_ns, last_ns in owed)


def gathers_until(state: State, now_ns: int) -> int:
    """Until when first rungs wait for company while every launch costs time that is wanted for something better.

    Until a batch is full enough, or half of a typical budget is left: the rest is for stalls. For ever where none are
    owed.
    """
    waiting = [queue for queue in state.models.values() if queue.unanswered]
    for queue in waiting:
        count = min(len(queue.unanswered), queue.max_batch)
        if queue.latency.efficiency(queue.ladder.first, count) >= state.config.efficient:
            return now_ns
    return secure_start(state) - typical_budget_ns(state) // 2 if waiting else NEVER


class Traffic(NamedTuple):
    """What arrives, as it is at the time of one decision.

    Attributes:
        rate: jobs per nanosecond.
        load: share of the device's time that their first rungs take, in good batches.
        first_ns: what may be promised for the slowest first rung of one image.
    """

    rate: float
    load: float
    first_ns: int


def traffic(state: State, now_ns: int) -> Traffic:
    """Of all models together."""
    rate = load = 0.0
    first_ns = 0
    for queue in state.models.values():
        if queue.usable:
            own_rate = queue.rates.per_ns(now_ns)
            rate += own_rate
            load += own_rate * queue.first_share_ns
            first_ns = max(first_ns, queue.first_ns)
    return Traffic(rate, load, first_ns)


def typical_budget_ns(state: State) -> int:
    """The median of the recent ones; 0 before any."""
    budgets = sorted_budgets(state)
    return budgets[len(budgets) // 2] if budgets else 0


def longest_batch_ns(state: State) -> float:
    """How long a launch of several images may be: those who arrive meanwhile must have time for one as long after it,
    so half of a typical budget."""
    typical_ns = typical_budget_ns(state)
    return 0.5 * (typical_ns - state.config.guard_ns) if typical_ns else math.inf


def blocked(state: State, coming: Traffic) -> Callable[[int], float]:
    """How many of those who will arrive during a launch are expected to miss their deadlines by it, by its length.

    Nothing can interrupt a launch. Whoever arrives when it still has r nanoseconds to go gets his first rung after r,
    and after the first rungs of the others who came meanwhile. Budgets are drawn from the recent ones.
    """
    budgets = sorted_budgets(state)
    each = coming.rate / max(len(budgets), 1)
    longer = SPARE + coming.load
    least_ns = coming.first_ns + state.config.guard_ns
    tightest_ns = budgets[0] if budgets else NEVER

    def expected(length_ns: int) -> float:
        until_ns = length_ns * longer + least_ns
        if tightest_ns >= until_ns:
            return 0.0
        # Whole nanoseconds: an int is compared with an int in a fraction of the time.
        some = bisect_left(budgets, math.ceil(until_ns))
        all_of_it = bisect_left(budgets, math.ceil(until_ns - length_ns))
        partly = (some - all_of_it) * until_ns - sum(budgets[all_of_it:some])
        return (all_of_it * length_ns + partly) * each

    return expected


def price_place(state: State, now_ns: int) -> int:
    """The place in GRID of the price of device time now.

    It is the lowest at which all that is here and all that will probably come within a typical budget fits into that
    budget, each image following the plan that the price makes best for it; or, now and then, the one below, as often
    as images may follow its plans.
    """
    typical_ns = typical_budget_ns(state)
    if not typical_ns:
        return 0
    horizon_ns = min(typical_ns * state.config.horizon, LONGEST_HORIZON_NS)
    planned = []
    room_ns = horizon_ns * state.config.fill
    for queue in state.models.values():
        if queue.usable:
            images, fixed_ns = queue.planned(queue.rates.per_ns(now_ns) * horizon_ns)
            planned += images
            room_ns -= fixed_ns
    place, share = price_of(planned, room_ns, state.price_place)
    state.below += share
    if state.below < 1.0:
        return place
    state.below -= 1.0
    return place - 1


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
