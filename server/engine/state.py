"""All that the policy remembers, and its memory of arrivals.

Knows the shape of the state; must not decide anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from server.engine.events import Job, Key, Launch
from server.engine.ladder import Ladder
from server.engine.latency import LatencyTable
from server.engine.queues import ModelQueue, Waiting

BUDGET_WINDOW: Final = 128
BUDGET_MEMORY_NS: Final = 5_000_000_000  # what nobody has asked for this long says nothing of who comes next


@dataclass(frozen=True)
class PolicyConfig:
    """What the policy may assume.

    Attributes:
        max_batch: largest batch of one launch.
        guard_ns: from the end of a launch until its refinements are where the answer is written.
        nearly_as_good: a shorter launch is preferred while its gain per nanosecond is at least this share of
            the best.
        horizon: how far planning looks ahead, in typical budgets.
        fill: how much is planned for the device's time: whoever comes late in it can still be served after it.
        efficient: a batch of first rungs need not grow once it uses the device so well, as a share of the best batch.
        alone: share of the device that first rungs one by one may take before they wait for each other.
    """

    max_batch: int = 32
    guard_ns: int = 300_000
    nearly_as_good: float = 0.95
    horizon: float = 1.0
    fill: float = 1.1
    efficient: float = 0.9
    alone: float = 0.25


@dataclass
class State:
    """All that the policy remembers. Use `new_state`; only `step` changes it."""

    config: PolicyConfig
    models: dict[str, ModelQueue]
    jobs: dict[Key, Waiting] = field(default_factory=dict)
    outstanding: Launch | None = None
    began_ns: int = 0  # when the last launch was ordered
    busy_until_ns: int = 0
    ended_ns: int = 0  # who could not wait for the device until then has been ended
    landed_ns: int = (
        0  # when a launch would have ended that began when it was ordered; 0 if nobody waited then
    )
    worked_ns: int = 0  # when there was a job last
    launches: int = 0
    arrivals: int = 0
    budgets: deque[int] = field(default_factory=deque)  # of recent arrivals, oldest first
    came_ns: deque[int] = field(default_factory=deque)  # when those came
    in_order: list[int] = field(default_factory=list)  # those budgets, shortest first; empty where not known
    pressed: bool = False
    crowded: bool = False
    secure_ns: int = (
        0  # a time before which the device need not turn to the unanswered; 0 where none is known
    )
    price_place: int = 0  # in prices.GRID, of the last decision
    below: float = 0.0  # how much of a decision at the price below is due

    @property
    def first_only(self) -> bool:
        """Whether the device's time is wanted for something better than rungs beyond the first."""
        return self.pressed or self.crowded


def new_state(models: Mapping[str, tuple[Ladder, LatencyTable]], config: PolicyConfig) -> State:
    """A state without jobs for models given as {name@version: (ladder, latencies)}."""
    return State(config, {name: ModelQueue(*known, config.max_batch) for name, known in models.items()})


def count_arrival(state: State, queue: ModelQueue, job: Job, now_ns: int) -> None:
    """Remember that a job came, when, and with which budget: unless not even an idle device could have served it."""
    state.arrivals += 1
    budget_ns = job.deadline_ns - now_ns
    if budget_ns < queue.first_ns + state.config.guard_ns:
        return
    queue.rates.count(now_ns)
    state.budgets.append(budget_ns)
    state.came_ns.append(now_ns)
    while len(state.budgets) > BUDGET_WINDOW or state.came_ns[0] < now_ns - BUDGET_MEMORY_NS:
        state.budgets.popleft()
        state.came_ns.popleft()
    state.in_order.clear()


def sorted_budgets(state: State) -> list[int]:
    """The recent budgets, shortest first. Sorted when asked for: many jobs come between two decisions."""
    if not state.in_order:
        state.in_order = sorted(state.budgets)
    return state.in_order
