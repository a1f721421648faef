"""Drawings of a net and of its subnetworks (the paper's Figures 1 and 2).

Time runs downwards: a block's input is at the top. Boxes are layers, bars are joins, a block's last bar pools.
Knows configurations and matplotlib; must not know weights.
"""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from model_repo.fractalnet import (
    BlockPaths,
    FractalConfig,
    Subnetwork,
    column,
    demanded_rows,
    full,
    join_members,
    layer_span,
    stages,
)
from training.drop_path import local
from training.insight.style import GREY, new_figure

Titled = tuple[str, Subnetwork]

JOIN, POOL, LAYER = "#2e8540", "#c9a227", "#0b5cad"
BOX_WIDTH = 0.56


def draw_net(config: FractalConfig) -> Figure:
    """The fractals f_1 … f_C that a block grows from (Figure 1, left), and the net's blocks in a row (right)."""
    if config.family != "fractal":
        return _single(config)
    columns = config.columns
    widths = [k + 0.6 for k in range(1, columns + 1)]
    blocks_width = config.blocks * (columns + 0.9)
    figure = new_figure(min(13.0, 1.0 + 0.55 * (sum(widths) + blocks_width)), _height(config))
    shares = [*widths, blocks_width]
    axes = figure.subplots(1, columns + 1, width_ratios=shares, squeeze=False)[0]
    for k, place in enumerate(axes[:-1], start=1):
        grown = FractalConfig(k, config.channels[:1], 2, input_size=2)
        _block(place, grown, full(grown)[0], 0.0, f"$f_{k}$")
        _frame(place, k + 0.3, config.rows)
    _net(axes[-1], config, full(config))
    axes[-1].set_title(f"the net: {config.blocks} blocks, depth {config.depth}", fontsize=10)
    return figure


def draw_subnetworks(config: FractalConfig, sampled: list[Titled]) -> Figure:
    """Subnetworks with their titles, what they drop in grey (Figure 2)."""
    across = min(2, len(sampled))
    down = -(-len(sampled) // across)
    width = config.blocks * (config.columns + 0.9)
    figure = new_figure(min(13.0, 1.0 + 0.5 * across * width), _height(config) * down)
    places = figure.subplots(down, across, squeeze=False).ravel()
    for place, (title, subnetwork) in zip(places, sampled, strict=False):
        _net(place, config, subnetwork)
        place.set_title(title, fontsize=10)
    for unused in places[len(sampled) :]:
        unused.set_axis_off()
    return figure


def _single(config: FractalConfig) -> Figure:
    figure = new_figure(1.0 + 0.9 * config.blocks, _height(config))
    axes = figure.subplots()
    _net(axes, config, stages(config)["full"])
    axes.set_title(f"a {config.family} net of {config.blocks} blocks, depth {config.depth}", fontsize=10)
    return figure


def _height(config: FractalConfig) -> float:
    return 1.3 + 0.42 * max(config.rows, 2)


def _net(axes: Axes, config: FractalConfig, subnetwork: Subnetwork) -> None:
    step = config.columns + 0.9
    for b, paths in enumerate(subnetwork):
        _block(axes, config, paths, b * step, f"{config.channels[b]}")
    _frame(axes, config.blocks * step - 0.4, config.rows)


def _frame(axes: Axes, width: float, rows: int) -> None:
    axes.set_xlim(-0.1, width)
    axes.set_ylim(rows + 0.75, -0.9)
    axes.set_axis_off()


def _block(axes: Axes, config: FractalConfig, paths: BlockPaths, left: float, label: str) -> None:
    """One block with its left edge at `left`; layers and joins that no kept path reaches are grey."""
    spans = {k: layer_span(config, k) for k in range(config.columns + 1)}
    live = set(demanded_rows(spans, paths))
    everything = {row: join_members(config, row) for row in range(1, config.rows + 1)}
    for row, members in everything.items():
        kept = paths[row - 1] if row in live else ()
        for k in members:
            _layer(axes, left + _x(k), row - spans[k], row, active=k in kept, shortcut=k == 0)
        if len(members) > 1 or row == config.rows:
            last = row == config.rows
            _bar(axes, [left + _x(k) for k in members], row, GREY)
            _bar(axes, [left + _x(k) for k in kept], row, POOL if last else JOIN)
    axes.text(left + (config.columns + 0.2) / 2, -0.45, label, ha="center", va="center", fontsize=9)
    axes.plot([left + _x(1) - 0.3, left + _x(config.columns) + 0.3], [0, 0], color="#333333", linewidth=1.2)


def _x(k: int) -> float:
    """Middle of column k; a shortcut runs beside the deepest."""
    return 0.6 + (k - 1 if k else 0.0)


def _layer(axes: Axes, x: float, top: int, bottom: int, active: bool, shortcut: bool) -> None:
    """A line from one join to the next, with a box for the layer on it."""
    colour = LAYER if active else GREY
    axes.plot([x, x], [top, bottom], color=colour, linewidth=1.6 if active else 0.8, zorder=1 + active)
    if shortcut:
        return
    middle, height = (top + bottom) / 2, 0.5
    box = FancyBboxPatch(
        (x - BOX_WIDTH / 2, middle - height / 2),
        BOX_WIDTH,
        height,
        boxstyle="round,pad=0,rounding_size=0.1",
        facecolor="#dceaf7" if active else "#f4f5f6",
        edgecolor=colour,
        linewidth=1.1 if active else 0.7,
        zorder=3,
    )
    axes.add_patch(box)


def _bar(axes: Axes, xs: list[float], row: int, colour: str) -> None:
    """A join of what arrives at `xs`; of nothing, nothing."""
    if xs:
        half = BOX_WIDTH / 2
        axes.plot([min(xs) - half, max(xs) + half], [row, row], color=colour, linewidth=3.2, zorder=4)


def sampled_subnetworks(config: FractalConfig, drop: float, generator: torch.Generator) -> list[Titled]:
    """Two local samples and two single columns in turn, as Figure 2 shows them; of other nets nothing."""
    if config.family != "fractal" or config.columns < 2:
        return []
    shown: list[Titled] = []
    for k in (config.columns, 1):
        shown.append((f"local, p = {drop:g}", local(config, drop, generator)))
        shown.append((f"global, column {k}", column(config, k)))
    return shown
