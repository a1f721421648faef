"""Clockwork: predictable launches one at a time, and no work on what cannot finish.

Gujarati et al., Serving DNNs like Clockwork: Performance Predictability from the Bottom Up, OSDI 2020, sections 5.2 and
5.3. Latencies are predicted from a rolling window of measurements per (model, batch). A request whose deadline cannot
be met is refused in advance, not after it has waited; among batch sizes the largest is taken that all of its members
survive.

Settled here: one model, so its choice among models falls away; the prediction is the largest of the last ten; admission
adds up the queue before the request in full batches.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence

from loadtest.simulator.baselines.baseline import GUARD_NS, Baseline
from loadtest.simulator.durations import Durations
from loadtest.simulator.model import SimulatedModel
from loadtest.simulator.scheduler import Instruction
from server.engine.policy import Job, LaunchDone

WINDOW = 10


class Clockwork(Baseline):
    """Only `stage`, in the batch sizes that were profiled."""

    def __init__(self, model: SimulatedModel, device: Durations, stage: int) -> None:
        super().__init__(model, device)
        self.stage = stage
        self._overhead_ns = device.overhead_ns
        self._recent = {size: deque([round(ns)], maxlen=WINDOW) for size, ns in device.profile[stage].items()}
        self._predicted = {size: self._recent[size][0] + self._overhead_ns for size in self._recent}
        self._busy_until_ns = 0

    def admit(self, job: Job, now_ns: int) -> bool:
        """Whether it would be in time behind everybody whose deadline is earlier."""
        before = bisect_right(self.waiting, (job.deadline_ns, job.key))
        largest = max(self._predicted)
        batches, rest = divmod(before, largest)
        queue_ns = batches * self._predicted[largest] + self._ns(rest + 1)
        free_ns = max(now_ns, self._busy_until_ns) if self.outstanding is not None else now_ns
        return free_ns + queue_ns + GUARD_NS <= job.deadline_ns

    def choose(self, now_ns: int) -> Sequence[Instruction]:
        """Cancel who cannot finish; then the largest batch that the earliest deadline survives."""
        orders = self.drop_before(now_ns + self._ns(1) + GUARD_NS)
        if not self.waiting:
            return orders
        room_ns = self.waiting[0][0] - GUARD_NS - now_ns
        fitting = [
            size for size in self._predicted if size <= len(self.waiting) and self._ns(size) <= room_ns
        ]
        count = max(fitting, default=1)
        self._busy_until_ns = now_ns + self._ns(count)
        return [*orders, self.launch_first(self.stage, count)]

    def landed(self, done: LaunchDone, now_ns: int) -> Sequence[Instruction]:
        """Learn the latency of that batch size."""
        size = len(done.launch.keys)
        if size in self._recent:
            self._recent[size].append(done.duration_ns)
            self._predicted[size] = max(self._recent[size]) + self._overhead_ns
        return super().landed(done, now_ns)

    def _ns(self, count: int) -> int:
        """Of the smallest profiled batch that holds so many."""
        return next(ns for size, ns in self._predicted.items() if size >= count)
