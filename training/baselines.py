"""What needs no training: answers that any net has to beat.

Knows images and labels only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.parts import Part

CHUNK = 1_000


def largest_class(train: Part, test: Part) -> float:
    """Accuracy on `test` of always answering the class that is most frequent in `train`."""
    return float((test.labels == np.bincount(train.labels).argmax()).mean())


def nearest_class_mean(train: Part, test: Part) -> float:
    """Accuracy on `test` of answering the class whose mean image in `train` is nearest, in pixels."""
    present = np.unique(train.labels)
    means = np.stack([_mean_image(train, label) for label in present])  # [classes, pixels]
    right = 0
    for start in range(0, len(test), CHUNK):
        chunk = test.images[start : start + CHUNK]
        pixels = chunk.reshape(len(chunk), -1).astype(np.float32)
        distance = (means**2).sum(1) - 2.0 * pixels @ means.T  # less |pixels|², the same for every class
        right += int((present[distance.argmin(1)] == test.labels[start : start + CHUNK]).sum())
    return right / len(test)


def _mean_image(train: Part, label: int) -> NDArray[np.float32]:
    chosen = np.flatnonzero(train.labels == label)
    mean = train.images[chosen].reshape(len(chosen), -1).mean(0, dtype=np.float64)
    return np.asarray(mean, np.float32)
