"""What schedulers may know of the simulated model, and what its answers really are.

The first part comes from the manifest (calibration data), the second from the recording (test images): no scheduler
sees the second but through the confidences of launches that have ended.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from loadtest.simulator.recording import Recording
from model_repo.manifest import Manifest

NAME = "simulated@1"


@dataclass(frozen=True)
class SimulatedModel:
    """One model.

    Attributes:
        stages: names of the rungs in ladder order.
        accuracies: by set of rungs (names joined by commas), on calibration data.
        gain_bin_edges, gains: as in the manifest.
        confidence: float32 [2^rungs, images].
        right: bool [2^rungs, images].
    """

    stages: tuple[str, ...]
    accuracies: Mapping[str, float]
    gain_bin_edges: Sequence[float]
    gains: Mapping[str, Mapping[str, Sequence[float]]]
    confidence: NDArray[np.float32]
    right: NDArray[np.bool_]
    _rows: dict[int, list[float]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def images(self) -> int:
        """How many images there are answers of."""
        return int(self.right.shape[1])

    def believed_accuracy(self, stage: int) -> float:
        """Of one rung alone, on calibration data."""
        return self.accuracies[self.stages[stage]]

    def confidences_of(self, mask: int) -> list[float]:
        """By image, after that set of rungs; a list, for it is read image by image in the innermost loop."""
        row = self._rows.get(mask)
        if row is None:
            row = self._rows[mask] = self.confidence[mask].tolist()
        return row


def from_recording(manifest: Manifest, recording: Recording) -> SimulatedModel:
    """The model of that manifest with the answers of that recording."""
    accuracies = {key: pool.accuracy for key, pool in manifest.pools.items()}
    return SimulatedModel(
        manifest.stage_names,
        accuracies,
        manifest.gain_bin_edges,
        manifest.gains,
        recording.confidence,
        recording.right,
    )
