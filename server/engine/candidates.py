"""Which launches are possible now, what each is worth, and which is best.

Reads the state; must not change it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from server.engine.prices import GRID
from server.engine.queues import Group, ModelQueue
from server.engine.room import NEVER, blocking_cap_ns, price_places, secure_start
from server.engine.state import State, arrival_rate


@dataclass(frozen=True, slots=True)
class Candidate:
    """A launch that could be made: expected right answers, who would be in it, and its time.

    `members` are slices of groups; without any, the launch is for the `count` earliest unanswered jobs.
    """

    gain: float
    work_ns: int
    promised_ns: int
    model: str
    stage: int
    members: tuple[tuple[Group, int, int], ...] = ()
    count: int = 0


Slices = list[tuple[float, Group, int]]
"""Groups that may join a launch: gain of each member, the group, and before which deadline its members must lie."""


Explain = Callable[[list[Candidate], Candidate | None], None]
"""Told what was considered for a decision and what was chosen (which is among it, unless nothing saves everyone)."""


def best_candidate(state: State, now_ns: int, explain: Explain | None = None) -> Candidate | None:
    """The launch to make now; None if none is possible.

    What is worth its time at the present price goes first. If there is nothing, the device would be idle, and whatever
    gains anything may have it.
    """
    limits = secure_start(state) - now_ns, blocking_cap_ns(state, now_ns)
    place, root_place = price_places(state, now_ns)
    found: list[Candidate] = []
    patient: list[Candidate] = []
    for name, queue in state.models.items():
        if queue.usable:
            first = _first_candidates(state, name, queue, now_ns, root_place, limits[1])
            if _may_wait(state, queue, place, now_ns):
                patient += first
            else:
                found += first
            found += _deepen_candidates(
                state, name, queue, now_ns, limits, _planned(queue, place, now_ns, state)
            )
    found = found or patient
    if not found:
        for name, queue in state.models.items():
            if queue.usable:
                found += _deepen_candidates(state, name, queue, now_ns, limits, _anything(queue))
    chosen = _best_of(state, found) or _save_the_earliest(state, now_ns)
    if explain is not None:
        explain(found, chosen)
    return chosen


def _best_of(state: State, found: list[Candidate]) -> Candidate | None:
    """Most expected right answers per nanosecond; of those that are nearly as good the shortest, which blocks least."""
    scored = [(candidate.gain / candidate.work_ns, candidate) for candidate in found]
    threshold = max((score for score, _ in scored), default=0.0) * state.config.nearly_as_good
    nearly = [c for score, c in scored if score >= threshold]
    return min(nearly, key=lambda c: (c.work_ns, c.model, c.stage), default=None)


# Unanswered jobs


def _first_candidates(
    state: State, name: str, queue: ModelQueue, now_ns: int, place: int, cap_ns: float
) -> list[Candidate]:
    """The rung that the price makes best to begin with, if the others stay secure; else the cheapest."""
    if not queue.unanswered:
        return []
    # An early answer is a safeguard too: it is passed over only where its time is missing elsewhere.
    root = queue.plans.root_rung[place]
    if place > queue.plans.floor and queue.plans.knows(queue.ladder.first) and root != queue.ladder.first:
        direct = [
            c
            for c in _answering(state, name, queue, now_ns, root)
            if c.work_ns <= cap_ns and _leaves_secure(state, c, now_ns) and _all_plain(queue, c.count)
        ]
        if direct:
            return direct
    cheapest = _answering(state, name, queue, now_ns, queue.ladder.first)
    return [c for c in cheapest if _leaves_secure(state, c, now_ns)]


def _may_wait(state: State, queue: ModelQueue, place: int, now_ns: int) -> bool:
    """Whether first answers had better wait for company: where time is short, small batches waste it.

    It is short where answers have a price, or where first rungs one by one would take much of the device. Nothing is
    lost by waiting: whatever goes before them must leave them secure.
    """
    count = min(len(queue.unanswered), queue.max_batch)
    if not count:
        return False
    alone = arrival_rate(queue, now_ns) * queue.first_work_ns
    if place <= queue.plans.floor and alone < state.config.alone:
        return False
    return queue.latency.efficiency(queue.ladder.first, count) < state.config.efficient


def _answering(state: State, name: str, queue: ModelQueue, now_ns: int, stage: int) -> list[Candidate]:
    """`stage` for the earliest deadlines, in every batch that makes them.

    With the first rung never none, if anyone waits: the earliest job can make it alone, for the hopeless ones have
    just been taken out.
    """
    worth = queue.ladder.accuracy(1 << stage)
    latest_ns = queue.unanswered[0][0] - state.config.guard_ns - now_ns
    found: list[Candidate] = []
    for count in _batches(queue, len(queue.unanswered)):
        ns = queue.latency.ns(stage, count)
        if ns > latest_ns:
            break
        work_ns = queue.latency.work_ns(stage, count)
        found.append(Candidate(count * worth, work_ns, ns, name, stage, count=count))
    return found


def _all_plain(queue: ModelQueue, count: int) -> bool:
    return all(entry[2].plain for entry in queue.unanswered[:count])


def _leaves_secure(state: State, candidate: Candidate, now_ns: int) -> bool:
    return secure_start(state, candidate.model, skip=candidate.count) >= now_ns + candidate.work_ns


def _save_the_earliest(state: State, now_ns: int) -> Candidate | None:
    """No launch saves everyone: the largest batch for the earliest deadline of all."""
    waiting = [(q.unanswered[0][0], name, q) for name, q in state.models.items() if q.usable and q.unanswered]
    if not waiting:
        return None
    _, name, queue = min(waiting, key=lambda entry: entry[:2])
    return _answering(state, name, queue, now_ns, queue.ladder.first)[-1]


# Answered jobs


def _planned(queue: ModelQueue, place: int, now_ns: int, state: State) -> dict[int, Slices]:
    """Per rung, who should have it by plan at this price, and who can only make this one of those worth their time."""
    plans = queue.plans
    place = max(place, plans.floor)
    price = GRID[place]
    rungs = plans.rungs_at(place)
    end_ns = now_ns + state.config.guard_ns
    found: dict[int, Slices] = {}
    for group in queue.groups.values():
        if group.place < 0:
            stage, gain = group.gains[0]
            found.setdefault(stage, []).append((gain, group, NEVER))
            continue
        wanted = rungs[group.place]
        if wanted < 0:
            continue
        too_late_ns = end_ns + queue.latency.ns(wanted, 1)
        for stage, gain in group.gains:
            if stage == wanted:
                found.setdefault(stage, []).append((gain, group, NEVER))
            elif group.entries[0][0] < too_late_ns and gain > price * queue.latency.work_ns(stage, 1):
                found.setdefault(stage, []).append((gain, group, too_late_ns))
    return found


def _anything(queue: ModelQueue) -> dict[int, Slices]:
    """Per rung, everyone who would gain from it."""
    found: dict[int, Slices] = {}
    for group in queue.groups.values():
        for stage, gain in group.gains:
            found.setdefault(stage, []).append((gain, group, NEVER))
    return found


def _deepen_candidates(
    state: State,
    name: str,
    queue: ModelQueue,
    now_ns: int,
    limits: tuple[int, float],
    slices: dict[int, Slices],
) -> list[Candidate]:
    room_ns, cap_ns = limits
    candidates: list[Candidate] = []
    for stage, groups in slices.items():
        groups.sort(key=_by_gain)
        total = sum(len(group.entries) for _, group, _ in groups)
        best = 0.0
        for count in _batches(queue, total):
            ns = queue.latency.ns(stage, count)
            # A single image may block as long as the cap says; a batch, which has an alternative, half as
            # long.
            if ns > room_ns + queue.latency.tail_ns or ns > (cap_ns if count == 1 else cap_ns / 2):
                break
            gain, members, found = _neediest(groups, count, now_ns + ns + state.config.guard_ns)
            if found:
                work_ns, promised_ns = queue.latency.work_ns(stage, found), queue.latency.ns(stage, found)
                candidates.append(Candidate(gain, work_ns, promised_ns, name, stage, members, found))
                best = max(best, gain / work_ns)
                # The neediest are in already: once a larger batch is worth less a nanosecond, all larger ones are.
                if gain / work_ns < best * state.config.nearly_as_good:
                    break
            if found < count:
                break
    return candidates


def _by_gain(candidate: tuple[float, Group, int]) -> tuple[float, tuple[int, int, bool]]:
    return -candidate[0], candidate[1].key


def _neediest(
    groups: Slices, count: int, end_ns: int
) -> tuple[float, tuple[tuple[Group, int, int], ...], int]:
    """The `count` jobs with most to gain among those whose deadline is not before `end_ns`, as slices of groups."""
    gain = 0.0
    members: list[tuple[Group, int, int]] = []
    missing = count
    for each, group, before_ns in groups:
        entries = group.entries
        start = 0 if entries[0][0] >= end_ns else bisect_left(entries, (end_ns,))
        stop = len(entries) if before_ns == NEVER else bisect_left(entries, (before_ns,))
        taken = min(stop - start, missing)
        if taken > 0:
            members.append((group, start, start + taken))
            gain += each * taken
            missing -= taken
            if not missing:
                break
    return gain, tuple(members), count - missing


def _batches(queue: ModelQueue, available: int) -> Iterable[int]:
    """Batch sizes worth considering: the profiled ones that can be filled, and all there are if they fit."""
    sizes = [size for size in queue.latency.buckets if size < available]
    return [*sizes, available] if 0 < available <= queue.max_batch else sizes
