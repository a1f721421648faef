"""Clipper: adaptive batching by additive increase, multiplicative decrease.

Crankshaw et al., Clipper: A Low-Latency Online Prediction Serving System, NSDI 2017, section 4.3.1. The largest batch
grows by a fixed amount as long as the latency of a batch stays below the objective, and is cut by 10 % when it exceeds
it. The queue is served in order of arrival and nothing is dropped (the deadline is met by not waiting for late
answers, section 5.2.2: here those count as late).

Settled here: the objective is the smallest budget in the batch; a batch is launched as soon as the device is free.
"""

from collections import deque
from collections.abc import Sequence

from loadtest.simulator.baselines.baseline import Baseline
from loadtest.simulator.durations import Durations
from loadtest.simulator.model import SimulatedModel
from loadtest.simulator.scheduler import Instruction
from server.engine.policy import Job, LaunchDone

INCREASE = 1.0
CUT = 0.9


class Clipper(Baseline):
    """Only `stage`, in order of arrival; `allowed` is the adaptive batch size."""

    def __init__(self, model: SimulatedModel, device: Durations, stage: int) -> None:
        super().__init__(model, device)
        self.stage = stage
        self.allowed = 1.0
        self._queue: deque[tuple[int, int]] = deque()
        self._objective_ns = 0

    def arrived(self, job: Job, now_ns: int) -> Sequence[Instruction]:
        """Always taken, at the end of the queue."""
        assert isinstance(job.key, int)
        self._queue.append((job.deadline_ns - now_ns, job.key))
        self.waiting.append((job.deadline_ns, job.key))  # in order of arrival here
        return ()

    def choose(self, now_ns: int) -> Sequence[Instruction]:
        """As many as are allowed, from the head of the queue."""
        count = min(len(self._queue), int(self.allowed), self.max_batch)
        members = [self._queue.popleft() for _ in range(count)]
        self._objective_ns = min(budget for budget, _ in members)
        del self.waiting[:count]
        return [self.started(self.stage, tuple(key for _, key in members))]

    def landed(self, done: LaunchDone, now_ns: int) -> Sequence[Instruction]:
        """Adapt the batch size to what this one took."""
        if done.duration_ns > self._objective_ns:
            self.allowed = max(1.0, self.allowed * CUT)
        elif len(done.launch.keys) >= int(self.allowed):
            self.allowed = min(self.allowed + INCREASE, float(self.max_batch))
        return super().landed(done, now_ns)
