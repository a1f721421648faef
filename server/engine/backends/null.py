"""A runtime that answers at once, every stage the same: for measuring what the rest of the service costs."""

from __future__ import annotations

import numpy as np

from model_repo.repository import PublishedModel
from server.engine.backends.protocol import Logits, Pixels


class _NullStage:
    def __init__(self, classes: int, max_batch: int) -> None:
        # Class 0 by a margin that leaves the confidence in the middle: every rung still has something to gain.
        self._logits = np.zeros((max_batch, classes), np.float32)
        self._logits[:, 0] = np.log(max(classes - 1, 1))

    def run(self, pixels: Pixels) -> Logits:
        return self._logits[: len(pixels)]

    def runs_as(self, count: int) -> tuple[int, ...]:
        return (count,)

    def close(self) -> None:
        pass


class Null:
    """Fixed logits without looking at the pixels or the model's files."""

    name = "null"
    device = "none"

    def load_stage(self, model: PublishedModel, place: int, max_batch: int) -> _NullStage:
        return _NullStage(len(model.manifest.labels), max_batch)

    def describe(self) -> dict[str, str]:
        return {"runtime": self.name}
