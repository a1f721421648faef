"""Figures of a finished run: cost against accuracy, confusion, reliability.

Knows measures and matplotlib.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model_repo.pooling import Floats
from training.insight import paper
from training.insight.measures import Reliability, Results, StageRow, confusion, reliability
from training.insight.style import GREY, PALETTE, new_figure, stage_colour, tidy

NAMED_CLASSES, COUNTED_CLASSES = 40, 20
"""Up to so many classes the confusion matrix names them, and writes its numbers."""


def draw_frontier(results: Results, data: str) -> Figure:
    """Accuracy against multiply-adds: ours, and the paper's Tables 3 and 4 on its own data."""
    figure = new_figure(11, 5.0)
    ours, theirs = figure.subplots(1, 2)
    for row in results.stages:
        place = (row.cost.multiply_adds / 1e6, 100 * row.calibrated.accuracy)
        ours.plot(*place, "o", color=stage_colour(row.name), markersize=8 if row.rung else 5)
        ours.annotate(
            row.name, place, xytext=(6, -11), textcoords="offset points", fontsize=9, annotation_clip=True
        )
    rungs = [row for row in results.stages if row.rung]
    pooled = [100 * prefix.pooled.accuracy for prefix in results.prefixes]
    ours.plot(*_line(rungs), color=GREY, zorder=0, label="the ladder, each rung alone")
    if len(rungs) > 1:
        total = np.cumsum([row.cost.multiply_adds / 1e6 for row in rungs])
        ours.plot(
            total, pooled, "s:", color="#555555", markersize=4, label="the ladder run rung by rung, pooled"
        )
    draw_paper(theirs)
    for axes in (ours, theirs):
        cost_axis(axes)
    below = _leave_out_untrained(ours, results)
    ours.set_title(
        f"ours on {data}, test accuracy %" + (f" ({below} of less are not shown)" if below else "")
    )
    return figure


def _leave_out_untrained(axes: Axes, results: Results) -> int:
    """Let no stage that was hardly trained squeeze the ladder together; returns how many fall out of the picture."""
    rungs = [100 * row.calibrated.accuracy for row in results.stages if row.rung]
    low = min(rungs) - max(10.0, max(rungs) - min(rungs))
    below = sum(100 * row.calibrated.accuracy < low for row in results.stages)
    if below:
        axes.set_ylim(bottom=low)
    return below


def _line(rungs: Sequence[StageRow]) -> tuple[list[float], list[float]]:
    return [r.cost.multiply_adds / 1e6 for r in rungs], [100 * r.calibrated.accuracy for r in rungs]


def draw_paper(axes: Axes) -> None:
    """The paper's Tables 3 and 4: accuracy against multiply-adds."""
    for points, style, label in (
        (paper.FRACTALS, "o-", "Table 3: fractals of C = 1 … 6, each trained alone"),
        (paper.COLUMNS, "s--", "Table 4: columns of the C = 4 net"),
        (paper.PLAIN, "^:", "Table 4: plain nets of 5 … 40 layers"),
    ):
        axes.plot([p.multiply_adds for p in points], [100 - p.error for p in points], style, label=label)
    axes.set_title(f"the paper's on {paper.DATA}, test accuracy %")


def cost_axis(axes: Axes) -> None:
    """Multiply-adds, logarithmic, with the legend below."""
    axes.set_xscale("log")
    axes.set_xlabel("million multiply-adds of one image")
    axes.margins(0.12)
    tidy(axes)
    axes.xaxis.set_major_formatter("{x:g}")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def draw_confusion(results: Results, classes: Sequence[str]) -> Figure:
    """Answers of all rungs together against the truth, as shares of each true class."""
    table = confusion(results.answers, results.labels, len(classes))
    shares = 100 * table / np.maximum(table.sum(1, keepdims=True), 1)
    side = min(11.0, 3.4 + 0.42 * len(classes)) if len(classes) <= NAMED_CLASSES else 9.0
    figure = new_figure(side + 0.8, side)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8)
    if len(classes) <= NAMED_CLASSES:
        axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(classes)), classes)
    if len(classes) <= COUNTED_CLASSES:
        _numbers(axes, shares)
    axes.set_xlabel("answer")
    axes.set_ylabel("truth")
    return figure


def _numbers(axes: Axes, shares: NDArray[np.float64]) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if round(share):
            colour = "white" if share > 60 else "black"
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=8, color=colour)


def most_confused(results: Results, classes: Sequence[str], count: int = 10) -> list[tuple[str, str, int]]:
    """(truth, answer, images) of the commonest mistakes."""
    table = confusion(results.answers, results.labels, len(classes))
    np.fill_diagonal(table, 0)
    order = np.argsort(-table, axis=None, kind="stable")[:count]
    pairs = [divmod(int(i), len(classes)) for i in order]
    return [(classes[i], classes[j], int(table[i, j])) for i, j in pairs if table[i, j]]


def draw_reliability(
    rows: Sequence[StageRow], probabilities: Sequence[tuple[Floats, Floats]], labels: NDArray[np.int64]
) -> Figure:
    """One diagram per stage: accuracy against confidence, before and after the temperature.

    `probabilities`: of each row, before and after, [n, classes]. A point's area grows with its number of images; bins
    with fewer than a thousandth of all are left out, since a handful says nothing.
    """
    across = len(rows) if len(rows) <= 4 else min(4, -(-len(rows) // 2))
    down = -(-len(rows) // across)
    figure = new_figure(2.75 * across + 0.3, 2.95 * down + 0.4)
    places = figure.subplots(down, across, squeeze=False).ravel()
    for axes, row, (before, after) in zip(places, rows, probabilities, strict=False):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        _points(axes, reliability(before, labels), PALETTE[1], f"before, ECE {100 * row.raw.ece:.1f} %")
        _points(axes, reliability(after, labels), PALETTE[0], f"after, ECE {100 * row.calibrated.ece:.1f} %")
        axes.set_title(f"{row.name}, T = {row.temperature:.2f}", fontsize=10)
        axes.legend(frameon=False, fontsize=8, loc="upper left")
        tidy(axes)
        axes.set(aspect="equal", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    for unused in places[len(rows) :]:
        unused.set_axis_off()
    figure.supxlabel("confidence", fontsize=10)
    figure.supylabel("accuracy", fontsize=10)
    return figure


def _points(axes: Axes, found: Reliability, colour: str, label: str) -> None:
    total = found.count.sum()
    shown = found.count >= total / 1_000
    place = (found.confidence[shown], found.accuracy[shown])
    axes.plot(*place, color=colour, linewidth=1.3, label=label)
    axes.scatter(*place, s=6 + 60 * found.count[shown] / total, color=colour, zorder=3)
