"""Launches for those who wait for a seat: how large, who is in them, and whether everyone else stays secure.

Reads the state; must not change it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from server.engine.queues import Group, ModelQueue, before
from server.engine.room import NEVER, secure_start
from server.engine.seats import Seats
from server.engine.state import State

POOR: Final = 0.9
"""A launch that is worth less than this share of the price of its time is a poor one."""

_EACH = itemgetter(0)


@dataclass(init=False, slots=True)
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
    members: tuple[tuple[Group, int, int], ...]
    beginners: int
    count: int
    given_up: int

    def __init__(
        self,
        gain: float,
        work_ns: int,
        promised_ns: int,
        model: str,
        stage: int,
        members: tuple[tuple[Group, int, int], ...] = (),
        beginners: int = 0,
        count: int = 0,
        given_up: int = 0,
    ) -> None:
        self.gain = gain
        self.work_ns = work_ns
        self.promised_ns = promised_ns
        self.model = model
        self.stage = stage
        self.members = members
        self.beginners = beginners
        self.count = count
        self.given_up = given_up


class Room:
    """What limits the launches of one decision: see server.engine.room.

    A launch is by `crowding` too long for what waits: who comes meanwhile with a tighter deadline goes before it.
    `starts` keeps what secure_start has said.
    """

    __slots__ = ("blocked", "crowding", "longest_ns", "now_ns", "secure_ns", "starts")

    def __init__(
        self,
        now_ns: int,
        secure_ns: int,
        longest_ns: float,
        crowding: float,
        blocked: Callable[[int], float],
    ) -> None:
        self.now_ns = now_ns
        self.secure_ns = secure_ns
        self.longest_ns = longest_ns
        self.crowding = crowding
        self.blocked = blocked
        self.starts: dict[tuple[str, int], int] = {}


def first_rungs(state: State, name: str, queue: ModelQueue, room: Room) -> list[Candidate]:
    """The first rung for the earliest deadlines, in the largest batch that leaves the others secure and those that
    are nearly as good; none if no batch does."""
    found: list[Candidate] = []
    for candidate in first_batches(state, name, queue, room.now_ns):
        if found and per_time(candidate) < per_time(found[0]) * state.config.nearly_as_good:
            break
        if _secure(state, candidate, room):
            found.append(candidate)
    return found


def first_batches(state: State, name: str, queue: ModelQueue, now_ns: int) -> Iterator[Candidate]:
    """The first rung for the earliest deadlines, in every batch that makes them, the largest first.

    Never none, if anyone waits: the earliest job can make it alone, for the hopeless ones have just been taken out.
    """
    stage = queue.ladder.first
    worth = queue.ladder.accuracy(1 << stage)
    latest_ns = queue.unanswered[0].deadline_ns - state.config.guard_ns - now_ns
    for count in _batches(queue, len(queue.unanswered)):
        ns = queue.latency.ns(stage, count)
        if ns <= latest_ns:
            work_ns = queue.latency.work_ns(stage, count)
            yield Candidate(count * worth, work_ns, ns, name, stage, beginners=count, count=count)


def launches(
    state: State,
    name: str,
    queue: ModelQueue,
    room: Room,
    seats: list[Seats],
    price: float = 0.0,
    best: float = 0.0,
) -> list[Candidate]:
    """Launches for those who wait for a seat.

    Without those that `_best_of` would not look at, at this price, beside one that is worth `best` a nanosecond.
    """
    found: list[Candidate] = []
    promising = [(*_promises(queue, stage, wanted), stage) for stage, wanted in enumerate(seats) if wanted]
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
        best = max([best, *map(per_time, of_stage)])
        found += of_stage
    return found


def _promises(queue: ModelQueue, stage: int, seats: Seats) -> tuple[float, int]:
    """At most so much a nanosecond, with the neediest in the largest batch there can be; and how many may join."""
    most, available = 0.0, 0
    for worth, _, first, last in seats:
        most = max(most, worth)
        available += last - first
    count = min(available, queue.max_batch)
    return most * count / queue.latency.work_ns(stage, count), available


def _launches_of(
    state: State,
    name: str,
    queue: ModelQueue,
    room: Room,
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


def _secure(state: State, candidate: Candidate, room: Room) -> bool:
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
        jobs = queue.unanswered if group is None else group.jobs
        start = first if jobs[first].deadline_ns >= end_ns else before(jobs, end_ns, first)
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


def per_time(candidate: Candidate) -> float:
    """What it is worth a nanosecond."""
    return candidate.gain / candidate.work_ns
