"""Labelled images in memory, and their split into parts that are used for one thing each.

Knows arrays only; where they come from is `data`'s and `cifar`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


class DataError(Exception):
    """The data cannot be used; the message says which file or folder and why."""


@dataclass(frozen=True)
class Part:
    """Images uint8 [n, h, w, 3] and their class indices int64 [n]."""

    images: Pixels
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64] | slice) -> Part:
        """The images at `index`, in that order; a slice copies nothing."""
        return Part(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Dataset:
    """Labelled images for training and for the final test, and what could not be read.

    Attributes:
        in_random_order: the training images lie in one, so that parts may be slices of them.
        skipped: (name, reason) of every file that is no readable image; they are reported, never silently dropped.
    """

    name: str
    classes: tuple[str, ...]
    train: Part
    test: Part
    skipped: tuple[tuple[str, str], ...] = ()
    in_random_order: bool = False

    @property
    def input_size(self) -> int:
        """Height and width of the images."""
        return int(self.train.images.shape[1])


@dataclass(frozen=True)
class Splits:
    """`train` fits weights, `validation` chooses, `calibration` fits temperatures, pools and gains, `test` reports."""

    train: Part
    validation: Part
    calibration: Part
    test: Part


HELD_OUT_OF_FEW, HELD_OUT_AT_LEAST = 40, 10


def split(data: Dataset, held_out: float = 0.05, seed: int = 0) -> Splits:
    """Cut `held_out` of the training images off for validation and as much for calibration, shuffled by `seed`.

    Of a few hundred images a tenth each is held out, up to 40, and never fewer than 10: a choice or a temperature
    that rests on less is noise.

    Raises DataError if more would be held out than is left.
    """
    order = np.random.default_rng(seed).permutation(len(data.train))
    size = max(int(len(order) * held_out), min(HELD_OUT_OF_FEW, len(order) // 10), HELD_OUT_AT_LEAST)
    if len(order) < 4 * size or len(data.test) < 1:
        raise DataError(f"{data.name}: {len(order)} images to train on are too few to hold some out")
    cuts = slice(2 * size, None), slice(0, size), slice(size, 2 * size)
    train, validation, calibration = (
        data.train.take(cut if data.in_random_order else order[cut]) for cut in cuts
    )
    return Splits(train, validation, calibration, data.test)
