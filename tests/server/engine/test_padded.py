"""Batches of any size through launches of fixed ones."""

from __future__ import annotations

import numpy as np
import pytest

from server.engine.padded import FixedBatch, PaddedStage


class Launches:
    """Fixed batches that add up each image, and note what is launched and closed."""

    def __init__(self, sizes: list[int]) -> None:
        self.launched: list[int] = []
        self.closed: list[int] = []
        self.batches = [self.batch(size) for size in sizes]

    def batch(self, size: int) -> FixedBatch:
        pixels, logits = np.full((size, 2, 2, 3), 7, np.uint8), np.zeros((size, 2), np.float16)

        def launch() -> None:
            self.launched.append(size)
            logits[:, 0] = pixels.sum((1, 2, 3))

        return FixedBatch(pixels, logits, launch, lambda: self.closed.append(size))


@pytest.mark.parametrize(("count", "size"), [(1, 1), (2, 4), (3, 4), (4, 4), (5, 8), (8, 8)])
def test_images_go_into_the_smallest_size_that_holds_them(count: int, size: int) -> None:
    launches = Launches([8, 1, 4])
    pixels = np.random.default_rng(count).integers(0, 9, (count, 2, 2, 3), dtype=np.uint8)
    logits = PaddedStage(launches.batches).run(pixels)
    assert launches.launched == [size]
    assert (logits.dtype, logits.shape) == (np.float32, (count, 2))
    np.testing.assert_array_equal(logits[:, 0], pixels.sum((1, 2, 3)))


def test_an_answer_outlives_the_next_launch() -> None:
    stage = PaddedStage(Launches([1]).batches)
    first = stage.run(np.ones((1, 2, 2, 3), np.uint8))
    stage.run(np.zeros((1, 2, 2, 3), np.uint8))
    assert first[0, 0] == 12


def test_more_images_than_the_largest_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="9 images"):
        PaddedStage(Launches([8]).batches).run(np.zeros((9, 2, 2, 3), np.uint8))


def test_closing_closes_every_size_and_then_what_they_share() -> None:
    launches = Launches([1, 4])
    PaddedStage(launches.batches, lambda: launches.closed.append(0)).close()
    assert launches.closed == [1, 4, 0]
