"""Which conditions are simulated with which policies. Knows the plan of the bench; runs nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from loadtest.simulator import policies
from loadtest.simulator.conditions import ABSOLUTE, DEEPEST, LONG, MIXED, SHALLOWEST, SHORT, Condition
from loadtest.simulator.runs import BOUNDS, Task
from loadtest.simulator.setup import CPU, CPU_RAW, GPU

LOADS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 8.0, 10.0)
QUICK_LOADS = (0.5, 1.5, 4.0)
BUDGET_LOADS = (0.5, 1.5, 3.0, 5.0)
BURSTS = ("gamma2", "gamma4", "gamma8", "mmpp2", "ramp")
TRACES = ("trace-faster", "trace-copies")
BURST_LOADS = (0.5, 1.5, 3.0)
BUDGETS_MS = (5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
DEADLINE_LOAD = 2.0
CROWD_RATE = 10_000.0

MAIN, BUDGET, BURST, DEADLINES, STEP, GOAL, RAW, CROWDED = (
    *("load", "budget", "arrivals", "deadlines", "step", "goal", "raw", "crowded"),
)


@dataclass(frozen=True)
class Size:
    """How much is simulated: requests a run, requests of a run that counts misses in 100,000, seeds, loads."""

    requests: int
    goal_requests: int
    seeds: tuple[int, ...]
    loads: tuple[float, ...]
    quick: bool


FULL = Size(20_000, 400_000, (1, 2, 3), LOADS, quick=False)
QUICK = Size(1_000, 4_000, (1,), QUICK_LOADS, quick=True)


@dataclass(frozen=True)
class Section:
    """Conditions of one kind with the policies that meet them."""

    name: str
    conditions: tuple[Condition, ...]
    policies: tuple[str, ...]
    bounds: bool


def sections(size: Size, stages: Sequence[str], *, trace: bool, only: Sequence[str] = ()) -> list[Section]:
    """The whole plan. `only`: policies to which it is narrowed."""
    every = policies.names(stages)
    if size.quick:
        every = [name for name in every if not name.startswith(("clipper", "clockwork"))]
        every += [
            f"{family}:{stage}" for family in ("clipper", "clockwork") for stage in (stages[0], stages[-1])
        ]
    chosen = tuple(name for name in every if not only or name in only)
    few = tuple(name for name in chosen if not name.startswith(("clipper", "clockwork")))
    devices = (CPU, GPU)
    return [
        Section(MAIN, _all(devices, ["poisson"], [LONG], size.loads, size.requests), chosen, bounds=True),
        Section(GOAL, _goals(devices, size), _goal_policies(chosen), bounds=True),
        Section(STEP, _all(devices, ["step"], [LONG], [1.0], size.requests), few, bounds=False),
        *([] if size.quick else _wide(devices, size, chosen, trace=trace)),
        Section(DEADLINES, _deadlines(devices, size), few, bounds=False),
        Section(
            RAW, _all([CPU_RAW], ["poisson"], [LONG, SHORT], QUICK_LOADS, size.requests), few, bounds=False
        ),
        Section(CROWDED, _crowds(devices, size), _goal_policies(chosen)[:1], bounds=False),
    ]


def tasks_of(plan: Sequence[Section], size: Size) -> list[Task]:
    """Every section's conditions by policy and seed, each once."""
    found: dict[Task, None] = {}
    for section in plan:
        for condition in section.conditions:
            for seed in size.seeds:
                for policy in section.policies:
                    found[Task(condition, policy, seed)] = None
                if section.bounds:
                    found[Task(condition, BOUNDS, seed, exact=_exact(section, condition, size))] = None
    return list(found)


def _exact(section: Section, condition: Condition, size: Size) -> bool:
    """U1 takes a millisecond a request: where it is needed, and arrivals are few enough."""
    needed = section.name in {MAIN, GOAL} and condition.of == DEEPEST and condition.requests <= FULL.requests
    return needed and not (size.quick and condition.device == GPU)


def _all(
    devices: Sequence[str],
    kinds: Sequence[str],
    budgets: Sequence[tuple[float, float]],
    loads: Sequence[float],
    requests: int,
) -> tuple[Condition, ...]:
    return tuple(
        Condition(device, kind, budget, load, requests)
        for device in devices
        for kind in kinds
        for budget in budgets
        for load in loads
    )


def _wide(devices: Sequence[str], size: Size, chosen: tuple[str, ...], *, trace: bool) -> list[Section]:
    """What --quick leaves out: other budgets, other arrivals."""
    half = size.requests // 2
    kinds = (*BURSTS, *TRACES) if trace else BURSTS
    return [
        Section(BUDGET, _all(devices, ["poisson"], [SHORT, MIXED], BUDGET_LOADS, half), chosen, bounds=True),
        Section(BURST, _all(devices, kinds, [LONG], BURST_LOADS, half), chosen, bounds=True),
    ]


def _goals(devices: Sequence[str], size: Size) -> tuple[Condition, ...]:
    """Loads in terms of the shallowest rung, long enough to see misses; regrets on shorter ones."""
    many, few = size.goal_requests, size.requests
    found = []
    for device in devices:
        for budget in (LONG, SHORT):
            found += [Condition(device, "poisson", budget, 0.8, many, SHALLOWEST)]
            found += [Condition(device, "gamma8", budget, 0.5, many, SHALLOWEST)]
        found += [
            Condition(device, kind, LONG, load, few) for kind in ("poisson", "gamma8") for load in (1.5, 3.0)
        ]
    found += [Condition(CPU_RAW, "poisson", budget, 0.8, many, SHALLOWEST) for budget in (LONG, SHORT)]
    found += [Condition(CPU_RAW, "gamma8", budget, 0.5, many, SHALLOWEST) for budget in (LONG, SHORT)]
    return tuple(found)


def _goal_policies(chosen: tuple[str, ...]) -> tuple[str, ...]:
    wanted = (policies.OURS, policies.BLIND, "slackfit")
    return tuple(name for name in wanted if name in chosen)


def _deadlines(devices: Sequence[str], size: Size) -> tuple[Condition, ...]:
    budgets = [(ms, ms) for ms in BUDGETS_MS]
    return _all(devices, ["poisson"], budgets, [DEADLINE_LOAD], size.requests // 2)


def _crowds(devices: Sequence[str], size: Size) -> tuple[Condition, ...]:
    """For the cost of deciding: 10,000 requests/s with long budgets, so that hundreds wait."""
    return tuple(Condition(each, "poisson", MIXED, CROWD_RATE, size.requests, ABSOLUTE) for each in devices)


def narrowed(plan: Sequence[Section], devices: Sequence[str]) -> list[Section]:
    """The plan on some devices only; on all where none is named."""
    return [
        replace(
            section, conditions=tuple(c for c in section.conditions if not devices or c.device in devices)
        )
        for section in plan
    ]
