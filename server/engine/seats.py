"""Who would sit in which launch, and what the seat is worth to each.

Reads the state; must not change it.
"""

from __future__ import annotations

from server.engine.prices import Worths
from server.engine.queues import Group, ModelQueue, before
from server.engine.state import State

Seats = list[tuple[float, Group | None, int, int]]
"""Who may join a launch: what it is worth to each of them, their group (None: unanswered), and which slice of it."""


def no_seats(queue: ModelQueue) -> list[Seats]:
    """By rung."""
    return [[] for _ in queue.ladder.names]


def answered_seats(state: State, queue: ModelQueue, now_ns: int, worths: Worths) -> list[Seats]:
    """By rung, the answered jobs to which it is worth more than to be passed over, or who cannot have it later."""
    seats = no_seats(queue)
    known = worths.known
    again_ns = _again_ns(queue, now_ns + state.config.guard_ns)
    last_ns = max(again_ns)
    for group in queue.groups.values():
        jobs, count = group.jobs, len(group.jobs)
        if group.place < 0:  # a stream follows no plan
            for stage, gain in group.gains:
                seats[stage].append((gain, group, 0, count))
            continue
        worth, beyond = known.get(group.place) or worths.of(group.place)
        if jobs[0].deadline_ns >= last_ns:
            for stage, each in beyond:
                seats[stage].append((each, group, 0, count))
            continue
        urgent = [0] * len(seats)
        for stage, _ in group.gains:
            urgent[stage] = many = before(jobs, again_ns[stage])
            if many:
                seats[stage].append((worth[stage], group, 0, many))
        for stage, each in beyond:
            if urgent[stage] < count:
                seats[stage].append((each, group, urgent[stage], count))
    return seats


def _again_ns(queue: ModelQueue, guarded_ns: int) -> list[int]:
    """By rung, after one launch of it now and another after that: who cannot have the second must be in the first."""
    ends_ns = [0] * len(queue.ladder.names)
    for stage in queue.ladder.usable:
        ends_ns[stage] = guarded_ns + 2 * queue.latency.ns(stage, 1)
    return ends_ns


def seat_beginners(
    state: State, queue: ModelQueue, worths: Worths, seats: list[Seats], *, patient: bool
) -> None:
    """Unanswered jobs go where it is worth most to them; their first answer as such is sure, and gains nothing.

    Where their plan begins deeper, the first rung is no rival of it: at a price at which both are worth the same, the
    shorter launch would take all of them, and then those who are to go deeper have made a detour.
    """
    first = queue.ladder.first
    passed = worths.root_value
    plain = content_with_any(queue)
    direct = worths.root_rung != first and plain == min(len(queue.unanswered), queue.max_batch)
    for stage in queue.ladder.usable:
        count = len(queue.unanswered) if stage == first else plain
        worth = worths.root_worth[stage] - passed
        if count and worth > 0 and (stage != first or (patient and not direct)):
            seats[stage].append((worth, None, 0, count))


def content_with_any(queue: ModelQueue) -> int:
    """How many of the earliest deadlines are content with any rung first."""
    plain = [waiting.plain for waiting in queue.unanswered[: queue.max_batch]]
    return len(plain) if all(plain) else plain.index(False)
