"""Curves over epochs: losses by kind of draw, and of every stage with batch statistics of its own (Figure 3).

Knows logs and matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from training.insight.record import Curve, Log
from training.insight.style import PALETTE, new_figure, stage_colour, stage_line, tidy


def draw_losses(log: Log) -> Figure:
    """Running training loss by kind of draw (augmented images, dropout on), and validation accuracy by stage."""
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2)
    for name, curve in log.curves("loss").items():
        left.plot(
            curve.epochs, curve.values, color=stage_colour(name), linestyle=stage_line(name), label=name
        )
    _log_scale(left)
    left.set_title("training loss of each kind of draw")
    for name, curve in log.curves("validation_accuracy").items():
        _stage(right, name, curve, lambda v: 100 * v)
    right.set_title("validation accuracy of each stage, %")
    for axes in (left, right):
        _finish(axes)
    return figure


def draw_figure_3(log: Log, plain: Sequence[Log]) -> Figure | None:
    """Losses of plain nets beside those of the columns of a fractal net, training solid, validation dotted.

    None if the log has no losses of stages: a run of an earlier version.
    """
    if not log.curves("training_loss"):
        return None
    figure = new_figure(11 if plain else 6.5, 4.4)
    axes = list(figure.subplots(1, 2 if plain else 1, sharey=True, squeeze=False)[0])
    if plain:
        _plain_nets(axes[0], plain)
    fractal = axes[-1]
    validation = log.curves("validation_loss")
    for name, curve in log.curves("training_loss").items():
        fractal.plot(curve.epochs, curve.values, color=stage_colour(name), label=name)
        fractal.plot(*_points(validation[name]), color=stage_colour(name), linestyle=":", linewidth=1.2)
    fractal.set_title(f"stages of {log.name}")
    for one in axes:
        _log_scale(one)
        _finish(one)
    axes[0].set_ylabel("loss (solid: training, dotted: validation)")
    return figure


def _plain_nets(axes: Axes, plain: Sequence[Log]) -> None:
    for place, log in enumerate(plain):
        colour = PALETTE[place % len(PALETTE)]
        validation = log.curves("validation_loss")
        for name, curve in log.curves("training_loss").items():
            label = log.name if name == "full" else f"{log.name}, {name}"
            axes.plot(curve.epochs, curve.values, color=colour, label=label)
            axes.plot(*_points(validation[name]), color=colour, linestyle=":", linewidth=1.2)
    axes.set_title("plain nets, each trained alone")


def _stage(axes: Axes, name: str, curve: Curve, scale: Callable[[float], float]) -> None:
    axes.plot(
        curve.epochs,
        [scale(v) for v in curve.values],
        color=stage_colour(name),
        linestyle=stage_line(name),
        marker="o",
        markersize=3,
        label=name,
    )


def _points(curve: Curve) -> tuple[tuple[int, ...], tuple[float, ...]]:
    return curve.epochs, curve.values


def _log_scale(axes: Axes) -> None:
    """A logarithmic axis whose ticks read 0.2, 0.5, 1, 2 …"""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _finish(axes: Axes) -> None:
    tidy(axes)
    axes.set_xlabel("epoch")
    if axes.lines:
        axes.legend(frameon=False, fontsize=9)
