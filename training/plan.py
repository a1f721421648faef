"""Defaults for a user's own images: net, input size, epochs and held-out share by how many images there are.

Pure: numbers in, a plan out. Must not know files or the loop.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from training.recipe import Augmentation, Recipe

SMALL, LARGE = 32, 64
"""Input sizes in pixels: of thumbnails, and of photographs. Each costs four times the one before."""

FEW = 1_000
"""Below so many images a fifth, not a tenth, is the test part: on fewer than a hundred nothing can be told apart."""


def input_size(short_sides: list[int]) -> int:
    """The net's input for images whose shorter sides in pixels are these (a sample; empty if unknown)."""
    middle = sorted(short_sides)[len(short_sides) // 2] if short_sides else SMALL
    return LARGE if middle >= (SMALL + LARGE) // 2 else SMALL


def test_share(images: int) -> float:
    """Share of the images that only the final figures see."""
    return 0.2 if images < FEW else 0.1


def minutes(train: int) -> float:
    """Longest training time: 5 minutes up to 1 000 images, then growing with their number."""
    return 5.0 * max(1.0, train / FEW)


def recipe(train: int, augmentation: Augmentation, wide: bool) -> Recipe:
    """The recipe for so many training images.

    Few images: two columns and small batches, so that there are enough steps. Many: a third column. Nested draws
    throughout, which give the best rungs (docs/trainer.md). `wide` doubles the channels, for a GPU.
    """
    batch = 32 if train < 2 * FEW else 64 if train < 20 * FEW else 128
    few = train < 2 * FEW
    return Recipe(
        name="fit",
        columns=2 if few else 3,
        channels=tuple((1 + wide) * c for c in (16, 32, 64, 128, 128)),
        draws={"column1": 1, "local": 2} if few else {"column1": 1, "joined2": 1, "local": 2},
        epochs=epochs(train),
        batch=min(batch, train),
        rate=0.1 * batch / 128,
        nesterov=True,
        weight_decay=5e-4,
        schedule="cosine",
        warmup=0.15,
        augmentation=augmentation,
    )


def epochs(train: int) -> int:
    """120 for up to some hundred images, 30 for ten thousand, 15 from forty thousand on."""
    return max(15, min(120, round(3000 / sqrt(train))))


@dataclass(frozen=True)
class Schedule:
    """Epochs that fit into the time, and how long they will take in seconds."""

    epochs: int
    seconds: float


def within(wanted: int, epoch_seconds: float, limit_seconds: float) -> Schedule:
    """As many of the `wanted` epochs as fit into the limit, at least 3."""
    fitting = max(3, min(wanted, int(limit_seconds / epoch_seconds)))
    return Schedule(fitting, fitting * epoch_seconds)
