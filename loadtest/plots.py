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
_LINES = {
    "attainment": "in time",
    "effective_accuracy": "effective accuracy (right and in time)",
    "accuracy_in_time": "accuracy of what is in time",
}


def _by_load(figures: OverloadFigures) -> dict[Load, list[Row]]:
    loads = sorted({row.load for row in figures.rows}, key=lambda load: load.multiple)
    return {load: [row for row in figures.rows if row.load == load] for load in loads}


def _label(rows: Sequence[Row]) -> str:
    reached = np.mean([row.load.reached for row in rows])
    capped = f"\n(capped: {reached:.2f}×)" if any(row.load.capped for row in rows) else ""
    return f"{rows[0].load.multiple:g}×\n{rate_of(rows):.0f}/s{capped}"


def _draw_shares(axes: Axes, groups: dict[Load, list[Row]]) -> None:
    places = np.arange(len(groups))
    for name, label in _LINES.items():
        values = [[100 * getattr(row.summary, name) for row in rows] for rows in groups.values()]
        means = np.array([np.mean(v) for v in values])
        low, high = np.array([min(v) for v in values]), np.array([max(v) for v in values])
        axes.errorbar(places, means, yerr=[means - low, high - means], marker="o", capsize=4, label=label)
    axes.set_ylim(0, 102)
    axes.set_ylabel("% (mean, lowest and highest seed)")
    axes.legend(loc="lower left")


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
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=len(stages) + 1, frameon=False)


def _mean_share(rows: Sequence[Row], stage: str) -> float:
    """Share of all offered requests that were answered with this last rung, in per cent."""
    shares = []
    for row in rows:
        figures = row.summary
        failed = figures.refused + figures.unanswered + figures.errors + figures.timed_out + figures.broken
        shares.append(figures.stage_mix.get(stage, 0.0) * (1 - failed))
    return float(100 * np.mean(shares))


def draw_overload(figures: OverloadFigures, path: Path) -> None:
    """Shares and stage mix against load, as a PNG."""
    groups = _by_load(figures)
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_shares(left, groups)
    _draw_mix(right, groups, figures.model.stage_names)
    for axes in (left, right):
        axes.set_xticks(np.arange(len(groups)), [_label(rows) for rows in groups.values()])
        axes.set_xlabel("load: multiple of capacity, requests/s")
    reasons = "\n".join(
        textwrap.wrap("VOID: " + "; ".join(figures.void).replace(" %", "\u00a0%"), _TITLE_WIDTH)
    )
    void = reasons + "\n" if figures.void else ""
    figure.suptitle(f"{void}50 ms deadlines over HTTP, {figures.model.name}@{figures.model.version}")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
