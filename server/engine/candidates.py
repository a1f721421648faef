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
    """A launch that could be made: expected right answers, estimated nanoseconds, and who would be in it.

    `members` are slices of groups; without any, the launch is for the `count` earliest unanswered jobs.
    """

    gain: float
    ns: int
    model: str
    stage: int
    members: tuple[tuple[Group, int, int], ...] = ()
    count: int = 0


def best_candidate(state: State, now_ns: int) -> Candidate | None:
    """The launch to make now; None if none is possible or none is worth its time."""
    limits = secure_start(state) - now_ns, blocking_cap_ns(state, now_ns)
    found: list[tuple[float, Candidate]] = []
    for name, queue in state.models.items():
        if queue.usable:
            found += [(_score(state, c), c) for c in _secure_candidates(state, name, queue, now_ns)]
            found += [(_score(state, c), c) for c in _deepen_candidates(state, name, queue, now_ns, limits)]
    if not found:
        return None
    best_score = max(score for score, _ in found)
    threshold = best_score * state.config.nearly_as_good
    best = min((c for score, c in found if score >= threshold), key=lambda c: (c.ns, c.model, c.stage))
    return best if best_score > 0 else None


def _score(state: State, candidate: Candidate) -> float:
    """Expected right answers per nanosecond, less the price of the time."""
    return candidate.gain / candidate.ns - state.price


def _secure_candidates(state: State, name: str, queue: ModelQueue, now_ns: int) -> list[Candidate]:
    """The cheapest rung for the earliest deadlines, in batches that leave the others secure; the largest if
    none does.

    The earliest job can still make it alone, for the hopeless ones have just been taken out.
    """
    if not queue.unanswered:
        return []
    first, waiting = queue.ladder.first, len(queue.unanswered)
    worth = queue.ladder.accuracy(1 << first)
    latest_ns = queue.unanswered[0][0] - state.config.guard_ns - now_ns
    feasible: list[Candidate] = []
    secure: list[Candidate] = []
    for count in _batches(queue, waiting):
        ns = queue.latency.ns(first, count)
        if ns > latest_ns:
            break
        candidate = Candidate(count * worth, ns, name, first, count=count)
        feasible.append(candidate)
        if secure_start(state, name, skip=count) >= now_ns + ns:
            secure.append(candidate)
    return secure or feasible[-1:]


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
            if ns > room_ns or ns > (cap_ns if count == 1 else cap_ns / 2):
                break
            gain, members, found = _neediest(groups, count, now_ns + ns + state.config.guard_ns)
            if found:
                candidates.append(
                    Candidate(gain, queue.latency.ns(stage, found), name, stage, members, found)
                )
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
