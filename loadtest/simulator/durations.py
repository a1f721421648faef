"""How long launches take: recorded samples by (rung, batch), drawn at random, and the table that all schedulers get.

Knows nanoseconds only. Between two recorded batch sizes a launch takes what lies between them at the same quantile,
so a draw is a recorded sample where its batch was recorded, and never leaves the range of its neighbours elsewhere. A
batch that the runtime pads or splits takes as long as the sizes that it is run in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from loadtest.simulator.recording import Cell, Recording

_BLOCK = 4096


@dataclass(frozen=True)
class Durations:
    """A device.

    Attributes:
        name: for people.
        quantiles: per rung and batch (index 0 unused), the launch's nanoseconds in ascending order.
        profile: per rung the median nanoseconds by recorded batch, as a warm-up would measure them.
        max_batch: largest batch of a launch.
        overhead_ns: of the loop around each launch: copying in, pooling, packing what is sent.
        shares_core: whether launches and decisions use the same core, so that deciding delays the launch.
        runs_as: per rung, where batches are padded or split, the sizes that one of 0, 1, … max_batch is run in.
    """

    name: str
    quantiles: tuple[tuple[list[int], ...], ...]
    profile: Mapping[int, Mapping[int, float]]
    max_batch: int
    overhead_ns: int
    shares_core: bool
    runs_as: Mapping[int, Sequence[Sequence[int]]] = field(default_factory=dict)

    @property
    def stages(self) -> int:
        """Number of rungs."""
        return len(self.quantiles)

    def drawer(self, seed: int) -> Callable[[int, int], int]:
        """draw(stage, batch) -> nanoseconds; the n-th call takes the same quantile whoever asks."""
        random = np.random.default_rng([seed, 0xD12A])
        block: list[float] = []
        quantiles = self.quantiles

        def draw(stage: int, batch: int) -> int:
            if not block:
                block.extend(random.random(_BLOCK).tolist())
            cell = quantiles[stage][batch]
            return cell[int(block.pop() * len(cell))]

        return draw

    def mean_ns(self) -> NDArray[np.float64]:
        """[rungs, max_batch]: mean time that a launch of batch 1, 2, … keeps the device, overhead included."""
        rows = [[np.mean(cell) for cell in row[1:]] for row in self.quantiles]
        return np.array(rows, dtype=np.float64) + self.overhead_ns


def from_recording(
    recording: Recording, *, with_stalls: bool, overhead_ns: int = 60_000, device: str = "CPU"
) -> Durations:
    """The recorded device; without stalls, samples that met a recorded stall are left out.

    Raises ValueError where nothing is left of a cell.
    """
    kept = {
        cell: values if with_stalls else values[~recording.stalled[cell]]
        for cell, values in recording.samples.items()
    }
    empty = [cell for cell, values in kept.items() if not len(values)]
    if empty:
        raise ValueError(f"every recorded launch of (rung, batch) {empty[0]} met a stall")
    calm = {cell: values[~recording.stalled[cell]] for cell, values in recording.samples.items()}
    medians = {cell: float(np.median(calm[cell] if len(calm[cell]) else kept[cell])) for cell in kept}
    return from_samples(device, kept, medians, recording.runs_as, overhead_ns=overhead_ns, shares_core=True)


def from_samples(
    name: str,
    samples: Mapping[Cell, NDArray[np.int64]],
    medians: Mapping[Cell, float] | None = None,
    runs_as: Mapping[int, Sequence[Sequence[int]]] | None = None,
    *,
    overhead_ns: int,
    shares_core: bool,
) -> Durations:
    """A device of samples by (rung, batch); every rung from 0 needs a batch of 1.

    Raises ValueError where a rung lacks it, or nothing is there.
    """
    stages = sorted({stage for stage, _ in samples})
    if not stages or stages != list(range(len(stages))) or any((stage, 1) not in samples for stage in stages):
        raise ValueError("every rung needs samples of batch 1")
    max_batch = max(batch for _, batch in samples)
    middle = medians or {cell: float(np.median(values)) for cell, values in samples.items()}
    profile = {
        stage: {batch: middle[stage, batch] for at, batch in sorted(samples) if at == stage}
        for stage in stages
    }
    known = runs_as or {}
    as_they_are = [(batch,) for batch in range(max_batch + 1)]
    quantiles = []
    for stage in stages:
        rows = _all_batches(samples, stage, max_batch)
        quantiles.append(tuple(_one_after_other(rows, sizes) for sizes in known.get(stage, as_they_are)))
    return Durations(name, tuple(quantiles), profile, max_batch, overhead_ns, shares_core, known)


def _one_after_other(rows: Sequence[list[int]], sizes: Sequence[int]) -> list[int]:
    return [sum(taken) for taken in zip(*(rows[size] for size in sizes), strict=True)]


def _all_batches(
    samples: Mapping[Cell, NDArray[np.int64]], stage: int, max_batch: int
) -> tuple[list[int], ...]:
    sizes = sorted(batch for at, batch in samples if at == stage)
    count = max(len(samples[stage, size]) for size in sizes)
    known = {size: _resampled(samples[stage, size], count) for size in sizes}
    rows: list[NDArray[np.float64]] = [known[sizes[0]], known[sizes[0]]]
    for low, high in pairwise(sizes):
        slope = (known[high] - known[low]) / (high - low)
        rows += [known[low] + slope * step for step in range(1, high - low + 1)]
    last = known[sizes[-1]] / sizes[-1]
    rows += [last * batch for batch in range(sizes[-1] + 1, max_batch + 1)]
    return tuple(np.sort(np.maximum(row, 1)).astype(np.int64).tolist() for row in rows)


def _resampled(values: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """`count` of the sorted samples at even quantiles: all of them where there are as many."""
    places = (np.arange(count) + 0.5) / count * len(values)
    return np.sort(values).astype(np.float64)[places.astype(np.int64)]
