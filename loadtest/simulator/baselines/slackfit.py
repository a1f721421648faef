"""SlackFit, the policy of SuperServe: latency buckets, and the largest batch in the bucket that the slack allows.

Khare et al., SuperServe: Fine-Grained Inference Serving for Unpredictable Workloads, NSDI 2025, section 4.2. Offline,
the range from the lowest to the highest latency of all (subnetwork, batch) is divided evenly into buckets; each
bucket is represented by its control choice with the largest batch, among equals the most accurate. Online, the slack
of the earliest deadline picks the bucket just below it, and as many as the choice's batch are served. Small slack (a
long queue) so leads to shallow subnetworks in large batches, much slack to deep ones.

Settled here: the number of buckets; who cannot make it with the fastest choice is dropped; latencies are the table's
current estimates, so the buckets are the offline ones and the check is online.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.simulator.baselines.baseline import GUARD_NS, Baseline
from loadtest.simulator.durations import Durations
from loadtest.simulator.model import SimulatedModel
from loadtest.simulator.scheduler import Instruction

BUCKETS = 24


@dataclass(frozen=True)
class Choice:
    """A rung, a batch, and what it took offline."""

    stage: int
    batch: int
    profiled_ns: int


class SlackFit(Baseline):
    """All rungs, each request one of them."""

    def __init__(self, model: SimulatedModel, device: Durations) -> None:
        super().__init__(model, device)
        every = [
            Choice(stage, batch, self.latency.profiled_ns(stage, batch))
            for stage in self.stages
            for batch in device.profile[stage]
        ]
        self.buckets = bucketed(every, self.accuracies, BUCKETS)

    def choose(self, now_ns: int) -> Sequence[Instruction]:
        """The last bucket whose choice fits the slack of the earliest."""
        orders = self.drop_hopeless(0, now_ns)
        if not self.waiting:
            return orders
        slack_ns = self.waiting[0][0] - GUARD_NS - now_ns
        fitting = [c for c in self.buckets if self.latency.ns(c.stage, c.batch) <= slack_ns]
        if not fitting:
            return [*orders, self.launch_first(0, max(1, self.largest_batch(0, now_ns)))]
        chosen = fitting[-1]
        return [*orders, self.launch_first(chosen.stage, min(chosen.batch, len(self.waiting)))]


def bucketed(choices: Sequence[Choice], accuracies: Sequence[float], count: int) -> list[Choice]:
    """One choice per bucket that is not empty, shortest first."""
    low, high = min(c.profiled_ns for c in choices), max(c.profiled_ns for c in choices)
    width = max((high - low) / count, 1.0)
    best: dict[int, Choice] = {}
    for choice in choices:
        place = min(int((choice.profiled_ns - low) / width), count - 1)
        rank = choice.batch, accuracies[choice.stage]
        held = best.get(place)
        if held is None or rank > (held.batch, accuracies[held.stage]):
            best[place] = choice
    return [best[place] for place in sorted(best)]
