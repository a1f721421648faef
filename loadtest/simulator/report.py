"""The report as Markdown. Knows how findings are written, not how they come about."""

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

from loadtest.simulator.conditions import Condition, rate_of
from loadtest.simulator.findings import (
    FAMILIES,
    Findings,
    Spread,
    bound_attained,
    bound_effective,
    effective,
)
from loadtest.simulator.goals import Goal
from loadtest.simulator.grid import Section, Size
from loadtest.simulator.limits import U1, U1_PRIME, U2, as_json
from loadtest.simulator.policies import OURS
from loadtest.simulator.runs import Result
from loadtest.simulator.scores import Scores
from loadtest.simulator.setup import Setup
from loadtest.tables import markdown

_COLUMNS = (
    *("Policy", "In time", "Effective accuracy", "Accuracy in time", "Refused", "Given up", "Late"),
    *("Lateness ms p50 / p99 / p99.9 / max", "Device µs a request", "Deciding µs p50 / p99", "Batch"),
    "Deepest rung of the answer",
)
_TITLES = {
    "load": "Against load: Poisson, 50 ms",
    "goal": "The goals' own conditions",
    "step": "A step from 0.5× to 5×",
    "budget": "Other budgets",
    "arrivals": "Other arrivals",
    "deadlines": "Accuracy against deadline",
    "raw": "Raw: with the recorded stalls of the machine",
    "crowded": "10,000 requests/s",
}


def render(
    command: str,
    setup: Setup,
    size: Size,
    plan: Sequence[Section],
    findings: Findings,
    reached: Sequence[Goal],
    pictures: Sequence[str],
    charge: str,
) -> str:
    """Everything, goals first."""
    parts = [
        f"Made by `{command}` on {time.strftime('%Y-%m-%d')}; generated, do not edit.",
        _basis(setup, size, charge),
        _capacities(setup),
        "## Goals",
        _goals(reached),
        "## Where a baseline is ahead",
        _behind(findings, plan),
        *(f"![{name}]({name})" for name in pictures),
    ]
    for section in plan:
        parts += [f"## {_TITLES[section.name]}", *_section(section, setup, findings)]
    return "\n\n".join(parts)


def to_json(setup: Setup, size: Size, findings: Findings, reached: Sequence[Goal]) -> dict[str, Any]:
    """Every run as JSON values."""
    return {
        "recording": dict(setup.recording.header),
        "capacities": {f"{device}, {of}": rate for (device, of), rate in setup.capacities.items()},
        "seeds": size.seeds,
        "goals": [goal.__dict__ for goal in reached],
        "runs": [_run_json(result) for result in findings.results],
    }


def _run_json(result: Result) -> dict[str, Any]:
    return {
        **result.task.condition.__dict__,
        "policy": result.task.policy,
        "seed": result.task.seed,
        **({} if result.scores is None else {"scores": result.scores.to_json()}),
        **({} if result.bounds is None else {"bounds": as_json(result.bounds)}),
        **({} if result.timeline is None else {"first_100_ms": result.timeline.first}),
    }


def _basis(setup: Setup, size: Size, charge: str) -> str:
    header = setup.recording.header
    images = setup.model.images
    return (
        f"Model {header['model']}, ladder {', '.join(setup.model.stages)}. CPU: launches drawn from samples recorded "
        f"on {header['date']} ({header['backend']}, {header['clock']} clock; {header['machine']}), by `"
        f"{header['command']}`. GPU-shaped: **synthetic**, measured on no GPU (loadtest/recordings/gpu_shaped.json). "
        f"Images uniformly from the {images} recorded ones, their answers and confidences as recorded. {charge} Seeds "
        f"{', '.join(map(str, size.seeds))}, the same for every policy; mean over seeds (of "
        f"lateness the worst seed's), in brackets lowest to highest. About {size.requests} requests a run "
        f"({size.goal_requests} where misses are counted in 100,000). Effective accuracy is right and in time over "
        "all offered; refused, given up and late count as wrong. Launches are drawn outside recorded "
        "stalls except where it says raw."
    )


def _capacities(setup: Setup) -> str:
    rows = [[device, of, f"{rate:.0f}"] for (device, of), rate in setup.capacities.items()]
    return markdown(("Device", "Stage", "Capacity, requests/s"), rows)


def _goals(reached: Sequence[Goal]) -> str:
    word = {True: "reached", False: "**not reached**", None: "–"}
    rows = [[g.device, g.condition, g.wanted, g.measured, word[g.reached]] for g in reached]
    return markdown(("Device", "Condition", "Goal", "Simulated", ""), rows)


def _behind(findings: Findings, plan: Sequence[Section]) -> str:
    """Every condition in which a baseline has more effective accuracy in the mean of the seeds, however little."""
    rows = []
    for condition in dict.fromkeys(c for section in plan for c in section.conditions):
        own = findings.spread(condition, OURS, effective)
        others = [p for p in findings.policies(condition) if not p.startswith(OURS)]
        if math.isnan(own.mean) or not others:
            continue
        best = max(others, key=lambda p: findings.spread(condition, p, effective).mean)
        ahead = findings.spread(condition, best, effective).mean - own.mean
        if ahead > 0:
            rows.append([_name(condition), best, f"{100 * ahead:.2f} points"])
    if not rows:
        return "In no condition that was run has a baseline more effective accuracy."
    return markdown(("Condition", "Baseline", "Ahead by"), rows)


def _name(condition: Condition) -> str:
    of = "" if condition.of == "deepest" else f" ({condition.of})"
    load = "" if condition.kind == "step" else f", {condition.multiple:g}×{of}"
    return f"{condition.device}: {condition.kind}{load}, {condition.budget}"


def _section(section: Section, setup: Setup, findings: Findings) -> list[str]:
    parts = []
    for condition in findings.conditions(section.conditions):
        rate = rate_of(condition, setup.capacities)
        parts.append(f"**{_name(condition)}**: {rate:.0f} requests/s")
        parts.append(_table(condition, findings, setup.model.stages))
    return parts or ["Not run."]


def _table(condition: Condition, findings: Findings, stages: Sequence[str]) -> str:
    rows = [_bound_row(condition, findings, name) for name in (U1, U1_PRIME, U2)]
    best = {findings.best_of(condition, family) for family in FAMILIES}
    for policy in findings.policies(condition):
        scores = findings.scores(condition, policy)
        mark = " (best of its kind)" if policy in best else ""
        rows.append([policy + mark, *_figures(scores, stages)])
    return markdown(_COLUMNS, [row for row in rows if row])


def _bound_row(condition: Condition, findings: Findings, name: str) -> list[str]:
    right = findings.bound(condition, name, bound_effective)
    if math.isnan(right.mean):
        return []
    answered = findings.bound(condition, name, bound_attained)
    return [f"*bound {name}*", _share(answered, 3), _share(right, 2), *([""] * (len(_COLUMNS) - 3))]


def _figures(scores: Sequence[Scores], stages: Sequence[str]) -> list[str]:
    def spread(figure: Callable[[Scores], float]) -> Spread:
        return Spread.of([figure(each) for each in scores])

    lateness = [max(values) for values in zip(*(s.lateness_ms for s in scores), strict=True)]
    deciding = [Spread.of([s.decision_us[k] for s in scores]).mean for k in (0, 1)]
    mix = [Spread.of([s.mix[k] for s in scores]).mean for k in range(len(stages))]
    return [
        _share(spread(lambda s: s.attainment), 3),
        _share(spread(lambda s: s.effective_accuracy), 2),
        f"{100 * spread(lambda s: s.accuracy_in_time).mean:.2f} %",
        f"{100 * spread(lambda s: s.refused).mean:.2f} %",
        f"{100 * spread(lambda s: s.expired).mean:.2f} %",
        f"{100 * spread(lambda s: s.late).mean:.3f} %",
        " / ".join("∞" if math.isinf(value) else f"{value:.2f}" for value in lateness),
        f"{spread(lambda s: s.device_us).mean:.0f}",
        " / ".join(f"{value:.0f}" for value in deciding),
        f"{spread(lambda s: s.batch).mean:.1f}",
        ", ".join(f"{name} {100 * share:.1f} %" for name, share in zip(stages, mix, strict=True)),
    ]


def _share(spread: Spread, digits: int) -> str:
    low, high = f"{100 * spread.low:.{digits}f}", f"{100 * spread.high:.{digits}f}"
    return f"{100 * spread.mean:.{digits}f} % ({low}–{high})"
