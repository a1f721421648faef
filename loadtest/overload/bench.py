"""Deadlines of 50 ms under 0.5 to 3 times the capacity, over HTTP.

Capacity, front-end ceiling and null-engine ceiling are measured before and after; loads are capped at 80 %
of the ceiling, beyond which HTTP judges only goodput. Beside them: the same loads with the scheduler pinned to each
stage, loads above the ceiling, and deadlines of 10 ms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from loadtest.capacity import CAPACITY_SHARE, CEILING_SHARE, DEADLINE_MS, MAX_DRIFT, Found, drift, drifted
from loadtest.overload.goals import goals
from loadtest.overload.goals import table as goal_table
from loadtest.overload.hindsight import Hindsight
from loadtest.overload.rows import CEILING_PART, Load, Row
from loadtest.published import Published
from loadtest.rig import Rig
from loadtest.servers import RunningServer
from loadtest.summary import in_time, right, summarise
from loadtest.tables import FIGURES, figures_row, markdown, milliseconds, percent

MULTIPLES = (0.5, 1.0, 1.5, 3.0)
BEYOND = (0.8, 1.0, 1.5, 3.0)  # of the ceiling; one sender cannot send ten times what the service can answer
TIGHT_MS = 10.0
TIGHT_MULTIPLE = 0.5
TIGHT_SEEDS = (1, 2, 3, 4, 5)
PUNCTUAL_BOUND = 0.95


class NoCapacity(Exception):
    """There is no capacity to take multiples of."""


@dataclass(frozen=True)
class Limits:
    """Requests per second: with the server pinned to the last rung, to the first, and with a null engine."""

    capacity: Found
    ceiling: Found
    null_ceiling: Found

    def found(self) -> tuple[Found, ...]:
        """In the order of rates()."""
        return self.capacity, self.ceiling, self.null_ceiling

    def rates(self) -> dict[str, float]:
        """By the names that reports use."""
        return {
            "capacity": self.capacity.rate,
            "front-end ceiling": self.ceiling.rate,
            "null-engine ceiling": self.null_ceiling.rate,
        }


@dataclass(frozen=True)
class OverloadFigures:
    """Everything that `overload` measures."""

    model: Published
    before: Limits
    after: Limits
    rows: tuple[Row, ...]
    fixed: tuple[Row, ...] = ()
    beyond: tuple[Row, ...] = ()
    tight: tuple[Row, ...] = ()

    @property
    def void(self) -> tuple[str, ...]:
        """Reasons why the figures do not count; empty when they do."""
        pairs = zip(self.before.rates().items(), self.after.rates().values(), strict=True)
        reasons = [
            f"{name} drifted by {percent(drift(early, late), 1)}, more than {percent(MAX_DRIFT, 0)}"
            for (name, early), late in pairs
            if drifted(early, late)
        ]
        reasons += [
            f"the {name} was not bracketed: {found}"
            for limits in (self.before, self.after)
            for name, found in zip(limits.rates(), limits.found(), strict=True)
            if not found.bracketed
        ]
        measured = (*self.rows, *self.fixed, *self.tight)
        late_runs = sum(not row.summary.sender_kept_time for row in measured)
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
            "before": self.before.rates(),
            "after": self.after.rates(),
            "probes": {
                "before": {"capacity": self.before.capacity.probes, "ceiling": self.before.ceiling.probes},
                "after": {"capacity": self.after.capacity.probes, "ceiling": self.after.ceiling.probes},
            },
            "runs": [row.to_json() for row in self.rows],
            "pinned_runs": [row.to_json() for row in self.fixed],
            "runs_beyond_the_ceiling": [row.to_json() for row in self.beyond],
            "runs_with_10_ms": [row.to_json() for row in self.tight],
        }


def bounded_load(multiple: float, limits: Limits) -> Load:
    """The multiple of capacity, or 80 % of the front-end ceiling if that is less."""
    wanted, cap = multiple * limits.capacity.rate, CEILING_PART * limits.ceiling.rate
    rate = min(wanted, cap)
    if not rate > 0:
        raise NoCapacity(
            "no rate passed: the server answers too few in time even when hardly anything is asked"
        )
    return Load(multiple, rate, wanted > cap, rate / limits.capacity.rate)


def measure_limits(rig: Rig, rungs: int, when: str) -> Limits:
    """All three limits, each with a server of its own."""
    return Limits(
        rig.highest_rate(CAPACITY_SHARE, f"capacity-{when}", pin_rung=rungs),
        rig.highest_rate(CEILING_SHARE, f"ceiling-{when}", pin_rung=1),
        rig.highest_rate(CEILING_SHARE, f"null-ceiling-{when}", backend="null"),
    )


@dataclass(frozen=True)
class Runner:
    """Measures loads, one run after the other."""

    rig: Rig
    ladder: tuple[str, ...]
    seconds: float
    hindsight: Hindsight | None

    def rows(
        self,
        server: RunningServer,
        loads: Sequence[Load],
        seeds: Sequence[int],
        deadline_ms: float = DEADLINE_MS,
        pinned: str = "",
    ) -> tuple[Row, ...]:
        """Seeds outside: a machine that slows down then hurts all loads alike."""
        return tuple(self._row(server, load, seed, deadline_ms, pinned) for seed in seeds for load in loads)

    def _row(self, server: RunningServer, load: Load, seed: int, deadline_ms: float, pinned: str) -> Row:
        plan = self.rig.poisson_plan(server, load.rate, self.seconds, seed, deadline_ms)
        before = server.cpu_ns()
        name = [f"overload-{load.multiple:g}x", *(["ceiling"] if load.of_ceiling else []), pinned]
        name += [f"{deadline_ms:g}ms"] if deadline_ms != DEADLINE_MS else []
        run = self.rig.measure(plan, "-".join(filter(None, [*name, f"seed{seed}"])), self.ladder)
        runs = 1 + run.facts["repeats"]
        spent = {
            role: (now - before[role]) / 1000 / (runs * len(plan)) for role, now in server.cpu_ns().items()
        }
        sound = in_time(run.records) & right(run.records)
        row = Row(load, seed, run.facts["repeats"], summarise(run), spent, pinned, right=sound)
        if self.hindsight is None or pinned:
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
    """Limits, every load with every seed, what stands beside them, limits again.

    The scheduler is pinned to each stage with the first seed, and with the others to the one that was best at a load.

    Raises SenderLate or NoCapacity where there is nothing to measure by.
    """
    model = rig.ladder()
    before = measure_limits(rig, len(model.rungs), "before")
    loads = [bounded_load(multiple, before) for multiple in multiples]
    runner = Runner(rig, model.stage_names, seconds, hindsight)
    above = [
        Load(
            m, m * before.ceiling.rate, False, m * before.ceiling.rate / before.capacity.rate, of_ceiling=True
        )
        for m in BEYOND
    ]
    with rig.server() as server:
        rig.warm_up(server)
        rows = runner.rows(server, loads, seeds)
        tight = runner.rows(server, [bounded_load(TIGHT_MULTIPLE, before)], TIGHT_SEEDS, TIGHT_MS)
        beyond = runner.rows(server, above, seeds)
    fixed = pinned_rows(rig, runner, dict.fromkeys(model.stage_names, loads), seeds[:1])
    if seeds[1:]:
        fixed += pinned_rows(rig, runner, loads_by_best_stage(fixed), seeds[1:])
    after = measure_limits(rig, len(model.rungs), "after")
    return OverloadFigures(model, before, after, rows, fixed, beyond, tight)


def pinned_rows(
    rig: Rig, runner: Runner, loads: Mapping[str, Sequence[Load]], seeds: Sequence[int]
) -> tuple[Row, ...]:
    """Loads by stage, each stage with a server of its own that is pinned to it."""
    rows: list[Row] = []
    for place, stage in enumerate(runner.ladder, 1):
        if stage in loads:
            with rig.server(pin_rung=place) as server:
                rig.warm_up(server)
                rows += runner.rows(server, loads[stage], seeds, pinned=stage)
    return tuple(rows)


def loads_by_best_stage(fixed: Sequence[Row]) -> dict[str, list[Load]]:
    """The loads at which a stage was the best to be pinned to."""
    found: dict[str, list[Load]] = {}
    for load in dict.fromkeys(row.load for row in fixed):
        best = max((row for row in fixed if row.load == load), key=lambda row: row.summary.effective_accuracy)
        found.setdefault(best.pinned, []).append(load)
    return found


def _limits_table(figures: OverloadFigures) -> str:
    before, after = figures.before.rates(), figures.after.rates()
    rows = [
        [name, f"{before[name]:.0f}", f"{after[name]:.0f}", percent(drift(before[name], after[name]), 1)]
        for name in before
    ]
    return markdown(("Requests/s", "Before", "After", "Drift"), rows)


def _means_table(measured: Sequence[Row]) -> str:
    rows = []
    for load in dict.fromkeys(row.load for row in measured):
        runs = [row for row in measured if row.load == load]
        cells = [str(load), f"{load.rate:.0f}"]
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


def _fixed_table(figures: OverloadFigures) -> str:
    """Effective accuracy (share in time) by load, free and pinned, with the first seed."""
    seed = figures.rows[0].seed
    stages = figures.model.stage_names
    rows = []
    for load in dict.fromkeys(row.load for row in figures.rows):
        cells = [str(load), f"{load.rate:.0f}"]
        for pinned in ("", *stages):
            runs = [
                r
                for r in (*figures.rows, *figures.fixed)
                if (r.load, r.seed, r.pinned) == (load, seed, pinned)
            ]
            told = [
                f"{percent(r.summary.effective_accuracy)} ({percent(r.summary.attainment)})" for r in runs
            ]
            cells.append(told[0] if told else "–")
        bounds = [r.bound for r in figures.rows if (r.load, r.seed) == (load, seed) and r.bound is not None]
        cells.append(percent(bounds[0]) if bounds else "–")
        rows.append(cells)
    return markdown(("Load", "Requests/s", "Anytime", *(f"{s} only" for s in stages), "Bound U2"), rows)


def _title(row: Row, figures: OverloadFigures) -> str:
    only = f", {row.pinned} only" if row.pinned else ""
    return f"{row.load}{only}{f', {TIGHT_MS:g} ms' if row in figures.tight else ''}"


def _beside(figures: OverloadFigures) -> list[str]:
    """The parts that stand beside the loads."""
    parts = []
    if figures.fixed:
        parts += [
            "",
            (
                "Pinned to one stage, same server, first seed: effective accuracy (in time). The bound is U2 with the "
                "measured CPU time of front end and supervisor charged to the same core:"
            ),
            "",
            _fixed_table(figures),
        ]
    if figures.beyond:
        parts += ["", "At and beyond the front end's ceiling:", "", _means_table(figures.beyond)]
    if figures.tight:
        parts += ["", f"Deadlines of {TIGHT_MS:g} ms:", "", _means_table(figures.tight)]
    return parts


def render(figures: OverloadFigures) -> str:
    """The report as Markdown."""
    top = max(row.load.multiple for row in figures.rows)
    worst = figures.worst_in_time(top)
    verdict = "holds" if worst >= PUNCTUAL_BOUND else "**does not hold**"
    if figures.void:
        verdict = "void"
    void = [f"**VOID: {reason}.**" for reason in figures.void]
    every = (*figures.rows, *figures.fixed, *figures.beyond, *figures.tight)
    rows = [figures_row(_title(row, figures), str(row.seed), row.summary, row.repeats) for row in every]
    lines = [
        *void,
        *([""] if void else []),
        (
            f"Model {figures.model.name}@{figures.model.version}, ladder {', '.join(figures.model.stage_names)}; "
            f"deadline {DEADLINE_MS:.0f} ms; Poisson arrivals for "
            f"{figures.rows[0].summary.seconds:g} s a run; shares are of all offered requests."
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
        goal_table(goals(figures.rows, figures.fixed, figures.beyond, figures.tight)),
        *_beside(figures),
        "",
        "Every run:",
        "",
        markdown(FIGURES, rows),
    ]
    return "\n".join(lines)
