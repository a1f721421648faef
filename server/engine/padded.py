"""One stage that can run only certain batch sizes, made to run any: images go into the next larger one, padded.

Knows arrays and sizes; must not know what a launch is. A CUDA graph has fixed shapes and fixed addresses, so there is
one for each size, each with buffers of its own in pinned memory, which images are copied into and logits out of. What
the padding holds does not matter: no image influences another.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from server.engine.backends.protocol import Logits, Pixels


@dataclass(frozen=True)
class FixedBatch:
    """A launch of one batch size.

    Attributes:
        pixels: uint8 [size, height, width, 3], read by a launch.
        logits: float32 or float16 [size, classes], written by a launch.
        launch: runs it and returns when `logits` is written.
        close: gives its memory back.
    """

    pixels: Pixels
    logits: np.ndarray[tuple[int, ...], np.dtype[np.floating]]
    launch: Callable[[], None]
    close: Callable[[], None]


class PaddedStage:
    """A StageRunner over batches of fixed sizes, which are kept in ascending order.

    Args:
        batches: of at least one size.
        close: gives back what they share.
    """

    def __init__(self, batches: Sequence[FixedBatch], close: Callable[[], None] = lambda: None) -> None:
        self._batches = sorted(batches, key=lambda batch: len(batch.pixels))
        self._sizes = [len(batch.pixels) for batch in self._batches]
        self._close = close

    def run(self, pixels: Pixels) -> Logits:
        """See the protocol. Raises ValueError for more images than the largest batch."""
        count = len(pixels)
        place = bisect_left(self._sizes, count)
        if place == len(self._sizes):
            raise ValueError(f"{count} images, and the largest batch is {self._sizes[-1]}")
        batch = self._batches[place]
        batch.pixels[:count] = pixels
        batch.launch()
        return batch.logits[:count].astype(np.float32)  # a copy: the next launch writes over it

    def runs_as(self, count: int) -> tuple[int, ...]:
        """See the protocol."""
        return (self._sizes[bisect_left(self._sizes, count)],)

    def close(self) -> None:
        """Close every batch, then what they share."""
        for batch in self._batches:
            batch.close()
        self._batches = []
        self._close()
