"""Which launches are possible now, what each is worth, and which is best.

Reads the state; must not change it. A launch is worth what it is to its members: to each, what the rung gains at once
and all that is gained after it, less what the image would gain if it were passed over (see prices.py). So an image that
should have another rung still takes a seat where seats cost next to nothing, as on a GPU, and leaves it where each
costs as much as the last. Whoever cannot have the rung later, for his deadline, has nothing to lose by taking it now.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter

from server.engine.prices import GRID, Worths
from server.engine.queues import Group, ModelQueue
from server.engine.room import (
    NEVER,
    all_in_time,
    blocked,
    longest_batch_ns,
    secure_start,
    traffic,
    typical_budget_ns,
)
from server.engine.state import State


@dataclass(slots=True)
class Candidate:
    """A launch that could be made: expected right answers, who would be in it, and its time.

    In it are the `beginners` earliest unanswered jobs after `given_up` still earlier ones, and `members`, slices of
    groups; `count` are all of them.
    """

    gain: float
    work_ns: int
    promised_ns: int
    model: str
    stage: int
    members: tuple[tuple[Group, int, int], ...] = ()
    beginners: int = 0
    count: int = 0
    given_up: int = 0


POOR = 0.9
"""A launch that is worth less than this share of the price of its time is a poor one."""

Seats = list[tuple[float, Group | None, int, int]]
"""Who may join a launch: what it is worth to each of them, their group (None: unanswered), and which slice of it."""

_EACH = itemgetter(0)

Explain = Callable[[list[Candidate], Candidate | None], None]
"""Told what was considered for a decision and what was chosen (which is among it, unless nothing saves everyone)."""


@dataclass(frozen=True, slots=True)
class _Room:
    """What limits the launches of one decision: see server.engine.room.

    A launch is by `crowding` too long for what waits: who comes meanwhile with a tighter deadline goes before it.
    `starts` keeps what secure_start has said.
    """

    now_ns: int
    secure_ns: int
    longest_ns: float
    crowding: float
    blocked: Callable[[int], float]
    starts: dict[tuple[str, int], int]


def best_candidate(state: State, now_ns: int, explain: Explain | None = None) -> Candidate | None:
    """The launch to make now; None if none is possible.

    What is worth its time at the present price goes first. If there is nothing, the device would be idle, and whatever
    gains anything may have it.
    """
    place = state.price_place
    coming = traffic(state, now_ns)
    room = _Room(
        now_ns=now_ns,
        secure_ns=secure_start(state) - now_ns,
        longest_ns=longest_batch_ns(state),
        crowding=1.0 + coming.load,
        blocked=blocked(state, coming),
        starts={},
    )
    found: list[Candidate] = []
    for name, queue in state.models.items():
        if queue.usable:
            found += _priced(state, name, queue, room, place)
    price = float(GRID[place]) if found else 0.0
    if not found:
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
    best = max(map(_per_time, found))
    if best < POOR * price:
        return max((c for c in found if _per_time(c) >= best * POOR), key=_by_length)
    return min((c for c in found if _per_time(c) >= best * state.config.nearly_as_good), key=_by_length)


def _by_length(candidate: Candidate) -> tuple[int, str, int]:
    return candidate.work_ns, candidate.model, candidate.stage


def _save_the_earliest(state: State, now_ns: int) -> Candidate | None:
    """No launch leaves everyone secure: the largest batch of first rungs for the earliest deadline of all.

    If that is a small one although many wait, and no order saves everyone, the most urgent ones are given up for a
    batch of good throughput (early drop, Shen et al., Nexus, SOSP 2019, section 6.3): small batches would lose more,
    one launch after the other.
    """
    waiting = [(q.unanswered[0][0], name, q) for name, q in state.models.items() if q.usable and q.unanswered]
    if not waiting:
        return None
    _, name, queue = min(waiting, key=lambda entry: entry[:2])
    saved = next(_first_batches(state, name, queue, now_ns))
    stage, batch, latency = saved.stage, queue.secure_batch, queue.latency
    if latency.efficiency(stage, saved.count) >= state.config.efficient or all_in_time(state, now_ns):
        return saved
    given_up = bisect_left(queue.unanswered, (now_ns + latency.ns(stage, batch) + state.config.guard_ns,))
    if len(queue.unanswered) - given_up < batch:
        return saved
    gain = batch * queue.ladder.accuracy(1 << stage)
    work_ns, promised_ns = latency.work_ns(stage, batch), latency.ns(stage, batch)
    return Candidate(gain, work_ns, promised_ns, name, stage, beginners=batch, given_up=given_up, count=batch)


# Who would sit in which launch


def _priced(state: State, name: str, queue: ModelQueue, room: _Room, place: int) -> list[Candidate]:
    """Launches that are worth their time at this price to those in them."""
    floor, price = queue.plans.floor, float(GRID[place])
    place = min(max(place, floor), queue.plans.ceiling)
    worths = queue.plans.at(place)
    seats = _answered_seats(state, queue, room.now_ns, worths)
    if not queue.unanswered:
        return _launches(state, name, queue, room, seats, price)
    if state.first_only:
        return _first_rungs(state, name, queue, room)
    # An early answer is a safeguard too: it is passed over only where its time is missing elsewhere.
    direct = place > floor and queue.plans.knows(queue.ladder.first)
    patient = _may_wait(state, queue, worths, float(GRID[place]), direct, room.now_ns)
    found = [] if patient else _first_rungs(state, name, queue, room)
    if direct:
        _seat_beginners(state, queue, worths, seats, patient=patient)
    return found + _launches(state, name, queue, room, seats, price, max(map(_per_time, found), default=0.0))


def _answered_seats(state: State, queue: ModelQueue, now_ns: int, worths: Worths) -> dict[int, Seats]:
    seats: dict[int, Seats] = {stage: [] for stage in queue.ladder.usable}
    known = worths.known
    guarded_ns = now_ns + state.config.guard_ns
    # A launch of this rung now and another after it: who cannot have that must be in this one.
    again_ns = {stage: guarded_ns + 2 * queue.latency.ns(stage, 1) for stage in seats}
    last_ns = max(again_ns.values())
    for group in queue.groups.values():
        entries, count = group.entries, len(group.entries)
        if group.place < 0:  # a stream follows no plan
            for stage, gain in group.gains:
                seats[stage].append((gain, group, 0, count))
            continue
        worth, beyond = known.get(group.place) or worths.of(group.place)
        if entries[0][0] >= last_ns:
            for stage, each in beyond:
                seats[stage].append((each, group, 0, count))
            continue
        urgent = {}
        for stage, _ in group.gains:
            urgent[stage] = many = bisect_left(entries, (again_ns[stage],))
            if many:
                seats[stage].append((worth[stage], group, 0, many))
        for stage, each in beyond:
            if urgent[stage] < count:
                seats[stage].append((each, group, urgent[stage], count))
    return seats


def _seat_beginners(
    state: State, queue: ModelQueue, worths: Worths, seats: dict[int, Seats], *, patient: bool
) -> None:
    """Unanswered jobs go where it is worth most to them; their first answer as such is sure, and gains nothing."""
    first = queue.ladder.first
    passed = worths.root_value
    plain = _plain(queue)
    for stage in queue.ladder.usable:
        count = len(queue.unanswered) if stage == first else plain
        worth = worths.root_worth[stage] - passed
        if count and worth > 0 and (patient or stage != first):
            seats[stage].append((worth, None, 0, count))


def _plain(queue: ModelQueue) -> int:
    """How many of the earliest deadlines are content with any rung first."""
    plain = [entry[2].plain for entry in queue.unanswered[: queue.max_batch]]
    return len(plain) if all(plain) else plain.index(False)


def _anything(state: State, name: str, queue: ModelQueue, room: _Room) -> list[Candidate]:
    """First rungs, and every rung for everyone who would gain from it."""
    seats: dict[int, Seats] = {stage: [] for stage in queue.ladder.usable}
    for group in queue.groups.values():
        for stage, gain in group.gains:
            seats[stage].append((gain, group, 0, len(group.entries)))
    found = _launches(state, name, queue, room, seats)
    if queue.unanswered:
        found += _first_rungs(state, name, queue, room)
    return found


def _may_wait(
    state: State, queue: ModelQueue, worths: Worths, price: float, direct: bool, now_ns: int
) -> bool:
    """Whether first answers had better wait for company.

    Nothing is lost for the first answers: whatever goes before them must leave them secure. But a waiting image loses
    time in which it could go on, and what it could gain with it. A launch has a fixed cost, so the best batch is that
    of the square-root law of stocks (Harris 1913): it grows with the fixed cost and the rate of arrivals, and falls
    with what waiting costs each. Whatever the price, first rungs should not take much of the device.
    """
    first, latency = queue.ladder.first, queue.latency
    if direct and worths.root_rung != first:
        return True
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


# Launches


def _first_rungs(state: State, name: str, queue: ModelQueue, room: _Room) -> list[Candidate]:
    """The first rung for the earliest deadlines, in the largest batch that leaves the others secure and those that
    are nearly as good; none if no batch does."""
    found: list[Candidate] = []
    for candidate in _first_batches(state, name, queue, room.now_ns):
        if found and _per_time(candidate) < _per_time(found[0]) * state.config.nearly_as_good:
            break
        if _secure(state, candidate, room):
            found.append(candidate)
    return found


def _first_batches(state: State, name: str, queue: ModelQueue, now_ns: int) -> Iterator[Candidate]:
    """The first rung for the earliest deadlines, in every batch that makes them, the largest first.

    Never none, if anyone waits: the earliest job can make it alone, for the hopeless ones have just been taken out.
    """
    stage = queue.ladder.first
    worth = queue.ladder.accuracy(1 << stage)
    latest_ns = queue.unanswered[0][0] - state.config.guard_ns - now_ns
    for count in _batches(queue, len(queue.unanswered)):
        ns = queue.latency.ns(stage, count)
        if ns <= latest_ns:
            work_ns = queue.latency.work_ns(stage, count)
            yield Candidate(count * worth, work_ns, ns, name, stage, beginners=count, count=count)


def _launches(
    state: State,
    name: str,
    queue: ModelQueue,
    room: _Room,
    seats: dict[int, Seats],
    price: float = 0.0,
    best: float = 0.0,
) -> list[Candidate]:
    """Launches for those who wait for a seat.

    Without those that `_best_of` would not look at, at this price, beside one that is worth `best` a nanosecond.
    """
    found: list[Candidate] = []
    promising = [(*_promises(queue, stage, wanted), stage) for stage, wanted in seats.items() if wanted]
    promising.sort(reverse=True)
    for promise, available, stage in promising:
        wanted_rate = best * (POOR if best < POOR * price else state.config.nearly_as_good)
        if promise < wanted_rate:
            break
        joined = seats[stage][-1][1] is None  # by unanswered jobs: they come last
        latest_ns = NEVER if joined else room.secure_ns / room.crowding
        if queue.latency.work_ns(stage, 1) > latest_ns:
            continue
        of_stage = _launches_of(
            state, name, queue, room, stage, seats[stage], available, latest_ns, wanted_rate
        )
        best = max([best, *map(_per_time, of_stage)])
        found += of_stage
    return found


def _promises(queue: ModelQueue, stage: int, seats: Seats) -> tuple[float, int]:
    """At most so much a nanosecond, with the neediest in the largest batch there can be; and how many may join."""
    available = sum([seat[3] - seat[2] for seat in seats])
    count = min(available, queue.max_batch)
    return max(map(_EACH, seats)) * count / queue.latency.work_ns(stage, count), available


def _launches_of(
    state: State,
    name: str,
    queue: ModelQueue,
    room: _Room,
    stage: int,
    seats: Seats,
    available: int,
    latest_ns: float,
    wanted_rate: float,
) -> list[Candidate]:
    """From the largest batch down, as long as that is worth more a nanosecond, or nearly as much; none that is longer
    than `latest_ns` or worth less than `wanted_rate` a nanosecond."""
    latency, nearly = queue.latency, state.config.nearly_as_good
    seats.sort(key=_EACH, reverse=True)
    found: list[Candidate] = []
    most = seats[0][0]
    accuracy = queue.ladder.accuracy(1 << queue.ladder.first)
    tail_ns, longest_ns = latency.tail_ns, room.longest_ns
    least_lost = accuracy * room.blocked(latency.work_ns(stage, 1))
    for count in _batches(queue, available):
        work_ns = latency.work_ns(stage, count)
        ns = work_ns + tail_ns
        if work_ns > latest_ns or (ns > longest_ns and count > 1):
            continue
        if count * most <= max(wanted_rate * work_ns, least_lost):  # smaller ones are worth less still
            break
        lost = accuracy * room.blocked(work_ns)
        if lost >= count * most:
            continue
        gain, members, beginners, taken = _neediest(
            queue, seats, count, room.now_ns + ns + state.config.guard_ns
        )
        if taken < count:
            work_ns = latency.work_ns(stage, taken)
            ns = work_ns + tail_ns
            lost = accuracy * room.blocked(work_ns)
        gain -= lost
        if gain <= 0 or gain < wanted_rate * work_ns:
            if found:
                break
            continue
        candidate = Candidate(gain, work_ns, ns, name, stage, members, beginners, taken)
        if _secure(state, candidate, room):
            wanted_rate = max(wanted_rate, nearly * gain / work_ns)
            found.append(candidate)
    return found


def _secure(state: State, candidate: Candidate, room: _Room) -> bool:
    """Whether all unanswered jobs that are not in it can be answered in time after it."""
    if not candidate.beginners:
        return candidate.work_ns * room.crowding <= room.secure_ns
    served = candidate.model, candidate.beginners
    start_ns = room.starts.get(served)
    if start_ns is None:
        start_ns = room.starts[served] = secure_start(state, *served)
    return start_ns >= room.now_ns + candidate.work_ns


def _neediest(
    queue: ModelQueue, seats: Seats, count: int, end_ns: int
) -> tuple[float, tuple[tuple[Group, int, int], ...], int, int]:
    """The `count` jobs to which it is worth most, of those whose deadline is not before `end_ns`.

    Returns what it is worth to them together, slices of groups, how many unanswered ones, how many in all.
    """
    gain = 0.0
    members: list[tuple[Group, int, int]] = []
    beginners = 0
    missing = count
    for each, group, first, last in seats:
        entries = queue.unanswered if group is None else group.entries
        start = first if entries[first][0] >= end_ns else bisect_left(entries, (end_ns,), first)
        if group is None and start:  # the earliest must come first
            continue
        taken = min(last - start, missing)
        if taken > 0:
            if group is None:
                beginners = taken
            else:
                members.append((group, start, start + taken))
            gain += each * taken
            missing -= taken
            if not missing:
                break
    return gain, tuple(members), beginners, count - missing


def _batches(queue: ModelQueue, available: int) -> list[int]:
    """Batch sizes worth considering, the largest first: all there are if they fit, and the profiled ones below."""
    buckets = queue.latency.buckets
    below = buckets[bisect_left(buckets, available) - 1 :: -1] if available > buckets[0] else []
    return [available, *below] if 0 < available <= queue.max_batch else below


def _per_time(candidate: Candidate) -> float:
    return candidate.gain / candidate.work_ns
