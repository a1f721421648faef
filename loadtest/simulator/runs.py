"""Runs tasks, one after the other or in processes, and shows how far they are.

Knows how a task becomes a result; must not know which tasks there are nor what their results mean.
"""

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from loadtest.bounds import Bound
from loadtest.simulator import policies
from loadtest.simulator.conditions import STEP_AT_S, STEP_SECONDS, Condition, capacity_for, offered
from loadtest.simulator.limits import limits
from loadtest.simulator.offered import Offered
from loadtest.simulator.scores import Scores, deepest_rung, score
from loadtest.simulator.setup import Setup
from loadtest.simulator.world import BrokenSchedule, Journal, simulate

BOUNDS = "bounds"
BIN_S = 0.02
FIRST_S = 0.1
CROWD = 256

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Task:
    """One condition, one seed, and a policy's name or BOUNDS; `exact` asks for U1, which takes its time."""

    condition: Condition
    policy: str
    seed: int
    exact: bool = False


@dataclass(frozen=True)
class Timeline:
    """Of a step: share of all that arrived in each bin of BIN_S by deepest rung, and what had none; [bins, rungs + 1].

    `first` is the attainment of those that arrived in the FIRST_S after the step.
    """

    shares: NDArray[np.float64]
    first: float


@dataclass(frozen=True)
class Result:
    """Of a policy its scores (of a step also its timeline), of BOUNDS the bounds.

    `crowded_us`: p50 and p99 of its decisions with CROWD jobs or more in the engine; NaN without any.
    """

    task: Task
    scores: Scores | None = None
    bounds: dict[str, Bound] | None = None
    timeline: Timeline | None = None
    crowded_us: tuple[float, float] = (float("nan"), float("nan"))


def run(setup: Setup, task: Task) -> Result:
    """One task. Raises UnknownPolicy, BrokenSchedule, or ValueError where its trace is missing."""
    condition = task.condition
    device = setup.devices[condition.device]
    capacity = capacity_for(condition, setup.capacities)
    what = offered(condition, capacity, setup.model.images, task.seed, setup.trace)
    if task.policy == BOUNDS:
        exact = task.exact and condition.equal_budgets
        return Result(task, bounds=limits(setup.model, device, what, setup.costs, exact=exact))
    scheduler = policies.make(task.policy, setup.model, device)
    try:
        journal = simulate(scheduler, setup.model, device, what, seed=task.seed, costs=setup.costs)
    except BrokenSchedule as error:
        raise BrokenSchedule(f"{task.policy}, {condition}, seed {task.seed}: {error}") from error
    timeline = _timeline(journal, what, len(setup.model.stages)) if condition.kind == "step" else None
    crowded = journal.decision_ns[journal.waiting >= CROWD] / 1e3
    crowded_us = (
        tuple(float(v) for v in np.percentile(crowded, (50, 99))) if len(crowded) else (np.nan, np.nan)
    )
    return Result(task, score(journal, what, setup.model), None, timeline, crowded_us)  # type: ignore[arg-type]


def run_all(
    make_setup: Callable[[], Setup], setup: Setup, tasks: Sequence[Task], processes: int, say: Progress
) -> list[Result]:
    """All tasks, in their order; with more than one process each makes a setup of its own."""
    if processes <= 1:
        return _collected(map(partial(run, setup), tasks), len(tasks), say)
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _begin, (make_setup,)) as pool:
        return _collected(pool.imap(_run_here, tasks, chunksize=1), len(tasks), say)


def _collected(results: Iterable[Result], total: int, say: Progress) -> list[Result]:
    found = []
    for result in results:
        found.append(result)
        say("simulating", len(found), total)
    return found


class _Here:
    """The setup of a worker process."""

    setup: Setup


def _begin(make_setup: Callable[[], Setup]) -> None:
    _Here.setup = make_setup()


def _run_here(task: Task) -> Result:
    return run(_Here.setup, task)


def _timeline(journal: Journal, what: Offered, stages: int) -> Timeline:
    bins = round(STEP_SECONDS / BIN_S)
    place = np.minimum((what.arrivals_ns / (BIN_S * 1e9)).astype(np.int64), bins - 1)
    rung = deepest_rung(journal.mask)
    counts = np.zeros((bins, stages + 1))
    np.add.at(counts, (place, np.where(rung < 0, stages, rung)), 1)
    at_ns = STEP_AT_S * 1e9
    first = (what.arrivals_ns >= at_ns) & (what.arrivals_ns < at_ns + FIRST_S * 1e9)
    share = float((journal.mask[first] > 0).mean()) if first.any() else float("nan")
    return Timeline(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1), share)
