"""Pictures of findings. Knows matplotlib and figures; simulates nothing."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.bounds import Bound
from loadtest.simulator.conditions import STEP_AT_S, Condition
from loadtest.simulator.findings import (
    FAMILIES,
    Findings,
    attained,
    bound_attained,
    bound_effective,
    effective,
)
from loadtest.simulator.grid import DEADLINES, MAIN, STEP, Section
from loadtest.simulator.limits import U1, U1_PRIME, U2
from loadtest.simulator.policies import BLIND, OURS
from loadtest.simulator.runs import BIN_S
from loadtest.simulator.scores import Scores

_BOUND_STYLES = {U1: ":", U1_PRIME: "-.", U2: "--"}
_BELOW = 5.0


def draw(findings: Findings, plan: Sequence[Section], stages: Sequence[str], stem: Path) -> list[str]:
    """Writes <stem>-load.png, -deadline.png and -step.png beside each other; the names of those that were drawn."""
    by_name = {section.name: findings.conditions(section.conditions) for section in plan}
    makers: dict[str, tuple[str, Callable[[Findings, list[Condition]], Figure]]] = {
        "load": (MAIN, _against_load),
        "deadline": (DEADLINES, _against_deadline),
        "step": (STEP, lambda found, conditions: _through_step(found, conditions, stages)),
    }
    drawn = []
    for name, (section, maker) in makers.items():
        conditions = by_name.get(section, [])
        if conditions:
            path = stem.with_name(f"{stem.name}-{name}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            maker(findings, conditions).savefig(path, dpi=110)
            drawn.append(path.name)
    return drawn


def _devices(conditions: Sequence[Condition]) -> list[str]:
    return list(dict.fromkeys(condition.device for condition in conditions))


def _against_load(findings: Findings, conditions: list[Condition]) -> Figure:
    devices = _devices(conditions)
    figure = Figure(figsize=(13, 4.8 * len(devices)), layout="constrained")
    axes = figure.subplots(len(devices), 2, squeeze=False)
    for row, device in zip(axes, devices, strict=True):
        own = [condition for condition in conditions if condition.device == device]
        loads = [condition.multiple for condition in own]
        _draw_lines(row[0], findings, own, loads, effective, bound_effective)
        _draw_lines(row[1], findings, own, loads, attained, bound_attained)
        row[0].set_ylim(bottom=_floor(findings, own))
        row[0].set_ylabel(f"{device}: effective accuracy, %")
        row[1].set_ylabel(f"{device}: in time, %")
        for each in row:
            each.set_xlabel("load, multiple of the deepest stage's capacity")
            each.set_xscale("log")
            each.set_xticks(loads, [f"{load:g}" for load in loads])
            each.minorticks_off()
        row[1].legend(loc="lower left", fontsize=8)
    figure.suptitle(
        "Simulated, Poisson arrivals, 50 ms; of each family the best rung at each load. "
        "Lines that leave the accuracies below go on downwards."
    )
    return figure


def _floor(findings: Findings, conditions: Sequence[Condition]) -> float:
    """Percent, somewhat below our worst: beside a line that falls to 0 the others could not be told apart."""
    ours = [findings.spread(condition, OURS, effective).mean for condition in conditions]
    return 100 * float(np.nanmin(ours)) - _BELOW if not np.isnan(ours).all() else 0.0


def _against_deadline(findings: Findings, conditions: list[Condition]) -> Figure:
    devices = _devices(conditions)
    figure = Figure(figsize=(6.5 * len(devices), 4.8), layout="constrained")
    for axes, device in zip(figure.subplots(1, len(devices), squeeze=False)[0], devices, strict=True):
        own = [condition for condition in conditions if condition.device == device]
        budgets = [condition.budget_ms[0] for condition in own]
        _draw_lines(axes, findings, own, budgets, effective, bound_effective)
        axes.set_ylim(bottom=_floor(findings, own))
        axes.set_xscale("log")
        axes.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
        axes.minorticks_off()
        axes.set_xlabel("deadline, ms")
        axes.set_ylabel(f"{device}: effective accuracy, %")
        axes.legend(loc="lower right", fontsize=8)
    figure.suptitle(
        f"Simulated, Poisson arrivals at {conditions[0].multiple:g}× of the deepest stage's capacity. "
        "What is not seen is below."
    )
    return figure


def _draw_lines(
    axes: Axes,
    findings: Findings,
    conditions: Sequence[Condition],
    places: Sequence[float],
    figure: Callable[[Scores], float],
    of_bound: Callable[[Bound], float],
) -> None:
    for label, chosen in _lines(findings, conditions):
        spreads = [findings.spread(c, policy, figure) for c, policy in zip(conditions, chosen, strict=True)]
        means = np.array([spread.mean for spread in spreads])
        errors = [
            means - np.array([s.low for s in spreads]),
            np.array([s.high for s in spreads]) - means,
        ]
        width, order = (2.6, 5) if label == OURS else (1.2, 3)
        axes.errorbar(
            places, 100 * means, yerr=np.abs(100 * np.array(errors)), marker="o", markersize=3, capsize=2,
            linewidth=width, zorder=order, label=label,
        )  # fmt: skip
    for name, style in _BOUND_STYLES.items():
        values = [100 * findings.bound(condition, name, of_bound).mean for condition in conditions]
        if not np.isnan(values).all():
            axes.plot(places, values, style, color="black", label=f"bound {name}")
    axes.grid(alpha=0.3)


def _lines(findings: Findings, conditions: Sequence[Condition]) -> list[tuple[str, list[str]]]:
    """(Label, policy at each condition): whole-ladder schedulers by name, of each family the best rung."""
    first = findings.policies(conditions[0])
    whole = [
        (policy, [policy] * len(conditions)) for policy in first if ":" not in policy and policy != BLIND
    ]
    families = [(f"best {family}", [findings.best_of(c, family) for c in conditions]) for family in FAMILIES]
    return whole + [(label, chosen) for label, chosen in families if all(chosen)]


def _through_step(findings: Findings, conditions: list[Condition], stages: Sequence[str]) -> Figure:
    shown = [policy for policy in findings.policies(conditions[0]) if policy in {OURS, "slackfit"}]
    figure = Figure(figsize=(6.5 * len(shown), 3.8 * len(conditions)), layout="constrained")
    axes = figure.subplots(len(conditions), len(shown), squeeze=False)
    for row, condition in zip(axes, conditions, strict=True):
        for each, policy in zip(row, shown, strict=True):
            _draw_mix(each, findings, condition, policy, stages)
    axes[0][0].legend(loc="lower left", fontsize=8)
    figure.suptitle("Deepest rung of the answer by time of arrival: a step from 0.5× to 5×, 50 ms")
    return figure


def _draw_mix(
    axes: Axes, findings: Findings, condition: Condition, policy: str, stages: Sequence[str]
) -> None:
    lines = [
        result.timeline.shares for result in findings.of(condition, policy) if result.timeline is not None
    ]
    shares = 100 * np.mean(lines, axis=0)
    times_ms = 1000 * (np.arange(len(shares)) * BIN_S - STEP_AT_S)
    colours = [*[f"C{k}" for k in range(len(stages))], "0.85"]
    axes.stackplot(times_ms, shares.T, labels=[*stages, "not in time"], colors=colours, step="post")
    axes.axvline(0, color="black", linewidth=1)
    axes.set_xlim(times_ms[0], times_ms[-1])
    axes.set_ylim(0, 100)
    axes.set_xlabel("ms after the step")
    axes.set_ylabel(f"{condition.device}, {policy}: %")
