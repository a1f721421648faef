"""A device and a clock made of numbers, around the policy: for tests only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

from server.engine.events import Finish, Job, Key, Launch, LaunchDone, LaunchFailed, Reject, WaitUntil
from server.engine.ladder import Ladder
from server.engine.latency import LatencyTable
from server.engine.policy import Arrived, Cancelled, PolicyConfig, Tick, new_state, step

MS = 1_000_000
EDGES = (0.0, 0.5, 0.8, 0.95, 1.0)


def tiny_ladder(stages: int = 3, gains: Sequence[float] = (0.3, 0.15, 0.05, 0.0)) -> Ladder:
    """Rungs a, b, c …; each deeper one gains `gains` by bin per rung climbed, a shallower one nothing."""
    names = [chr(ord("a") + place) for place in range(stages)]
    sets = [s for size in range(1, stages + 1) for s in combinations(range(stages), size)]
    return Ladder(
        names,
        {",".join(names[k] for k in s): 0.6 + 0.1 * max(s) for s in sets},
        EDGES,
        {
            ",".join(names[k] for k in s): {
                names[k]: tuple(g * max(k - max(s), 0) for g in gains) for k in range(stages) if k not in s
            }
            for s in sets
        },
    )


def linear_table(costs_ms: Sequence[float], max_batch: int = 32, launch_ms: float = 0.05) -> LatencyTable:
    """Stage k costs launch + costs[k] per image; no overhead, no tail, and the first factor already forgotten."""
    table = LatencyTable(
        {
            k: {b: (launch_ms + cost * b) * MS for b in (1, 2, 4, 8, 16, 32)}
            for k, cost in enumerate(costs_ms)
        },
        max_batch,
        overhead_ns=0,
        first_tail_ns=0,
    )
    for _ in range(60):
        table.observe(0, 1, table.typical_ns(0, 1))
    return table


class Device:
    """Runs the policy's launches in its own time and keeps a record of all that was ordered."""

    def __init__(
        self,
        models: dict[str, tuple[Ladder, LatencyTable]],
        config: PolicyConfig | None = None,
        confidence: Callable[[Key, int], float] = lambda _key, _stage: 0.4,
        duration: Callable[[Launch], int] = lambda launch: launch.expected_ns,
    ) -> None:
        self.state = new_state(models, config or PolicyConfig(guard_ns=0))
        self.now = 0
        self.confidence = confidence
        self.duration = duration
        self.crowded = False
        self.fails: set[tuple[str, int]] = set()
        self.running: tuple[int, Launch] | None = None
        self.jobs: dict[Key, Job] = {}
        self.launches: list[tuple[int, Launch]] = []
        self.stages: dict[Key, list[int]] = {}
        self.answered_at: dict[Key, int] = {}
        self.outcomes: dict[Key, list[str]] = {}
        self.ended_at: dict[Key, int] = {}
        self.feasible: dict[Key, int] = {}
        self.wakes_at: int | None = None

    def arrive(self, job: Job) -> None:
        self.jobs[job.key] = job
        self.tell(Arrived(job))

    def cancel(self, key: Key) -> None:
        if key in self.state.jobs:
            self._end(key, "cancelled")
        self.tell(Cancelled(key))

    def tick(self) -> None:
        self.tell(Tick(self.crowded))

    def run(self, until: int) -> None:
        """Decide, then advance to `until`, finishing launches and deciding whenever the device is free."""
        if self.running is None:
            self.tick()
        while self.running and self.running[0] <= until:
            self.now, launch = self.running
            self.running = None
            self._finish(launch)
            self.tick()
        self.now = until
        if self.running is None:
            self.tick()

    def drain(self) -> None:
        """Run until the device is idle."""
        self.tick()
        while self.running:
            self.run(self.running[0])

    def outcome(self, key: Key) -> str:
        (only,) = self.outcomes[key]
        return only

    def tally(self) -> Counter[str]:
        return Counter(outcome for outcomes in self.outcomes.values() for outcome in outcomes)

    def _finish(self, launch: Launch) -> None:
        if (launch.model, launch.stage) in self.fails:
            self.tell(LaunchFailed(launch))
            return
        for key in launch.keys:
            self.stages.setdefault(key, []).append(launch.stage)
            self.answered_at.setdefault(key, self.now)
        confidences = tuple(self.confidence(key, launch.stage) for key in launch.keys)
        self.tell(LaunchDone(launch, confidences, self.now - self.launches[-1][0]))

    def tell(self, event: object) -> None:
        state, orders = step(self.state, event, self.now)
        assert state is self.state
        for order in orders:
            match order:
                case Launch():
                    assert self.running is None
                    self.launches.append((self.now, order))
                    self.running = (self.now + max(self.duration(order), 1), order)
                case Finish(key, reason):
                    self._end(key, reason)
                case Reject(key, feasible_ns):
                    self.feasible[key] = feasible_ns
                    self._end(key, "rejected")
                case WaitUntil(at_ns):
                    self.wakes_at = at_ns

    def _end(self, key: Key, outcome: str) -> None:
        self.outcomes.setdefault(key, []).append(outcome)
        self.ended_at[key] = self.now
