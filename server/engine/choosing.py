"""Which runtime runs which (stage, batch): the fastest of those whose answers are right.

Knows measured times and probabilities; must not know files, models or runtimes by name. Which runtime wins depends on
the processor, the stage and the batch, and a table made elsewhere would be wrong here: so it is measured at warm-up.

A runtime's answers are right if no probability of a fixed set of probe images differs from the reference's by more
than PARITY_BOUND. Probes are synthetic, since a model brings no images: they find a runtime that computes wrongly,
or a net that bfloat16 does not carry; what bfloat16 costs in accuracy on real images is measured in tests and told in
docs/operator.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping

import numpy as np

from model_repo.pooling import softmax
from server.engine.backends.protocol import Logits, Pixels, StageRunner

PARITY_BOUND = 0.06
"""Largest difference of a probability from the reference; rounding to bfloat16 moves one by 0.04 at most (shipped)."""

WORTH_KEEPING = 1.03
"""A runtime that is nowhere in a stage faster than another by more than this factor is not worth its memory."""

HOPELESS = 1.5
"""A runtime that is slower than another by more than this factor at each size of a stage, two at least, has lost."""

PROBES = 16

Row = Mapping[int, float]  # batch -> nanoseconds
Choice = dict[int, str]  # batch bucket -> name of the runtime


def choose(rows: Mapping[str, Row]) -> tuple[Choice, dict[int, float]]:
    """The runtime of each batch bucket of one stage, and the times that follow.

    Args:
        rows: by runtime, its measured times. Those that have lost are left out; of the others only buckets that all of
            them have are compared: one that was left out for want of time is extrapolated from the smaller ones.
    """
    rows = {name: row for name, row in rows.items() if not has_lost(row, rows.values())}
    in_all = sorted(set.intersection(*(set(row) for row in rows.values())))
    best = {batch: min(row[batch] for row in rows.values()) for batch in in_all}
    worst_ratio = {name: max(row[batch] / best[batch] for batch in in_all) for name, row in rows.items()}
    sole = min(worst_ratio, key=lambda name: worst_ratio[name])
    if worst_ratio[sole] <= WORTH_KEEPING:
        return dict.fromkeys(in_all, sole), {batch: rows[sole][batch] for batch in in_all}
    return {batch: min(rows, key=lambda name: rows[name][batch]) for batch in in_all}, best


def has_lost(row: Row, rivals: Iterable[Row]) -> bool:
    """Whether a rival is faster by more than HOPELESS at every batch that both were timed at, two at least."""
    for rival in rivals:
        both = row.keys() & rival.keys()
        if len(both) > 1 and all(row[batch] > HOPELESS * rival[batch] for batch in both):
            return True
    return False


def within_parity(logits: Logits, reference: Logits) -> bool:
    """Whether no probability differs by more than the bound; both float32 [n, classes]."""
    return difference(logits, reference) <= PARITY_BOUND


def difference(logits: Logits, reference: Logits) -> float:
    """Largest difference of a probability."""
    return float(np.abs(softmax(logits, 1.0) - softmax(reference, 1.0)).max())


def probes(height: int, width: int) -> Pixels:
    """Fixed images, uint8 [PROBES, height, width, 3]: patches of every coarseness from two a side to single pixels."""
    random = np.random.default_rng(0)
    images = []
    for number in range(PROBES):
        patch = max(1, min(height, width) >> (1 + number % 6))
        rows, columns = -(-height // patch), -(-width // patch)
        coarse = random.integers(0, 256, (rows, columns, 3), dtype=np.uint8)
        images.append(coarse.repeat(patch, 0).repeat(patch, 1)[:height, :width])
    return np.stack(images)


class ChosenStage:
    """One stage on several runtimes: each batch goes to the one chosen for the smallest bucket that holds it."""

    def __init__(self, runners: Mapping[str, StageRunner], choice: Choice) -> None:
        self._runners = runners
        self._buckets = sorted(choice)
        self._by_bucket = [runners[choice[bucket]] for bucket in self._buckets]

    def run(self, pixels: Pixels) -> Logits:
        """See the protocol."""
        return self._runner_for(len(pixels)).run(pixels)

    def runs_as(self, count: int) -> tuple[int, ...]:
        """See the protocol."""
        return self._runner_for(count).runs_as(count)

    def close(self) -> None:
        """Close all of them."""
        for runner in self._runners.values():
            runner.close()

    def _runner_for(self, count: int) -> StageRunner:
        place = bisect_left(self._buckets, count)
        return self._by_bucket[min(place, len(self._by_bucket) - 1)]


def in_words(choice: Choice) -> str:
    """`onnxruntime 1-2, openvino 4-32`."""
    spans: list[tuple[str, int, int]] = []
    for batch in sorted(choice):
        if spans and spans[-1][0] == choice[batch]:
            spans[-1] = (choice[batch], spans[-1][1], batch)
        else:
            spans.append((choice[batch], batch, batch))
    return ", ".join(f"{name} {low}-{high}" if high > low else f"{name} {low}" for name, low, high in spans)
