"""Proteus: accuracy scaling. The variant follows the demand; batches wait as long as the first deadline allows.

Ahmad et al., Proteus: A High-Throughput Inference-Serving System with Accuracy Scaling, ASPLOS 2024, sections 4 (an
MILP assigns variants to devices: the most accurate that carry the demand) and 5 (adaptive batching that is proactive
and not work-conserving).

Settled here: one device, so the MILP comes down to the most accurate rung whose throughput exceeds the demand by a
tenth; it is solved twice a second instead of every half minute, because a rung is switched here without loading, and
at once when the demand exceeds what the rung carries.
"""

from collections.abc import Sequence

from loadtest.simulator.baselines.baseline import GUARD_NS, Baseline
from loadtest.simulator.durations import Durations
from loadtest.simulator.model import SimulatedModel
from loadtest.simulator.scheduler import Instruction
from server.engine.policy import WaitUntil

PERIOD_NS = 500_000_000
WINDOW_NS = 100_000_000
SPARE = 1.1


class Proteus(Baseline):
    """All rungs, one at a time for everybody."""

    def __init__(self, model: SimulatedModel, device: Durations) -> None:
        super().__init__(model, device)
        self.stage = len(model.stages) - 1
        self._decided_ns = 0
        self._window_ns = 0
        self._count = 0
        self._rate = 0.0

    def queued(self, now_ns: int) -> None:
        """Count arrivals by window; the demand is a moving average of the windows' rates."""
        self._count += 1
        passed_ns = now_ns - self._window_ns
        if passed_ns >= WINDOW_NS:
            self._rate = (
                0.5 * self._rate + 0.5 * self._count / passed_ns if self._rate else self._count / passed_ns
            )
            self._window_ns, self._count = now_ns, 0

    def choose(self, now_ns: int) -> Sequence[Instruction]:
        """Perhaps another rung; then launch, or wait for one more as long as the earliest could still make it."""
        self._scale(now_ns)
        orders = self.drop_hopeless(self.stage, now_ns)
        if not self.waiting:
            return orders
        count = min(len(self.waiting), self.max_batch)
        if count < self.max_batch:
            latest_ns = self.waiting[0][0] - GUARD_NS - self.latency.ns(self.stage, count + 1)
            if now_ns < latest_ns:
                return [*orders, WaitUntil(latest_ns)]
        return [*orders, self.launch_first(self.stage, max(1, self.largest_batch(self.stage, now_ns)))]

    def _scale(self, now_ns: int) -> None:
        burst = self._rate * SPARE > self._throughput(self.stage)
        if not burst and now_ns - self._decided_ns < PERIOD_NS:
            return
        self._decided_ns = now_ns
        enough = [stage for stage in self.stages if self._throughput(stage) >= self._rate * SPARE]
        self.stage = max(enough, key=lambda stage: self.accuracies[stage], default=0)

    def _throughput(self, stage: int) -> float:
        """Jobs per nanosecond in the largest batch."""
        return self.max_batch / self.latency.work_ns(stage, self.max_batch)
