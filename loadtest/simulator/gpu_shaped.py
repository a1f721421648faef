"""A device shaped like a GPU: launch cost dominant, batch nearly free. **Synthetic**: nothing of it was measured.

A launch of a rung takes a floor, the same for every batch, and a little for each image; both times a lognormal jitter.
The floor is what the rung's convolutions cost one after the other when each takes `conv_ns` whatever the batch, which
is how a GPU behaves while its units are not full. The numbers are in loadtest/recordings/gpu_shaped.json, which says so
too.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtest.simulator.durations import Durations, from_samples
from loadtest.simulator.recording import FOLDER, RecordingError
from model_repo.manifest import Manifest, Stage

PATH = FOLDER / "gpu_shaped.json"


@dataclass(frozen=True)
class Shape:
    """The file's numbers.

    Attributes:
        launch_ns: of any launch: submitting, copying in and out, waiting.
        conv_ns: of one convolution, at any batch.
        image_share: what one more image adds, as a share of the convolutions' time.
        jitter: standard deviation of the logarithm of a launch's time.
        overhead_ns: of the loop around a launch.
        max_batch: largest batch.
        samples: drawn per (rung, batch).
        seed: of the draws.
    """

    launch_ns: int
    conv_ns: int
    image_share: float
    jitter: float
    overhead_ns: int
    max_batch: int
    samples: int
    seed: int


def read_shape(path: Path = PATH) -> Shape:
    """The numbers of the file. Raises RecordingError."""
    try:
        document = json.loads(path.read_text())
        return Shape(**document["shape"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordingError(f"{path.name} cannot be used: {error}") from error


def gpu_shaped(manifest: Manifest, shape: Shape) -> Durations:
    """The table of a model's rungs."""
    random = np.random.default_rng(shape.seed)
    blocks = min(stage.depth or 1 for stage in manifest.stages)
    samples = {}
    for place, stage in enumerate(manifest.stages):
        work_ns = shape.conv_ns * convolutions(stage, blocks)
        for batch in _powers_up_to(shape.max_batch):
            middle = shape.launch_ns + work_ns * (1 + shape.image_share * (batch - 1))
            drawn = middle * np.exp(random.normal(0.0, shape.jitter, shape.samples))
            samples[place, batch] = np.rint(drawn).astype(np.int64)
    return from_samples("GPU-shaped", samples, overhead_ns=shape.overhead_ns, shares_core=False)


def convolutions(stage: Stage, blocks: int) -> int:
    """How many a rung runs: a column its depth, a joined fractal of B blocks and depth d 2d - B (all its columns).

    In each block the columns 1 … k of f_k have 1, 2, 4 … 2^(k-1) convolutions: 2^k - 1 in all, and the deepest is
    d / B = 2^(k-1).
    """
    depth = stage.depth or blocks
    return depth if stage.name.startswith("column") else 2 * depth - blocks


def _powers_up_to(most: int) -> list[int]:
    powers = [1 << place for place in range(most.bit_length()) if 1 << place < most]
    return [*powers, most]
