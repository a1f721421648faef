"""What the overload bench has measured, as Markdown: each goal beside its figure, means, and every run.

Knows figures and how they are written; measures nothing.
"""

from collections.abc import Sequence

import numpy as np

from loadtest.capacity import DEADLINE_MS
from loadtest.overload.bench import HOPELESS_MS, HOPELESS_SHARE, TIGHT_MS, OverloadFigures
from loadtest.overload.goals import goals
from loadtest.overload.goals import table as goal_table
from loadtest.overload.rows import Load, Row, rate_of
from loadtest.tables import FIGURES, figures_row, markdown, milliseconds, percent

PUNCTUAL_BOUND = 0.95


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
