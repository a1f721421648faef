"""Deadlines of 50 ms under 0.5 to 3 times the capacity, over HTTP.

What is compared is measured in one block (blocks.py): for each seed every load with the scheduler free and pinned to
the stage, or stages, that were best there in a survey. Loads are capped at 80 % of the front-end ceiling, beyond which
HTTP judges only goodput; around it there are blocks of their own, and one with deadlines of 10 ms.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtest.capacity import CAPACITY_SHARE, CEILING_SHARE, DEADLINE_MS, Found
from loadtest.overload.blocks import Block, steady
from loadtest.overload.hindsight import Hindsight
from loadtest.overload.rows import CEILING_PART, Load, Row
from loadtest.published import Published
from loadtest.rig import CannotMeasure, Rig
from loadtest.servers import RunningServer
from loadtest.summary import in_time, right, summarise

MULTIPLES = (0.5, 1.0, 1.5, 3.0)
AROUND = (0.8, 1.0, 1.5, 3.0)  # of the ceiling; one sender cannot send ten times what the service can answer
TIGHT_MS = 10.0
TIGHT_MULTIPLE = 0.5
TIGHT_SEEDS = (1, 2, 3, 4, 5)
SURVEY_SEED, SURVEY_S = 0, 5.0
NEARLY_BEST = 0.005  # in effective accuracy
HOPELESS_MS, HOPELESS_SHARE = 0.5, 0.05
HOPELESS_AROUND = (0.4, 0.8)  # of the ceiling
REFUSALS = "anytime_refusal_seconds"


class NoCapacity(Exception):
    """There is no capacity to take multiples of."""


@dataclass(frozen=True)
class OverloadFigures:
    """Everything that `overload` measures.

    Attributes:
        null_ceiling: the front end's ceiling with an engine that computes nothing.
        survey: short runs pinned to each stage; they choose the stages of `blocks`.
        blocks: for each seed every load, free and pinned.
        tight: deadlines of 10 ms.
        around: for each seed loads around the front-end ceiling.
    """

    model: Published
    null_ceiling: Found
    survey: tuple[Row, ...]
    blocks: tuple[Block, ...]
    tight: Block
    around: tuple[Block, ...]

    @property
    def rows(self) -> tuple[Row, ...]:
        """Of the blocks, with the scheduler free."""
        return tuple(row for block in self.blocks for row in block.rows if not row.pinned)

    @property
    def fixed(self) -> tuple[Row, ...]:
        """Of the blocks, with the scheduler pinned."""
        return tuple(row for block in self.blocks for row in block.rows if row.pinned)

    @property
    def ceiling_rows(self) -> tuple[Row, ...]:
        """Around the ceiling."""
        return tuple(row for block in self.around for row in block.rows if not row.hopeless)

    @property
    def refusals(self) -> tuple[Row, ...]:
        """Below the ceiling, some requests with deadlines that nothing can meet."""
        return tuple(row for block in self.around for row in block.rows if row.hopeless)

    def every_block(self) -> tuple[Block, ...]:
        """In the order of their measurement."""
        return (*self.blocks, self.tight, *self.around)

    @property
    def void(self) -> tuple[str, ...]:
        """Reasons why the figures do not count; empty when they do."""
        measured = (*self.rows, *self.fixed, *self.tight.rows, *self.refusals)
        late_runs = sum(not row.summary.sender_kept_time for row in measured)
        reasons = [reason for block in self.every_block() for reason in block.void]
        return (*reasons, *([f"the sender stayed late in {late_runs} runs"] if late_runs else []))

    def worst_in_time(self, multiple: float) -> float:
        """The lowest attainment over the seeds at a multiple."""
        return min(row.summary.attainment for row in self.rows if row.load.multiple == multiple)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "model": f"{self.model.name}@{self.model.version}",
            "deadline_ms": DEADLINE_MS,
            "void": list(self.void),
            "null_engine_ceiling": self.null_ceiling.rate,
            "blocks": [block.to_json() for block in self.every_block()],
            "runs": [row.to_json() for row in self.rows],
            "pinned_runs": [row.to_json() for row in self.fixed],
            "survey_runs": [row.to_json() for row in self.survey],
            "runs_around_the_ceiling": [row.to_json() for row in self.ceiling_rows],
            "runs_with_hopeless_requests": [row.to_json() for row in self.refusals],
            "runs_with_10_ms": [row.to_json() for row in self.tight.rows],
        }


def bounded_load(multiple: float, capacity: float, ceiling: float) -> Load:
    """The multiple of capacity, or 80 % of the front-end ceiling if that is less; both in requests/s."""
    wanted, cap = multiple * capacity, CEILING_PART * ceiling
    rate = min(wanted, cap)
    if not rate > 0:
        raise NoCapacity(
            "no rate passed: the server answers too few in time even when hardly anything is asked"
        )
    return Load(multiple, rate, wanted > cap, rate / capacity)


@dataclass(frozen=True)
class Runner:
    """Measures loads, one run after the other."""

    rig: Rig
    ladder: tuple[str, ...]
    seconds: float
    hindsight: Hindsight | None
    survey: bool = False

    def row(
        self,
        server: RunningServer,
        load: Load,
        seed: int,
        deadline_ms: float = DEADLINE_MS,
        pinned: str = "",
        *,
        hopeless: bool = False,
    ) -> Row:
        """One run."""
        budgets_ms = some_hopeless(deadline_ms, seed) if hopeless else deadline_ms
        plan = self.rig.poisson_plan(server, load.rate, self.seconds, seed, budgets_ms)
        refusals = server.buckets(REFUSALS) if hopeless else {}
        before = server.cpu_ns()
        kind = "survey" if self.survey else "overload"
        name = [f"{kind}-{load.multiple:g}x", *(["ceiling"] if load.of_ceiling else []), pinned]
        name += [f"{deadline_ms:g}ms"] if deadline_ms != DEADLINE_MS else []
        name += ["hopeless"] if hopeless else []
        run = self.rig.measure(plan, "-".join(filter(None, [*name, f"seed{seed}"])), self.ladder)
        runs = 1 + run.facts["repeats"]
        spent = {
            role: (now - before[role]) / 1000 / (runs * len(plan)) for role, now in server.cpu_ns().items()
        }
        sound = in_time(run.records) & right(run.records)
        row = Row(load, seed, run.facts["repeats"], summarise(run), spent, pinned, hopeless, right=sound)
        if hopeless:
            return replace(row, refused_within_ms=within_ms(refusals, server.buckets(REFUSALS)))
        if self.hindsight is None or pinned:
            return row
        outside_us = sum(us for role, us in spent.items() if role != "engine")
        return replace(
            row,
            deepest=self.hindsight.deepest(run.records),
            bound=self.hindsight.bound(run.records, outside_us),
        )


def within_ms(before: Mapping[float, float], after: Mapping[float, float]) -> float | None:
    """The bound below which 99 % of what a histogram counted in between lies; None of nothing."""
    counted = {bound: count - before.get(bound, 0.0) for bound, count in after.items()}
    total = max(counted.values(), default=0.0)
    if not total:
        return None
    return 1000 * min(bound for bound, count in counted.items() if count >= 0.99 * total)


def bench_overload(
    rig: Rig,
    seeds: Sequence[int],
    seconds: float,
    multiples: Sequence[float] = MULTIPLES,
    hindsight: Hindsight | None = None,
) -> OverloadFigures:
    """A survey of the stages, then block after block.

    Raises CannotMeasure or NoCapacity where there is nothing to measure by.
    """
    model = rig.ladder()

    def find_capacity() -> Found:
        return rig.highest_rate(CAPACITY_SHARE, "capacity", pin_rung=len(model.rungs))

    def find_ceiling() -> Found:
        return rig.highest_rate(CEILING_SHARE, "ceiling", pin_rung=1)

    null_ceiling = _in_earnest(rig.highest_rate(CEILING_SHARE, "null-ceiling", backend="null"))
    ceiling, capacity = _in_earnest(find_ceiling()), _in_earnest(find_capacity())
    runner = Runner(rig, model.stage_names, seconds, hindsight)

    def load_at(found: Found, multiple: float) -> Load:
        # What the machine's speed does to the capacity it does to the ceiling.
        return bounded_load(multiple, found.rate, ceiling.rate * found.rate / max(capacity.rate, 1e-9))

    def loads_at(found: Found) -> list[Load]:
        return [load_at(found, multiple) for multiple in multiples]

    short = replace(runner, seconds=min(seconds, SURVEY_S), survey=True)
    survey = pinned_rows(short, dict.fromkeys(model.stage_names, loads_at(capacity)), SURVEY_SEED)
    best = loads_by_best_stage(survey)

    def loads_of(seed: int) -> Callable[[Found], tuple[Row, ...]]:
        return lambda found: (
            *free_rows(runner, loads_at(found), [seed]),
            *pinned_rows(runner, of_stages(best, loads_at(found)), seed),
        )

    def around(seed: int) -> Callable[[Found], tuple[Row, ...]]:
        return lambda found: (
            *free_rows(runner, loads_around(found, capacity, AROUND), [seed]),
            *free_rows(runner, loads_around(found, capacity, HOPELESS_AROUND), [seed], hopeless=True),
        )

    blocks = _chain("", "capacity", find_capacity, seeds, loads_of)
    tight = steady(
        f"{TIGHT_MS:g} ms",
        "capacity",
        find_capacity,
        lambda found: free_rows(runner, [load_at(found, TIGHT_MULTIPLE)], TIGHT_SEEDS, TIGHT_MS),
        blocks[-1].after,
    )
    by_ceiling = _chain("around the ceiling, ", "ceiling", find_ceiling, seeds, around)
    return OverloadFigures(model, null_ceiling, survey, blocks, tight, by_ceiling)


def _in_earnest(found: Found) -> Found:
    """What was found at the very beginning, where a machine that cannot measure is better refused."""
    if found.late:
        raise CannotMeasure(f"this machine is too busy to measure now: {found}")
    return found


def _chain(
    what: str,
    limit: str,
    search: Callable[[], Found],
    seeds: Sequence[int],
    measure: Callable[[int], Callable[[Found], tuple[Row, ...]]],
) -> tuple[Block, ...]:
    """A block for each seed; the limit after one is the limit before the next."""
    blocks: list[Block] = []
    for seed in seeds:
        before = blocks[-1].after if blocks else None
        blocks.append(steady(f"{what}seed {seed}", limit, search, measure(seed), before))
    return tuple(blocks)


def loads_around(ceiling: Found, capacity: Found, multiples: Sequence[float]) -> list[Load]:
    """Multiples of the ceiling."""
    if not ceiling.rate > 0:
        raise NoCapacity("no rate passed that is answered by the first stage alone")
    return [
        Load(
            multiple, multiple * ceiling.rate, False, multiple * ceiling.rate / capacity.rate, of_ceiling=True
        )
        for multiple in multiples
    ]


def free_rows(
    runner: Runner,
    loads: Sequence[Load],
    seeds: Sequence[int],
    deadline_ms: float = DEADLINE_MS,
    *,
    hopeless: bool = False,
) -> tuple[Row, ...]:
    """All loads with each seed, the scheduler free."""
    with runner.rig.server() as server:
        runner.rig.warm_up(server)
        return tuple(
            runner.row(server, load, seed, deadline_ms, hopeless=hopeless) for seed in seeds for load in loads
        )


def some_hopeless(deadline_ms: float, seed: int) -> Callable[[int], NDArray[np.float64]]:
    """Budgets of so many requests in ms: HOPELESS_MS for a share of them, the others as given."""
    random = np.random.default_rng([seed, 0x40BE])
    return lambda count: np.where(random.random(count) < HOPELESS_SHARE, HOPELESS_MS, deadline_ms)


def pinned_rows(runner: Runner, loads: Mapping[str, Sequence[Load]], seed: int) -> tuple[Row, ...]:
    """Loads by stage, each stage with a server of its own that is pinned to it."""
    rows: list[Row] = []
    for place, stage in enumerate(runner.ladder, 1):
        if stage in loads:
            with runner.rig.server(pin_rung=place) as server:
                runner.rig.warm_up(server)
                rows += [runner.row(server, load, seed, pinned=stage) for load in loads[stage]]
    return tuple(rows)


def loads_by_best_stage(survey: Sequence[Row]) -> dict[str, list[Load]]:
    """The loads at which a stage was the best to be pinned to, or so nearly that the survey is too short to tell."""
    found: dict[str, list[Load]] = {}
    for load in dict.fromkeys(row.load for row in survey):
        runs = [row for row in survey if row.load == load]
        best = max(row.summary.effective_accuracy for row in runs)
        for row in runs:
            if row.summary.effective_accuracy >= best - NEARLY_BEST:
                found.setdefault(row.pinned, []).append(load)
    return found


def of_stages(best: Mapping[str, Sequence[Load]], loads: Sequence[Load]) -> dict[str, list[Load]]:
    """The same loads by stage, at the rates that they have now."""
    return {stage: [load for load in loads if load in chosen] for stage, chosen in best.items()}
