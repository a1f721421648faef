"""Pictures of summaries. Knows matplotlib and figures; measures nothing."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from loadtest.overload.bench import OverloadFigures
from loadtest.overload.rows import Load, Row, rate_of

_TITLE_WIDTH = 100  # characters that fit beside each other


def _by_load(figures: OverloadFigures) -> dict[Load, list[Row]]:
    loads = sorted({row.load for row in figures.rows}, key=lambda load: load.multiple)
    return {load: [row for row in figures.rows if row.load == load] for load in loads}


def _label(rows: Sequence[Row]) -> str:
    reached = np.mean([row.load.reached for row in rows])
    capped = f"\n(capped: {reached:.2f}×)" if any(row.load.capped for row in rows) else ""
    return f"{rows[0].load.multiple:g}×\n{rate_of(rows):.0f}/s{capped}"


def _draw_in_time(axes: Axes, figures: OverloadFigures, groups: dict[Load, list[Row]]) -> None:
    for stage in figures.model.stage_names:
        alone = {row.load: 100 * row.summary.attainment for row in figures.survey if row.pinned == stage}
        axes.plot(
            range(len(groups)), [alone[load] for load in groups], "s--", label=f"{stage} alone (survey)"
        )
    shares = [[100 * row.summary.attainment for row in rows] for rows in groups.values()]
    _draw_range(axes, range(len(groups)), shares, "anytime", "ko-")
    axes.set_ylim(0, 102)
    axes.set_ylabel("in time, % of all offered")
    axes.legend(loc="lower left")


def _draw_accuracy(axes: Axes, figures: OverloadFigures, groups: dict[Load, list[Row]]) -> None:
    loads = list(groups)
    right = [[100 * row.summary.effective_accuracy for row in rows] for rows in groups.values()]
    _draw_range(axes, range(len(groups)), right, "anytime", "ko-")
    for number, stage in enumerate(figures.model.stage_names):
        alone = {
            place: [
                100 * row.summary.effective_accuracy
                for row in figures.fixed
                if (row.pinned, row.load) == (stage, load)
            ]
            for place, load in enumerate(loads)
        }
        measured = {place: values for place, values in alone.items() if values}
        if measured:
            _draw_range(axes, list(measured), list(measured.values()), f"{stage} alone", f"C{number}s--")
    bounds = [[100 * row.bound for row in rows if row.bound is not None] for rows in groups.values()]
    if all(bounds):
        means = [float(np.mean(each)) for each in bounds]
        axes.plot(range(len(groups)), means, "_", color="0.4", markersize=20, label="bound U2")
    axes.set_ylabel("right and in time, % of all offered")
    axes.legend(loc="lower left")


def _draw_range(
    axes: Axes, places: Sequence[int], values: Sequence[Sequence[float]], label: str, fmt: str
) -> None:
    """Means with the lowest and highest seed."""
    means = np.array([np.mean(each) for each in values])
    low, high = np.array([min(each) for each in values]), np.array([max(each) for each in values])
    axes.errorbar(places, means, yerr=[means - low, high - means], fmt=fmt, capsize=4, label=label)


def _draw_mix(axes: Axes, groups: dict[Load, list[Row]], stages: Sequence[str]) -> None:
    bottom = np.zeros(len(groups))
    for stage in stages:
        shares = [_mean_share(rows, stage) for rows in groups.values()]
        axes.bar(np.arange(len(groups)), shares, bottom=bottom, label=stage)
        bottom += np.array(shares)
    axes.bar(
        np.arange(len(groups)),
        100 - bottom,
        bottom=bottom,
        color="0.85",
        label="refused or failed",
        hatch="//",
    )
    axes.set_ylabel("last rung of the answer, % of all offered")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.2), ncols=3, frameon=False)


def _mean_share(rows: Sequence[Row], stage: str) -> float:
    """Share of all offered requests that were answered with this last rung, in per cent."""
    shares = []
    for row in rows:
        figures = row.summary
        failed = figures.refused + figures.unanswered + figures.errors + figures.timed_out + figures.broken
        shares.append(figures.stage_mix.get(stage, 0.0) * (1 - failed))
    return float(100 * np.mean(shares))


def draw_overload(figures: OverloadFigures, path: Path) -> None:
    """In time, right and in time, and stage mix against load, as a PNG."""
    groups = _by_load(figures)
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _draw_in_time(left, figures, groups)
    _draw_accuracy(middle, figures, groups)
    _draw_mix(right, groups, figures.model.stage_names)
    for axes in (left, middle, right):
        axes.set_xticks(np.arange(len(groups)), [_label(rows) for rows in groups.values()])
        axes.set_xlabel("load: multiple of capacity, requests/s")
    reasons = "\n".join(
        textwrap.wrap("VOID: " + "; ".join(figures.void).replace(" %", "\u00a0%"), _TITLE_WIDTH)
    )
    void = reasons + "\n" if figures.void else ""
    figure.suptitle(f"{void}50 ms deadlines over HTTP, {figures.model.name}@{figures.model.version}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
