"""RTDeepIoT: stages of a network as imprecise computation, scheduled by a dynamic programme over quantised reward.

Yao et al., Scheduling Real-time Deep Learning Services as Imprecise Computations, RTCSA 2020, section III. Jobs in
order of deadline; P(i, r) is the least time in which the first i jobs give a total reward of r, each by one of its
depths or none, and none late; the largest feasible r gives every job its depth. The reward of a depth is what it is
expected to add, predicted from the confidence so far. The plan is made anew at each decision.

Settled here: rungs are graphs of their own, so a deeper one costs its own time only, whatever ran before; the first
`HORIZON` jobs are planned; a rung is planned at the cost per image of the batch that the queue could fill, and the
earliest planned job's rung is launched with all others that may have it. That is kinder than the paper, which runs one
job at a time. What more depth adds comes from the model's table of gains.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtest.simulator.baselines.baseline import GUARD_NS, Baseline
from loadtest.simulator.durations import Durations
from loadtest.simulator.model import SimulatedModel
from loadtest.simulator.scheduler import Instruction
from server.engine.policy import Finish, Job, Ladder, LaunchDone

HORIZON = 16
QUANTUM = 0.02


@dataclass(frozen=True)
class Option:
    """One rung for one job: reward in quanta, device time."""

    stage: int
    quanta: int
    cost_ns: float


class RTDeepIoT(Baseline):
    """All rungs; a job that has an answer goes on while the plan gives it another rung."""

    def __init__(self, model: SimulatedModel, device: Durations) -> None:
        super().__init__(model, device)
        self._ladder = Ladder(model.stages, model.accuracies, model.gain_bin_edges, model.gains)
        self._had: dict[int, tuple[int, int]] = {}  # set of rungs and confidence bin
        self._deadlines: dict[int, int] = {}

    def arrived(self, job: Job, now_ns: int) -> Sequence[Instruction]:
        """Always taken."""
        assert isinstance(job.key, int)
        self._deadlines[job.key] = job.deadline_ns
        self._had[job.key] = 0, 0
        return super().arrived(job, now_ns)

    def choose(self, now_ns: int) -> Sequence[Instruction]:
        """Plan; end answered jobs that the plan leaves as they are; launch the earliest planned job's rung."""
        orders = self._end_hopeless(now_ns)
        while self.waiting:
            plan = self._plan(now_ns)
            going = next((stage for stage in plan if stage >= 0), -1)
            members = self._members(plan, going, now_ns) if going >= 0 else []
            answered = [
                key
                for stage, (_, key) in zip(plan, self.waiting, strict=False)
                if stage < 0 and self._had[key][0]
            ]
            for key in [*answered, *members]:
                self._leave(key)
            orders += [self._finish(key) for key in answered]
            if members:
                return [*orders, self.started(going, tuple(members))]
            if not answered:
                break
        return orders

    def landed(self, done: LaunchDone, now_ns: int) -> Sequence[Instruction]:
        """Answered jobs wait on, unless nothing is left to gain."""
        orders: list[Instruction] = []
        for key, confidence in zip(done.launch.keys, done.confidences, strict=True):
            assert isinstance(key, int)
            mask, bin_ = self._had[key][0] | 1 << done.launch.stage, self._ladder.bin_of(confidence)
            self._had[key] = mask, bin_
            if self._rewards(key):
                insort(self.waiting, (self._deadlines[key], key))
            else:
                orders.append(self._finish(key))
        return orders

    # The dynamic programme

    def _plan(self, now_ns: int) -> list[int]:
        """The rung of each of the first HORIZON jobs, -1 for none."""
        jobs = self.waiting[:HORIZON]
        share = min(len(self.waiting), self.latency.best_batch(0))
        options = [self._options(key, share) for _, key in jobs]
        tail_ns = self.latency.ns(0, 1) - self.latency.work_ns(0, 1)
        rooms = [deadline_ns - GUARD_NS - tail_ns - now_ns for deadline_ns, _ in jobs]
        return planned(options, rooms)

    def _options(self, key: int, share: int) -> list[Option]:
        return [
            Option(stage, max(1, round(reward / QUANTUM)), self.latency.work_ns(stage, share) / share)
            for stage, reward in self._rewards(key)
        ]

    def _rewards(self, key: int) -> list[tuple[int, float]]:
        """(rung, expected addition to accuracy) of everything that may still run for a job."""
        mask, bin_ = self._had[key]
        if mask:
            return list(self._ladder.gains_after(mask, bin_, False))
        return [(stage, self.accuracies[stage]) for stage in self.stages]

    # Launching

    def _members(self, plan: list[int], stage: int, now_ns: int) -> list[int]:
        """Who is planned for the rung, and behind the horizon who has had nothing, while the first can bear them."""
        same = [entry for entry, wanted in zip(self.waiting, plan, strict=False) if wanted == stage]
        same += [entry for entry in self.waiting[len(plan) :] if not self._had[entry[1]][0]]
        first_ns = same[0][0]
        count = 1
        while count < min(len(same), self.max_batch) and self.ends_ns(stage, count + 1, now_ns) <= first_ns:
            count += 1
        return [key for _, key in same[:count]]

    def _end_hopeless(self, now_ns: int) -> list[Instruction]:
        """Whoever not even the cheapest rung can reach any more."""
        cut = bisect_left(self.waiting, (self.ends_ns(0, 1, now_ns), -1))
        keys = [key for _, key in self.waiting[:cut]]
        del self.waiting[:cut]
        return [self._finish(key) for key in keys]

    def _leave(self, key: int) -> None:
        self.waiting.remove((self._deadlines[key], key))

    def _finish(self, key: int) -> Finish:
        mask, _ = self._had.pop(key)
        del self._deadlines[key], self.arrived_ns[key]
        return Finish(key, "no_gain" if mask else "expired")


def planned(options: Sequence[Sequence[Option]], rooms_ns: Sequence[float]) -> list[int]:
    """The rung of each job (-1: none) that gives the largest total reward, and among those the least time.

    Args:
        options: per job, in order of deadline.
        rooms_ns: time until each deadline, ascending.
    """
    most = 1 + sum(max((option.quanta for option in own), default=0) for own in options)
    times = np.full(most, np.inf)
    times[0] = 0.0
    choices: list[np.ndarray[tuple[int], np.dtype[np.int64]]] = []
    for own, room_ns in zip(options, rooms_ns, strict=True):
        best, choice = times.copy(), np.full(most, -1, dtype=np.int64)
        for place, option in enumerate(own):
            ends = times[: most - option.quanta] + option.cost_ns
            target = best[option.quanta :]
            better = (ends < target) & (ends <= room_ns)
            target[better] = ends[better]
            choice[option.quanta :][better] = place
        times = best
        choices.append(choice)
    return _walked_back(options, choices, int(np.flatnonzero(np.isfinite(times))[-1]))


def _walked_back(
    options: Sequence[Sequence[Option]],
    choices: Sequence[np.ndarray[tuple[int], np.dtype[np.int64]]],
    reward: int,
) -> list[int]:
    stages: list[int] = []
    for own, choice in zip(reversed(options), reversed(choices), strict=True):
        place = int(choice[reward])
        stages.append(own[place].stage if place >= 0 else -1)
        reward -= own[place].quanta if place >= 0 else 0
    return stages[::-1]
