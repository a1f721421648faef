"""What each lever reaches against cost: columns and joined stages of several nets, plain nets, the paper beside.

Knows matplotlib and points; trains and measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from training.insight.results import cost_axis, draw_paper
from training.insight.style import PALETTE, new_figure

SHOWN = 22.0
"""Points of accuracy below the best that are shown."""

Points = Sequence[tuple[float, float]]
"""(Million multiply-adds, test accuracy %) in order of cost."""


def draw_ladders(
    columns: Mapping[str, Points], joined: Mapping[str, Points], plain: Points, data: str
) -> Figure:
    """Accuracy against multiply-adds.

    Args:
        columns: by lever, the columns of its net, each alone.
        joined: by lever, column 1, joined stages and the full net.
        plain: plain nets, each trained for itself.
        data: what ours were trained on.
    """
    figure = new_figure(11, 5.4)
    ours, theirs = figure.subplots(1, 2)
    for number, name in enumerate(joined):
        colour = PALETTE[number % len(PALETTE)]
        ours.plot(*_xy(joined[name]), "o-", color=colour, label=f"{name}: joined")
        ours.plot(*_xy(columns[name]), "s--", color=colour, markersize=4, label=f"{name}: columns")
    if plain:
        ours.plot(*_xy(plain), "^:", color="black", label="plain nets")
    ours.set_title(f"ours on {data}, test accuracy %")
    draw_paper(theirs)
    for axes in (ours, theirs):
        cost_axis(axes)
    best = max((y for points in joined.values() for _, y in points), default=0.0)
    if best - ours.get_ylim()[0] > SHOWN:  # columns that no mini-batch trained
        ours.set_ylim(bottom=best - SHOWN)
    if joined or plain:
        ours.legend(frameon=False, fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    return figure


def _xy(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
