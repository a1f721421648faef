"""Figures of the paper that ours stand beside: its Tables 3 and 4 (CIFAR-100++, channels 16 to 128).

G. Larsson, M. Maire, G. Shakhnarovich: FractalNet: Ultra-Deep Neural Networks without Residuals. ICLR 2017.
Multiply-adds are ours, counted on the same nets.
"""

from __future__ import annotations

from dataclasses import dataclass

DATA = "CIFAR-100++"


@dataclass(frozen=True)
class Point:
    """One net of the paper: its name, million multiply-adds of one image, and test error in per cent."""

    name: str
    multiply_adds: float
    error: float


FRACTALS = (
    Point("C = 1", 4.6, 37.32),
    Point("C = 2", 19.2, 30.71),
    Point("C = 3", 53.8, 27.69),
    Point("C = 4", 128.6, 27.38),
    Point("C = 5", 283.6, 26.46),
    Point("C = 6", 599.0, 27.38),
)
"""Table 3: fractal nets of C columns, each trained for itself."""

COLUMNS = (
    Point("column 1", 4.6, 37.23),
    Point("column 2", 14.6, 32.85),
    Point("column 3", 34.6, 31.31),
    Point("column 4", 74.8, 31.75),
)
"""Table 4: columns of the C = 4 net; the whole net has an error of 27.40 %."""

PLAIN = (
    Point("plain 5", 4.6, 36.62),
    Point("plain 10", 14.6, 32.47),
    Point("plain 20", 34.6, 31.31),
    Point("plain 40", 74.8, 38.84),
)
"""Table 4: plain nets of the columns' depths, each trained for itself."""
