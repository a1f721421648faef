"""What every baseline stands on: waiting jobs in order of deadline, launches of one rung, and the estimates of time.

Estimates are the serving policy's own LatencyTable, corrected online: no baseline loses for a worse table. Must not
know why a scheduler picks what it picks.
"""

from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Sequence

from loadtest.simulator.durations import Durations
from loadtest.simulator.model import NAME, SimulatedModel
from loadtest.simulator.scheduler import Event, Instruction
from server.engine.policy import (
    Arrived,
    Finish,
    Job,
    LatencyTable,
    Launch,
    LaunchDone,
    Reject,
    Tick,
)

GUARD_NS = 300_000  # as PolicyConfig's: from the end of a launch until its answers are written


class Baseline(ABC):
    """A scheduler that runs one rung for each job and is done with it.

    A subclass decides in `choose`, asked whenever the device is free and jobs wait; `admit` may refuse on arrival.
    `waiting` holds (deadline, key), earliest first.
    """

    def __init__(self, model: SimulatedModel, device: Durations) -> None:
        self.model = model
        self.max_batch = device.max_batch
        self.latency = LatencyTable(device.profile, device.max_batch, device.runs_as)
        self.stages = range(len(model.stages))
        self.accuracies = [model.believed_accuracy(stage) for stage in self.stages]
        self.waiting: list[tuple[int, int]] = []
        self.arrived_ns: dict[int, int] = {}
        self.outstanding: Launch | None = None
        self._launches = 0

    def step(self, event: Event, now_ns: int) -> Sequence[Instruction]:
        """See Scheduler."""
        match event:
            case Arrived(job):
                return self.arrived(job, now_ns)
            case LaunchDone():
                self.outstanding = None
                self.latency.observe(event.launch.stage, len(event.launch.keys), event.duration_ns)
                return self.landed(event, now_ns)
            case Tick():
                if self.outstanding is not None or not self.waiting:
                    return ()
                return self.choose(now_ns)

    def arrived(self, job: Job, now_ns: int) -> Sequence[Instruction]:
        """Take a job, or refuse it."""
        if not self.admit(job, now_ns):
            return (Reject(job.key, 0),)
        assert isinstance(job.key, int)
        self.arrived_ns[job.key] = now_ns
        insort(self.waiting, (job.deadline_ns, job.key))
        self.queued(now_ns)
        return ()

    def admit(self, job: Job, now_ns: int) -> bool:
        """Whether to take it; most never refuse."""
        return True

    def queued(self, now_ns: int) -> None:  # noqa: B027 - most do not count arrivals
        """A job has been taken."""

    def landed(self, done: LaunchDone, now_ns: int) -> Sequence[Instruction]:
        """Its jobs have their answer."""
        for key in done.launch.keys:
            self.arrived_ns.pop(key, None)  # type: ignore[call-overload]
        return [Finish(key, "deepest") for key in done.launch.keys]

    @abstractmethod
    def choose(self, now_ns: int) -> Sequence[Instruction]:
        """The device is free and somebody waits: drop, launch or wait."""

    # Pieces that they share

    def ends_ns(self, stage: int, batch: int, now_ns: int) -> int:
        """When answers of such a launch are where they are written, as far as the table knows."""
        return now_ns + self.latency.ns(stage, batch) + GUARD_NS

    def largest_batch(self, stage: int, now_ns: int) -> int:
        """The largest batch of the earliest that ends before the earliest deadline; 0 where not even one does."""
        deadline_ns = self.waiting[0][0]
        low, high = 0, min(len(self.waiting), self.max_batch)
        while low < high:
            middle = (low + high + 1) // 2
            if self.ends_ns(stage, middle, now_ns) <= deadline_ns:
                low = middle
            else:
                high = middle - 1
        return low

    def drop_hopeless(self, stage: int, now_ns: int) -> list[Instruction]:
        """Give up whoever cannot have this rung any more even alone."""
        return self.drop_before(self.ends_ns(stage, 1, now_ns))

    def drop_before(self, deadline_ns: int) -> list[Instruction]:
        """Give up whoever's deadline is earlier."""
        cut = bisect_left(self.waiting, (deadline_ns, -1))
        dropped = [key for _, key in self.waiting[:cut]]
        del self.waiting[:cut]
        for key in dropped:
            del self.arrived_ns[key]
        return [Finish(key, "expired") for key in dropped]

    def launch_first(self, stage: int, count: int) -> Launch:
        """Take the earliest `count` into a launch."""
        keys = tuple(key for _, key in self.waiting[:count])
        del self.waiting[:count]
        return self.started(stage, keys)

    def started(self, stage: int, keys: tuple[int, ...]) -> Launch:
        """The order for these jobs."""
        self._launches += 1
        expected_ns = self.latency.work_ns(stage, len(keys))
        promised_ns = self.latency.ns(stage, len(keys))
        self.outstanding = Launch(self._launches, NAME, stage, keys, expected_ns, promised_ns)
        return self.outstanding
