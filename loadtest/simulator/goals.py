"""The goals of the scheduler, each beside what was simulated.

Knows the goals and where in the findings each is answered; a goal without runs says so.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loadtest.simulator import grid
from loadtest.simulator.conditions import LONG, SHALLOWEST, Condition
from loadtest.simulator.findings import (
    Findings,
    Spread,
    bound_attained,
    bound_effective,
    effective,
)
from loadtest.simulator.grid import Section
from loadtest.simulator.limits import U1, U2
from loadtest.simulator.policies import BLIND, OURS
from loadtest.simulator.runs import CROWD

_EQUAL = 0.001  # attainments that differ by less are equal
ROUNDS = (1.5, 2.0, 3.0, 4.0)


@dataclass(frozen=True)
class Goal:
    """One line: `reached` is None where nothing was run, or where the figure is only told beside the goal."""

    device: str
    condition: str
    wanted: str
    measured: str
    reached: bool | None


def goals(findings: Findings, plan: Sequence[Section]) -> list[Goal]:
    """All of them, in the order of the issue."""
    found = [condition for section in plan for condition in section.conditions]
    conditions = findings.conditions(dict.fromkeys(found))
    return [
        *_attainments(findings, conditions),
        *_regrets(findings, conditions),
        *_with_confidence(findings, conditions),
        *_against_slackfit(findings, conditions),
        *_first_of_step(findings, conditions),
        *_deciding(findings, plan),
    ]


def _attainments(findings: Findings, conditions: Sequence[Condition]) -> Iterator[Goal]:
    for condition in conditions:
        if condition.of != SHALLOWEST or not findings.scores(condition, OURS):
            continue
        wanted = 0.99999 if condition.kind == "poisson" else 0.9995
        misses, offered = findings.pooled_misses(condition, OURS)
        share = 1 - misses / offered
        bound = findings.bound(condition, U2, bound_attained).mean
        beside = "" if math.isnan(bound) else f"; the bound reaches {100 * bound:.4f} %"
        yield Goal(
            condition.device,
            f"{condition.kind}, {condition.multiple:g}× of the shallowest stage's capacity, {condition.budget}",
            f"≥ {100 * wanted:g} % in time" if condition.budget_ms == LONG else "told beside",
            f"{100 * share:.4f} % ({misses} of {offered} missed{beside})",
            share >= wanted if _is_goal(condition) else None,
        )


def _is_goal(condition: Condition) -> bool:
    """50 ms outside recorded stalls; 10 ms and raw figures are told beside."""
    return condition.budget_ms == LONG and "stalls" not in condition.device


def _regrets(findings: Findings, conditions: Sequence[Condition]) -> Iterator[Goal]:
    for condition in conditions:
        wanted = {"poisson": 0.005, "gamma8": 0.010}.get(condition.kind)
        bound = findings.bound(condition, U1, bound_effective).mean
        own = findings.spread(condition, BLIND, effective).mean
        if wanted is None or math.isnan(bound) or math.isnan(own) or condition.budget_ms != LONG:
            continue
        yield Goal(
            condition.device,
            f"{condition.kind}, {condition.multiple:g}×, no use of confidence",
            f"regret to U1 ≤ {100 * wanted:g} points",
            f"{100 * (bound - own):.2f} points ({100 * own:.2f} % of {100 * bound:.2f} %)",
            bound - own <= wanted,
        )


def _with_confidence(findings: Findings, conditions: Sequence[Condition]) -> Iterator[Goal]:
    for condition in conditions:
        if condition.kind != "poisson" or condition.multiple not in ROUNDS or not _of_main(condition):
            continue
        own = findings.spread(condition, OURS, effective).mean
        first, second = (findings.bound(condition, name, bound_effective).mean for name in (U1, U2))
        if math.isnan(own) or math.isnan(second):
            continue
        above = math.isnan(first) or own > first
        yield Goal(
            condition.device,
            f"Poisson, {condition.multiple:g}× of the deepest stage's capacity, with confidence",
            "above U1; ≥ 98 % of U2",
            f"{100 * own:.2f} %; U1 {100 * first:.2f} %; {100 * own / second:.1f} % of U2 ({100 * second:.2f} %)",
            above and own >= 0.98 * second,
        )


def _of_main(condition: Condition) -> bool:
    return condition.of != SHALLOWEST and condition.budget_ms == LONG and "stalls" not in condition.device


def _against_slackfit(findings: Findings, conditions: Sequence[Condition]) -> Iterator[Goal]:
    for condition in conditions:
        if condition.kind != "poisson" or condition.multiple not in (0.5, *ROUNDS) or not _of_main(condition):
            continue
        own, other = (findings.spread(condition, name, effective).mean for name in (OURS, "slackfit"))
        missed, offered = findings.pooled_misses(condition, OURS)
        others_missed, _ = findings.pooled_misses(condition, "slackfit")
        if math.isnan(own) or math.isnan(other):
            continue
        equal = missed - others_missed <= _EQUAL * offered
        fewer = others_missed >= 10 * max(missed, 1)
        yield Goal(
            condition.device,
            f"Poisson, {condition.multiple:g}×, against SlackFit",
            "≥ 1 point more effective accuracy at equal attainment, or 10× fewer misses",
            f"{100 * (own - other):+.2f} points; misses {missed} against {others_missed} of {offered}",
            (equal and own - other >= 0.01) or fewer,
        )


def _first_of_step(findings: Findings, conditions: Sequence[Condition]) -> Iterator[Goal]:
    for condition in conditions:
        lines = [result.timeline for result in findings.of(condition, OURS) if result.timeline is not None]
        if not lines:
            continue
        first = Spread.of([line.first for line in lines])
        yield Goal(
            condition.device,
            "step 0.5× → 5×, the first 100 ms",
            "≥ 99.9 % in time",
            f"{100 * first.mean:.3f} % (lowest seed {100 * first.low:.3f} %)",
            first.mean >= 0.999,
        )


def _deciding(findings: Findings, plan: Sequence[Section]) -> Iterator[Goal]:
    for condition in [c for section in plan if section.name == grid.CROWDED for c in section.conditions]:
        found = [r.crowded_us for r in findings.of(condition, OURS) if not math.isnan(r.crowded_us[1])]
        if not findings.scores(condition, OURS):
            continue
        if not found:
            yield Goal(condition.device, "deciding", "p99 ≤ 150 µs", f"never {CROWD} jobs waited", None)
            continue
        middle, high = (Spread.of([times[k] for times in found]) for k in (0, 1))
        yield Goal(
            condition.device,
            f"deciding, {condition.multiple:g} requests/s, {CROWD} jobs or more in the engine",
            "p99 ≤ 150 µs a launch",
            f"p50 {middle.mean:.0f} µs, p99 {high.mean:.0f} µs",
            high.mean <= 150,
        )
