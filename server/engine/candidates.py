"""Which launches are possible now, what each is worth, and which is best.

Reads the state; must not change it. A launch is worth what it is to its members: to each, what the rung gains at once
and all that is gained after it, less what the image would gain if it were passed over (see prices.py). So an image that
should have another rung still takes a seat where seats cost next to nothing, as on a GPU, and leaves it where each
costs as much as the last. Whoever cannot have the rung later, for his deadline, has nothing to lose by taking it now.
"""

from __future__ import annotations

from collections.abc import Callable

from server.engine.launches import (
    POOR,
    Candidate,
    Room,
    first_batches,
    first_rungs,
    launches,
    per_time,
)
from server.engine.prices import GRID, Worths
from server.engine.queues import ModelQueue, before
from server.engine.room import (
    all_in_time,
    blocked,
    longest_batch_ns,
    secure_start,
    traffic,
    typical_budget_ns,
)
from server.engine.seats import answered_seats, content_with_any, no_seats, seat_beginners
from server.engine.state import State

Explain = Callable[[list[Candidate], Candidate | None], None]
"""Told what was considered for a decision and what was chosen (which is among it, unless nothing saves everyone)."""


def best_candidate(state: State, now_ns: int, explain: Explain | None = None) -> Candidate | None:
    """The launch to make now; None if none is possible.

    What is worth its time at the present price goes first. If there is nothing, the device would be idle, and whatever
    gains anything may have it.
    """
    place = state.price_place
    coming = traffic(state, now_ns)
    room = Room(
        now_ns=now_ns,
        secure_ns=secure_start(state) - now_ns,
        longest_ns=longest_batch_ns(state),
        crowding=1.0 + coming.load,
        blocked=blocked(state, coming),
    )
    found: list[Candidate] = []
    for name, queue in state.models.items():
        if queue.usable:
            found += _priced(state, name, queue, room, place)
    price = float(GRID[place]) if found else 0.0
    if not found and not state.first_only:
        for name, queue in state.models.items():
            if queue.usable:
                found += _anything(state, name, queue, room)
    chosen = _best_of(state, found, price) or _save_the_earliest(state, now_ns)
    if explain is not None:
        explain(found, chosen)
    return chosen


def _best_of(state: State, found: list[Candidate], price: float) -> Candidate | None:
    """Most expected right answers per nanosecond; of those that are nearly as good the shortest, which blocks least.

    A launch that is worth less than its time has seats that nobody took. Then the longest of those that are not
    much worse goes: while it runs more company comes, and the launches after it are full.
    """
    if not found:
        return None
    best = max(map(per_time, found))
    if best < POOR * price:
        return max((c for c in found if per_time(c) >= best * POOR), key=_by_length)
    return min((c for c in found if per_time(c) >= best * state.config.nearly_as_good), key=_by_length)


def _by_length(candidate: Candidate) -> tuple[int, str, int]:
    return candidate.work_ns, candidate.model, candidate.stage


def _save_the_earliest(state: State, now_ns: int) -> Candidate | None:
    """No launch leaves everyone secure: the largest batch of first rungs for the earliest deadline of all.

    If that is a small one although many wait, and no order saves everyone, the most urgent ones are given up for a
    batch of good throughput (early drop, Shen et al., Nexus, SOSP 2019, section 6.3): small batches would lose more,
    one launch after the other.
    """
    waiting = [
        (q.unanswered[0].deadline_ns, name, q)
        for name, q in state.models.items()
        if q.usable and q.unanswered
    ]
    if not waiting:
        return None
    _, name, queue = min(waiting, key=lambda entry: entry[:2])
    saved = next(first_batches(state, name, queue, now_ns))
    stage, batch, latency = saved.stage, queue.secure_batch, queue.latency
    if latency.efficiency(stage, saved.count) >= state.config.efficient or all_in_time(state, now_ns):
        return saved
    given_up = before(queue.unanswered, now_ns + latency.ns(stage, batch) + state.config.guard_ns)
    if len(queue.unanswered) - given_up < batch:
        return saved
    gain = batch * queue.ladder.accuracy(1 << stage)
    work_ns, promised_ns = latency.work_ns(stage, batch), latency.ns(stage, batch)
    return Candidate(gain, work_ns, promised_ns, name, stage, beginners=batch, given_up=given_up, count=batch)


def _priced(state: State, name: str, queue: ModelQueue, room: Room, place: int) -> list[Candidate]:
    """Launches that are worth their time at this price to those in them."""
    if state.first_only and (state.pressed or not queue.unanswered):
        return first_rungs(state, name, queue, room) if queue.unanswered else []
    floor, price = queue.plans.floor, float(GRID[place])
    place = min(max(place, floor), queue.plans.ceiling)
    worths = queue.plans.at(place)
    if state.first_only:
        found = _first_answers(state, name, queue, room, worths, price) if place > floor else []
        return found or first_rungs(state, name, queue, room)
    seats = answered_seats(state, queue, room.now_ns, worths)
    if not queue.unanswered:
        return launches(state, name, queue, room, seats, price)
    # An early answer is a safeguard too: it is passed over only where its time is missing elsewhere.
    direct = place > floor and queue.plans.knows(queue.ladder.first)
    # Decisions take turns at this price and the next lower one. If only one of the two began with first rungs, it would
    # run them in small batches for images that the other would have had begin deeper at once, for as much.
    elsewhere = direct and queue.plans.at(max(place - 1, floor)).root_rung != queue.ladder.first
    patient = elsewhere or _may_wait(state, queue, worths, float(GRID[place]), room.now_ns)
    found = [] if patient else first_rungs(state, name, queue, room)
    if direct:
        seat_beginners(state, queue, worths, seats, patient=patient)
    return found + launches(state, name, queue, room, seats, price, max(map(per_time, found), default=0.0))


def _first_answers(
    state: State, name: str, queue: ModelQueue, room: Room, worths: Worths, price: float
) -> list[Candidate]:
    """The rung that new images should begin with, where that is not the first: it spares them the detour, which in a
    crowd costs the front ends as well."""
    rung = worths.root_rung
    count = content_with_any(queue)
    if rung == queue.ladder.first or not count or not queue.plans.knows(queue.ladder.first):
        return []
    worth = worths.root_worth[rung] - worths.root_value
    seats = no_seats(queue)
    seats[rung].append((worth, None, 0, count))
    return launches(state, name, queue, room, seats, price)


def _anything(state: State, name: str, queue: ModelQueue, room: Room) -> list[Candidate]:
    """First rungs, and every rung for everyone who would gain from it.

    A stream was promised every rung that fits. What one it lacks is worth to its client no calibration tells; an equal
    share of an answer keeps it from blocking tight jobs that surely come, but not for those of which some may.
    """
    seats = no_seats(queue)
    share = 1 / len(queue.ladder.names)
    for group in queue.groups.values():
        for stage, gain in group.gains:
            worth = max(gain, share) if group.place < 0 else gain
            seats[stage].append((worth, group, 0, len(group.jobs)))
    found = launches(state, name, queue, room, seats)
    if queue.unanswered:
        found += first_rungs(state, name, queue, room)
    return found


def _may_wait(state: State, queue: ModelQueue, worths: Worths, price: float, now_ns: int) -> bool:
    """Whether first answers had better wait for company.

    Nothing is lost for the first answers: whatever goes before them must leave them secure. But a waiting image loses
    time in which it could go on, and what it could gain with it. A launch has a fixed cost, so the best batch is that
    of the square-root law of stocks (Harris 1913): it grows with the fixed cost and the rate of arrivals, and falls
    with what waiting costs each. Whatever the price, first rungs should not take much of the device.
    """
    first, latency = queue.ladder.first, queue.latency
    count = min(len(queue.unanswered), queue.max_batch)
    if latency.efficiency(first, count) >= state.config.efficient:
        return False
    rate = queue.rates.per_ns(now_ns)
    if rate * latency.work_ns(first, count) > state.config.alone * count:
        return True
    if not queue.plans.knows(first):
        return False
    later = worths.root_worth[first] - queue.ladder.accuracy(1 << first)
    budget_ns = typical_budget_ns(state)
    fixed_ns = queue.first_work_ns - queue.first_share_ns
    return count * count * later < 2 * rate * budget_ns * fixed_ns * price
