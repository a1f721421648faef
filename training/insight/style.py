"""How figures look, and how they become part of a page. Knows matplotlib; measures nothing."""

from __future__ import annotations

import base64
import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure

PALETTE = ("#0b5cad", "#d1660f", "#2e8540", "#b02a5b", "#6b4fa3", "#3a8f98", "#8a6d1d", "#555555")

GREY = "#b8bcc2"


def stage_colour(name: str) -> str:
    """One colour per stage, the same in every figure."""
    if name in ("full", "local"):
        return PALETTE[0]
    number = int("".join(c for c in name if c.isdigit()) or 0)
    return PALETTE[(2 * number + name.startswith("joined")) % len(PALETTE)]


def stage_line(name: str) -> str:
    """Line style of a stage: columns dashed, joined stages and the full net solid."""
    return "--" if name.startswith("column") else "-"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure; inches, at 100 pixels each on the page."""
    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: Axes) -> None:
    """No box on top and at the right, a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def as_image(figure: Figure) -> str:
    """The figure as a data URI, so that a page needs no other file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
