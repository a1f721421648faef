"""Deadlines of 50 ms under 0.5 to 3 times the capacity, over HTTP.

Capacity, front-end ceiling and null-engine ceiling are measured before and after; loads are capped at 80 %
of the ceiling, beyond which HTTP judges only goodput.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from loadtest.capacity import CAPACITY_SHARE, CEILING_SHARE, DEADLINE_MS, MAX_DRIFT, Found, drift, drifted
from loadtest.published import Published
from loadtest.rig import Rig
from loadtest.summary import Summary, summarise
from loadtest.tables import FIGURES, figures_row, markdown, milliseconds, percent

MULTIPLES = (0.5, 1.0, 1.5, 3.0)
CEILING_PART = 0.8
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
class Load:
    """A multiple of capacity, the rate that was really offered, and whether the ceiling is what bounds it.

    `reached` is the multiple that the rate amounts to.
    """

    multiple: float
    rate: float
    capped: bool
    reached: float

    def __str__(self) -> str:
        if not self.capped:
            return f"{self.multiple:g}×, bound by the multiple"
        return f"{self.multiple:g}×, bound by {CEILING_PART:.0%} of the ceiling: {self.reached:.2f}×"


@dataclass(frozen=True)
class Row:
    """One measured run."""

    load: Load
    seed: int
    repeats: int
    summary: Summary
    cpu_us: dict[str, float]  # per offered request, by role


@dataclass(frozen=True)
class OverloadFigures:
    """Everything that `overload` measures."""

    model: Published
    before: Limits
    after: Limits
    rows: tuple[Row, ...]

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
        late_runs = sum(not row.summary.sender_kept_time for row in self.rows)
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
            "runs": [
                {
                    "multiple": row.load.multiple,
                    "rate": row.load.rate,
                    "capped": row.load.capped,
                    "reached": row.load.reached,
                    "seed": row.seed,
                    "repeats": row.repeats,
                    "cpu_us_per_request": row.cpu_us,
                    **row.summary.to_json(),
                }
                for row in self.rows
            ],
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


def _measure_loads(
    rig: Rig, loads: Sequence[Load], seeds: Sequence[int], seconds: float, ladder: tuple[str, ...]
) -> list[Row]:
    rows = []
    with rig.server() as server:
        rig.warm_up(server)
        # Seeds outside: a machine that slows down then hurts all loads alike.
        for seed in seeds:
            for load in loads:
                plan = rig.poisson_plan(server, load.rate, seconds, seed, DEADLINE_MS)
                before = server.cpu_ns()
                run = rig.measure(plan, f"overload-{load.multiple:g}x-seed{seed}", ladder)
                runs = 1 + run.facts["repeats"]
                spent = {
                    role: (now - before[role]) / 1000 / (runs * len(plan))
                    for role, now in server.cpu_ns().items()
                }
                rows.append(Row(load, seed, run.facts["repeats"], summarise(run), spent))
    return rows


def bench_overload(
    rig: Rig, seeds: Sequence[int], seconds: float, multiples: Sequence[float] = MULTIPLES
) -> OverloadFigures:
    """Limits, every load with every seed, limits again.

    Raises SenderLate or NoCapacity where there is nothing to measure by.
    """
    model = rig.ladder()
    before = measure_limits(rig, len(model.rungs), "before")
    loads = [bounded_load(multiple, before) for multiple in multiples]
    rows = _measure_loads(rig, loads, seeds, seconds, model.stage_names)
    after = measure_limits(rig, len(model.rungs), "after")
    return OverloadFigures(model, before, after, tuple(rows))


def _limits_table(figures: OverloadFigures) -> str:
    before, after = figures.before.rates(), figures.after.rates()
    rows = [
        [name, f"{before[name]:.0f}", f"{after[name]:.0f}", percent(drift(before[name], after[name]), 1)]
        for name in before
    ]
    return markdown(("Requests/s", "Before", "After", "Drift"), rows)


def _means_table(figures: OverloadFigures) -> str:
    rows = []
    for load in dict.fromkeys(row.load for row in figures.rows):
        runs = [row for row in figures.rows if row.load == load]
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


def render(figures: OverloadFigures) -> str:
    """The report as Markdown."""
    top = max(row.load.multiple for row in figures.rows)
    worst = figures.worst_in_time(top)
    verdict = "holds" if worst >= PUNCTUAL_BOUND else "**does not hold**"
    if figures.void:
        verdict = "void"
    void = [f"**VOID: {reason}.**" for reason in figures.void]
    rows = [figures_row(str(row.load), str(row.seed), row.summary, row.repeats) for row in figures.rows]
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
        _means_table(figures),
        "",
        (
            f"At {top:g}× or 80 % of the ceiling the worst seed has {percent(worst)} in time; "
            f"at least {percent(PUNCTUAL_BOUND, 0)}: {verdict}."
        ),
        "",
        "Every run:",
        "",
        markdown(FIGURES, rows),
    ]
    return "\n".join(lines)
