"""The jobs of one model, in the two orders that the policy asks for: by deadline, and by what they could
still gain.

Knows where a job stands; must not know why it moves. Every list is sorted by (deadline, order of arrival), so
that the first k jobs that can still make a given finishing time are a slice. (Searched by loops of our own: as machine
code they take a sixth of the instructions of the library's, which compares by way of tuples.)
"""

from __future__ import annotations

from server.engine.events import Job
from server.engine.ladder import Gains, Ladder
from server.engine.latency import LatencyTable
from server.engine.prices import Plans
from server.engine.rates import Rates


class Waiting:
    """A job that has been admitted.

    Attributes:
        job: as it arrived.
        deadline_ns: the job's.
        order: counts arrivals; breaks ties of deadlines.
        mask: the rungs it has had.
        bin_: confidence bin of its pooled answer, once it has one.
        group: where it waits for a deeper rung, or None.
        plain: content with any rungs in any order; a stream is not, nor a client who may be content early.
        failed: a launch that it was part of has failed.
    """

    __slots__ = ("bin_", "deadline_ns", "failed", "group", "job", "mask", "order", "plain")

    def __init__(self, job: Job, order: int) -> None:
        self.job = job
        self.deadline_ns = job.deadline_ns
        self.order = order
        self.mask = 0
        self.bin_ = 0
        self.group: Group | None = None
        self.failed = False
        self.plain = not job.every_stage and job.min_confidence >= 1.0


def before(jobs: list[Waiting], limit_ns: int, start: int = 0) -> int:
    """The place of the first job, from `start` on, whose deadline is not before `limit_ns`."""
    end = len(jobs)
    while start < end:
        middle = (start + end) >> 1
        if jobs[middle].deadline_ns < limit_ns:
            start = middle + 1
        else:
            end = middle
    return start


def _place(jobs: list[Waiting], waiting: Waiting) -> int:
    """Where a job is, or belongs."""
    deadline_ns, order = waiting.deadline_ns, waiting.order
    start, end = 0, len(jobs)
    while start < end:
        middle = (start + end) >> 1
        other = jobs[middle]
        if other.deadline_ns < deadline_ns or (other.deadline_ns == deadline_ns and other.order < order):
            start = middle + 1
        else:
            end = middle
    return start


def _insert(jobs: list[Waiting], waiting: Waiting) -> None:
    if not jobs or jobs[-1].deadline_ns < waiting.deadline_ns:  # as most, where budgets are equal
        jobs.append(waiting)
    else:
        jobs.insert(_place(jobs, waiting), waiting)


class Group:
    """Answered jobs with the same outlook: same rungs behind them, same confidence bin, so the same gains.

    `shortest` is the rung among those that takes the least time. `place` is the row of the model's plans; a stream
    follows no plan and has -1.
    """

    __slots__ = ("gains", "jobs", "key", "place", "shortest")

    def __init__(self, key: int, gains: Gains, shortest: int, place: int) -> None:
        self.key = key
        self.place = place
        self.gains = gains
        self.shortest = shortest
        self.jobs: list[Waiting] = []


class ModelQueue:
    """One model: what it knows (ladder, latencies) and who waits for it."""

    def __init__(self, ladder: Ladder, latency: LatencyTable, max_batch: int) -> None:
        self.ladder = ladder
        self.latency = latency
        self.max_batch = max_batch
        self.unanswered: list[Waiting] = []
        self.groups: dict[int, Group] = {}  # without empty ones
        self._outlooks: dict[int, Group | None] = {}
        self._bins = ladder.bins
        self.rates = Rates()
        self.secure_batch = self._secure_batch()
        self.plans = Plans(ladder, latency)

    @property
    def usable(self) -> bool:
        """Whether any rung is left to run."""
        return bool(self.ladder.usable)

    @property
    def first_ns(self) -> int:
        """What may be promised for the first rung of one image."""
        return self.latency.ns(self.ladder.first, 1)

    @property
    def first_work_ns(self) -> int:
        """Device time of the first rung of one image."""
        return self.latency.work_ns(self.ladder.first, 1)

    @property
    def first_share_ns(self) -> float:
        """Device time of the first rung of one image among many."""
        return self.latency.work_ns(self.ladder.first, self.secure_batch) / self.secure_batch

    def fail(self, stage: int) -> list[Waiting]:
        """Take a rung out of use; returns all answered jobs, out of their groups: their outlook has changed."""
        self.ladder.fail(stage)
        self.secure_batch = self._secure_batch()
        self.plans.renew()
        moved = [waiting for group in self.groups.values() for waiting in group.jobs]
        self.groups.clear()
        self._outlooks.clear()
        for waiting in moved:
            waiting.group = None
        return moved

    def add_unanswered(self, waiting: Waiting) -> None:
        """Wait for a first answer."""
        _insert(self.unanswered, waiting)

    def outlook(self, waiting: Waiting) -> Group | None:
        """Where an answered job would wait for a deeper rung; None if it can gain nothing more."""
        every_stage = waiting.job.every_stage
        key = 2 * (waiting.mask * self._bins + waiting.bin_) + every_stage
        try:
            return self._outlooks[key]
        except KeyError:
            group = self._outlooks[key] = self._new_group(key, waiting.mask, waiting.bin_, every_stage)
            return group

    def add_answered(self, waiting: Waiting, group: Group) -> None:
        """Wait there."""
        waiting.group = group
        if not group.jobs:
            self.groups[group.key] = group
        _insert(group.jobs, waiting)

    def remove(self, waiting: Waiting) -> None:
        """Take a job out, wherever it waits; one that is in a launch waits nowhere."""
        jobs = self.unanswered if waiting.group is None else waiting.group.jobs
        place = _place(jobs, waiting)
        if place < len(jobs) and jobs[place] is waiting:
            del jobs[place]
        self._leave(waiting)

    def take_unanswered(self, count: int, after: int = 0) -> list[Waiting]:
        """The `count` earliest deadlines after `after` still earlier ones, taken out."""
        taken = self.unanswered[after : after + count]
        del self.unanswered[after : after + count]
        return taken

    def take_answered(self, group: Group, start: int, end: int) -> list[Waiting]:
        """A slice of a group, taken out."""
        taken = group.jobs[start:end]
        del group.jobs[start:end]
        for waiting in taken:
            waiting.group = None
        if not group.jobs:
            self.groups.pop(group.key, None)
        return taken

    def take_late(self, free_ns: int, guard_ns: int) -> list[Waiting]:
        """Unanswered jobs that no rung can reach any more if the device is free at `free_ns`, taken out."""
        if not self.unanswered:
            return []
        limit_ns = free_ns + guard_ns + self.first_ns
        if self.unanswered[0].deadline_ns >= limit_ns:
            return []
        return self.take_unanswered(before(self.unanswered, limit_ns))

    def take_spent(self, free_ns: int, guard_ns: int) -> list[Waiting]:
        """Answered jobs likewise."""
        start_ns = free_ns + guard_ns
        longest_ns = start_ns + self.latency.ns(self.ladder.usable[-1], 1)
        near = [group for group in self.groups.values() if group.jobs[0].deadline_ns < longest_ns]
        limits = {stage: start_ns + self.latency.ns(stage, 1) for stage in self.ladder.usable} if near else {}
        spent: list[Waiting] = []
        for group in near:
            limit_ns = limits[group.shortest]
            if group.jobs[0].deadline_ns < limit_ns:
                spent += self.take_answered(group, 0, before(group.jobs, limit_ns))
        return spent

    def planned(self, coming: float) -> tuple[list[tuple[list[float], float]], int]:
        """Device time that all jobs here and `coming` new ones will take, each by its plan: (by price, how many) and
        what does not depend on the price."""
        plans = self.plans
        planned = [(plans.root_cost, len(self.unanswered) + coming)]
        fixed_ns = 0
        for group in self.groups.values():
            if group.place >= 0:
                planned.append((plans.cost(group.place), len(group.jobs)))
            else:
                fixed_ns += len(group.jobs) * self.latency.work_ns(group.gains[0][0], 1)
        return planned, fixed_ns

    def owed(self, skip: int = 0) -> tuple[list[int], int, int]:
        """The first-rung batches that are owed after the `skip` earliest: when each must be done, which is its first
        deadline less the tail, the work of each, and that of the last."""
        count = len(self.unanswered) - skip
        if count <= 0:
            return [], 0, 0
        # Coarser where the queue is long: at most 32 batches keep a decision cheap, and cost 1/32 of the
        # budgets' room.
        size = min(max(self.secure_batch, -(-count // 32)), self.max_batch)
        first, tail_ns = self.ladder.first, self.latency.tail_ns
        full_ns = self.latency.work_ns(first, size)
        rest_ns = self.latency.work_ns(first, rest) if (rest := count % size) else full_ns
        return [waiting.deadline_ns - tail_ns for waiting in self.unanswered[skip::size]], full_ns, rest_ns

    def observe_between(self, between_ns: int) -> bool:
        """See LatencyTable: the dearer a launch is beside its images, the larger the batches that are owed."""
        changed = self.latency.observe_between(between_ns)
        if changed:
            self.secure_batch = self._secure_batch()
        return changed

    def rest(self) -> None:
        """See LatencyTable."""
        if self.latency.rest():
            self.secure_batch = self._secure_batch()

    def relax(self) -> None:
        """See LatencyTable."""
        self.latency.relax()
        self.secure_batch = self._secure_batch()

    def _new_group(self, key: int, mask: int, bin_: int, every_stage: bool) -> Group | None:
        gains = self.ladder.gains_after(mask, bin_, every_stage)
        if not gains:
            return None
        shortest = min(gains, key=lambda gain: self.latency.profiled_ns(gain[0], 1))[0]
        return Group(key, gains, shortest, -1 if every_stage else self.plans.state(mask, bin_))

    def _secure_batch(self) -> int:
        return self.latency.best_batch(self.ladder.first) if self.usable else 1

    def _leave(self, waiting: Waiting) -> None:
        group, waiting.group = waiting.group, None
        if group is not None and not group.jobs:
            self.groups.pop(group.key, None)
