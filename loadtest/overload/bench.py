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
from loadtest.overload.goals import goals
from loadtest.overload.goals import table as goal_table
from loadtest.overload.hindsight import Hindsight
from loadtest.overload.rows import CEILING_PART, Load, Row, rate_of
from loadtest.published import Published
from loadtest.rig import Rig
from loadtest.servers import RunningServer
from loadtest.summary import in_time, right, summarise
from loadtest.tables import FIGURES, figures_row, markdown, milliseconds, percent

MULTIPLES = (0.5, 1.0, 1.5, 3.0)
AROUND = (0.8, 1.0, 1.5, 3.0)  # of the ceiling; one sender cannot send ten times what the service can answer
TIGHT_MS = 10.0
TIGHT_MULTIPLE = 0.5
TIGHT_SEEDS = (1, 2, 3, 4, 5)
SURVEY_SEED, SURVEY_S = 0, 5.0
NEARLY_BEST = 0.005  # in effective accuracy
HOPELESS_MS, HOPELESS_SHARE = 0.5, 0.05
HOPELESS_AROUND = (0.4, 0.8)  # of the ceiling
PUNCTUAL_BOUND = 0.95


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
        measured = (*self.rows, *self.fixed, *self.tight.rows)
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
        if self.hindsight is None or pinned or hopeless:
            return row
        outside_us = sum(us for role, us in spent.items() if role != "engine")
        return replace(
            row,
            deepest=self.hindsight.deepest(run.records),
            bound=self.hindsight.bound(run.records, outside_us),
        )


def bench_overload(
    rig: Rig,
    seeds: Sequence[int],
    seconds: float,
    multiples: Sequence[float] = MULTIPLES,
    hindsight: Hindsight | None = None,
) -> OverloadFigures:
    """A survey of the stages, then block after block.

    Raises SenderLate or NoCapacity where there is nothing to measure by.
    """
    model = rig.ladder()

    def find_capacity() -> Found:
        return rig.highest_rate(CAPACITY_SHARE, "capacity", pin_rung=len(model.rungs))

    def find_ceiling() -> Found:
        return rig.highest_rate(CEILING_SHARE, "ceiling", pin_rung=1)

    null_ceiling = rig.highest_rate(CEILING_SHARE, "null-ceiling", backend="null")
    ceiling, capacity = find_ceiling(), find_capacity()
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
        best = max(_effective(row) for row in runs)
        for row in runs:
            if _effective(row) >= best - NEARLY_BEST:
                found.setdefault(row.pinned, []).append(load)
    return found


def of_stages(best: Mapping[str, Sequence[Load]], loads: Sequence[Load]) -> dict[str, list[Load]]:
    """The same loads by stage, at the rates that they have now."""
    return {stage: [load for load in loads if load in chosen] for stage, chosen in best.items()}


def _limits_table(figures: OverloadFigures) -> str:
    rows = [
        [
            block.name,
            block.limit,
            f"{block.before.rate:.0f}",
            f"{block.after.rate:.0f}",
            percent(block.drift, 1),
            str(block.repeats),
        ]
        for block in figures.every_block()
    ]
    header = ("Block", "Limit", "Requests/s before", "After", "Drift", "Measured in vain before")
    return markdown(header, rows)


def _means_table(measured: Sequence[Row]) -> str:
    rows = []
    for load in dict.fromkeys(row.load for row in measured):
        runs = [row for row in measured if row.load == load]
        cells = [_load_name(runs), _rates(runs)]
        for name in ("attainment", "effective_accuracy", "accuracy_in_time", "refused"):
            values = [getattr(row.summary, name) for row in runs]
            cells.append(
                f"{percent(float(np.mean(values)))} ({percent(min(values))} to {percent(max(values))})"
            )
        cells.append(milliseconds(max(row.summary.refusal_ms.p99 for row in runs)))
        roles = {role: np.mean([row.cpu_us[role] for row in runs]) for role in runs[0].cpu_us}
        cells.append(", ".join(f"{role} {value:.0f}" for role, value in roles.items()))
        rows.append(cells)
    header = ("Load", "Requests/s", "In time", "Effective accuracy", "Accuracy in time", "Refused")
    return markdown((*header, "Refusal ms p99, worst seed", "CPU µs a request"), rows)


def _load_name(rows: Sequence[Row]) -> str:
    """As bounded in any of the runs."""
    return str(max((row.load for row in rows), key=lambda load: load.capped))


def _rates(rows: Sequence[Row]) -> str:
    rates = [row.load.rate for row in rows]
    return f"{rate_of(rows):.0f} ({min(rates):.0f} to {max(rates):.0f})"


def _survey_table(figures: OverloadFigures) -> str:
    """Effective accuracy (share in time) by load and stage."""
    stages = figures.model.stage_names
    rows = []
    for load in dict.fromkeys(row.load for row in figures.survey):
        runs = {row.pinned: row for row in figures.survey if row.load == load}
        told = [f"{percent(_effective(runs[s]))} ({percent(runs[s].summary.attainment)})" for s in stages]
        rows.append([str(load), f"{rate_of(list(runs.values())):.0f}", *told])
    return markdown(("Load", "Requests/s", *(f"{stage} only" for stage in stages)), rows)


def _bounds_table(figures: OverloadFigures) -> str:
    """Effective accuracy by load, mean of the seeds: ours, the stage that was best alone, and the bound."""
    rows = []
    for load in dict.fromkeys(row.load for row in figures.rows):
        free = [row for row in figures.rows if row.load == load]
        bounds = [row.bound for row in free if row.bound is not None]
        cells = [_load_name(free), _rates(free), percent(float(np.mean([_effective(row) for row in free])))]
        cells.append("{} {}".format(*_best_alone(figures, load)))
        rows.append([*cells, percent(float(np.mean(bounds))) if bounds else "–"])
    return markdown(("Load", "Requests/s", "Anytime", "Best stage alone", "Bound U2"), rows)


def _best_alone(figures: OverloadFigures, load: Load) -> tuple[str, str]:
    """The stage with the highest mean over the seeds, and that."""
    by_stage: dict[str, list[float]] = {}
    for row in figures.fixed:
        if row.load == load:
            by_stage.setdefault(row.pinned, []).append(_effective(row))
    means = {stage: float(np.mean(values)) for stage, values in by_stage.items()}
    best = max(means, key=lambda stage: means[stage])
    return best, percent(means[best])


def _refusals_table(figures: OverloadFigures) -> str:
    rows = []
    for load in dict.fromkeys(row.load for row in figures.refusals):
        runs = [row for row in figures.refusals if row.load == load]
        refusals = [row.summary.refusal_ms for row in runs]
        told = [milliseconds(float(np.mean([getattr(r, name) for r in refusals]))) for name in ("p50", "p99")]
        refused = percent(float(np.mean([row.summary.refused for row in runs])))
        rows.append([str(load), _rates(runs), refused, *told, milliseconds(max(r.p99 for r in refusals))])
    header = ("Load", "Requests/s", "Refused", "ms p50, mean of the seeds", "ms p99", "ms p99, worst seed")
    return markdown(header, rows)


def _effective(row: Row) -> float:
    return row.summary.effective_accuracy


def _title(row: Row, figures: OverloadFigures) -> str:
    only = f", {row.pinned} only" if row.pinned else ""
    only += ", some hopeless" if row.hopeless else ""
    return f"{row.load}{only}{f', {TIGHT_MS:g} ms' if row in figures.tight.rows else ''}"


def _beside(figures: OverloadFigures) -> list[str]:
    """The parts that stand beside the loads."""
    return [
        (
            "Beside the stage that is best alone (same server, scheduler pinned to it, same seeds) and the bound U2 "
            "with the measured CPU time of front end and supervisor charged to the same core; effective accuracy:"
        ),
        "",
        _bounds_table(figures),
        "",
        (
            f"The survey that chose those stages, {figures.survey[0].summary.seconds:g} s a run: effective accuracy "
            "(in time):"
        ),
        "",
        _survey_table(figures),
        "",
        "Around the front end's ceiling:",
        "",
        _means_table(figures.ceiling_rows),
        "",
        (
            f"{percent(HOPELESS_SHARE, 0)} of the requests with {HOPELESS_MS:g} ms, which nothing can meet: how soon "
            "they are refused, from the intended send to the last byte at the client:"
        ),
        "",
        _refusals_table(figures),
        "",
        f"Deadlines of {TIGHT_MS:g} ms:",
        "",
        _means_table(figures.tight.rows),
    ]


def render(figures: OverloadFigures) -> str:
    """The report as Markdown."""
    top = max(row.load.multiple for row in figures.rows)
    worst = figures.worst_in_time(top)
    verdict = "holds" if worst >= PUNCTUAL_BOUND else "**does not hold**"
    if figures.void:
        verdict = "void"
    void = [f"**VOID: {reason}.**" for reason in figures.void]
    every = (
        *figures.rows,
        *figures.fixed,
        *figures.ceiling_rows,
        *figures.refusals,
        *figures.tight.rows,
    )
    rows = [figures_row(_title(row, figures), str(row.seed), row.summary, row.repeats) for row in every]
    lines = [
        *void,
        *([""] if void else []),
        (
            f"Model {figures.model.name}@{figures.model.version}, ladder {', '.join(figures.model.stage_names)}; "
            f"deadline {DEADLINE_MS:.0f} ms; Poisson arrivals for "
            f"{figures.rows[0].summary.seconds:g} s a run; shares are of all offered requests. Front-end ceiling with "
            f"an engine that computes nothing: {figures.null_ceiling.rate:.0f} requests/s. What is compared was "
            "measured in one block, between two searches for the limit that its loads are multiples of:"
        ),
        "",
        _limits_table(figures),
        "",
        "Mean over the seeds (lowest to highest):",
        "",
        _means_table(figures.rows),
        "",
        (
            f"At {top:g}× or 80 % of the ceiling the worst seed has {percent(worst)} in time; "
            f"at least {percent(PUNCTUAL_BOUND, 0)}: {verdict}."
        ),
        "",
        goal_table(
            goals(figures.rows, figures.fixed, figures.ceiling_rows, figures.tight.rows, figures.refusals)
        ),
        "",
        *_beside(figures),
        "",
        "Every run:",
        "",
        markdown(FIGURES, rows),
    ]
    return "\n".join(lines)
