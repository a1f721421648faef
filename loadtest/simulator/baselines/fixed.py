"""One rung for everybody, earliest deadline first.

What a careful operator of one model does: batches as large as the earliest deadline allows, launched as soon as the
device is free. Where not all who wait can be served, whoever is too urgent for a batch of good throughput is dropped
before any work is spent on him (early drop, Shen et al., Nexus, SOSP 2019, section 6.3): serving the most urgent in
small batches would lose more than it saves.
"""

from collections.abc import Sequence

from loadtest.simulator.baselines.baseline import GUARD_NS, Baseline
from loadtest.simulator.durations import Durations
from loadtest.simulator.model import SimulatedModel
from loadtest.simulator.scheduler import Instruction


class Fixed(Baseline):
    """Only `stage`."""

    def __init__(self, model: SimulatedModel, device: Durations, stage: int) -> None:
        super().__init__(model, device)
        self.stage = stage
        self._good_batch = self.latency.best_batch(stage)

    def choose(self, now_ns: int) -> Sequence[Instruction]:
        """Drop, then the largest batch that the earliest deadline bears."""
        orders = self.drop_hopeless(self.stage, now_ns)
        if self.waiting and not self._all_can_be_served(now_ns):
            window = min(self._good_batch, len(self.waiting))
            bearing = self.ends_ns(self.stage, window, now_ns)
            # Never everybody: of those that are left when all are urgent, the latest make the batch.
            orders += self.drop_before(min(bearing, self.waiting[-1][0]))
        if not self.waiting:
            return orders
        return [*orders, self.launch_first(self.stage, max(1, self.largest_batch(self.stage, now_ns)))]

    def _all_can_be_served(self, now_ns: int) -> bool:
        """One after the other, each before its first deadline: the batch that the first bears, then good ones."""
        waiting, size = self.waiting, self._good_batch
        tail_ns = self.latency.ns(self.stage, 1) - self.latency.work_ns(self.stage, 1)
        ends_ns = now_ns + GUARD_NS + tail_ns
        place, count = 0, max(1, self.largest_batch(self.stage, now_ns))
        while place < len(waiting):
            ends_ns += self.latency.work_ns(self.stage, count)
            if ends_ns > waiting[place][0]:
                return False
            place += count
            count = min(size, len(waiting) - place)
        return True
