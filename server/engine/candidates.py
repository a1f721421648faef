"""Which launches are possible now, what each is worth, and which is best.

Reads the state; must not change it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

from server.engine.queues import Group, ModelQueue
from server.engine.room import blocking_cap_ns, secure_start
from server.engine.state import State


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


def best_candidate(state: State, now_ns: int) -> Candidate | None:
    """The launch to make now; None if none is possible or none is worth its time."""
    limits = secure_start(state) - now_ns, blocking_cap_ns(state, now_ns)
    found: list[Candidate] = []
    for name, queue in state.models.items():
        if queue.usable:
            found += [c for c in _first_rung(state, name, queue, now_ns) if _leaves_secure(state, c, now_ns)]
            found += _deepen_candidates(state, name, queue, now_ns, limits)
    return _best_of(state, found) or _save_the_earliest(state, now_ns)


def _best_of(state: State, found: list[Candidate]) -> Candidate | None:
    scored = [(_score(state, candidate), candidate) for candidate in found]
    best_score = max((score for score, _ in scored), default=0.0)
    if best_score <= 0:
        return None
    threshold = best_score * state.config.nearly_as_good
    return min((c for score, c in scored if score >= threshold), key=lambda c: (c.work_ns, c.model, c.stage))


def _score(state: State, candidate: Candidate) -> float:
    """Expected right answers per nanosecond, less the price of the time."""
    return candidate.gain / candidate.work_ns - state.price


def _first_rung(state: State, name: str, queue: ModelQueue, now_ns: int) -> list[Candidate]:
    """The cheapest rung for the earliest deadlines, in every batch that makes them: never none, if anyone waits.

    The earliest job can make it alone, for the hopeless ones have just been taken out.
    """
    if not queue.unanswered:
        return []
    first = queue.ladder.first
    worth = queue.ladder.accuracy(1 << first)
    latest_ns = queue.unanswered[0][0] - state.config.guard_ns - now_ns
    found: list[Candidate] = []
    for count in _batches(queue, len(queue.unanswered)):
        ns = queue.latency.ns(first, count)
        if ns > latest_ns:
            break
        work_ns = queue.latency.work_ns(first, count)
        found.append(Candidate(count * worth, work_ns, ns, name, first, count=count))
    return found


def _leaves_secure(state: State, candidate: Candidate, now_ns: int) -> bool:
    return secure_start(state, candidate.model, skip=candidate.count) >= now_ns + candidate.work_ns


def _save_the_earliest(state: State, now_ns: int) -> Candidate | None:
    """No launch saves everyone: the largest batch for the earliest deadline of all."""
    waiting = [(q.unanswered[0][0], name, q) for name, q in state.models.items() if q.usable and q.unanswered]
    if not waiting:
        return None
    _, name, queue = min(waiting, key=lambda entry: entry[:2])
    return _first_rung(state, name, queue, now_ns)[-1]


def _deepen_candidates(
    state: State, name: str, queue: ModelQueue, now_ns: int, limits: tuple[int, float]
) -> list[Candidate]:
    room_ns, cap_ns = limits
    candidates: list[Candidate] = []
    for stage, groups in queue.groups_by_stage().items():
        total = sum(len(group.entries) for _, group in groups)
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
            if found < count:
                break
    return candidates


def _neediest(
    groups: list[tuple[float, Group]], count: int, end_ns: int
) -> tuple[float, tuple[tuple[Group, int, int], ...], int]:
    """The `count` jobs with most to gain among those whose deadline is not before `end_ns`, as slices of groups."""
    gain = 0.0
    members: list[tuple[Group, int, int]] = []
    missing = count
    for each, group in groups:
        start = bisect_left(group.entries, (end_ns,))
        taken = min(len(group.entries) - start, missing)
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
