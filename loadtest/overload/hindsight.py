"""What a run over HTTP could have reached, from the recorded answers and launch times of the model it was of.

Knows recordings and bounds; must not know servers. The recording is of this machine or one like it: its times are those
of an engine that has a core to itself, and what the front end takes of the same core is charged by stretching them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtest import bounds
from loadtest.records import Records
from loadtest.simulator import durations, model, recording
from loadtest.simulator.durations import Durations
from loadtest.simulator.model import SimulatedModel
from loadtest.simulator.recording import RecordingError
from loadtest.simulator.setup import open_model


@dataclass(frozen=True)
class Hindsight:
    """One model with its recording."""

    model: SimulatedModel
    device: Durations

    def deepest(self, records: Records) -> float:
        """Share of the run's images that the whole ladder gets right."""
        whole = len(self.model.right) - 1
        return float(self.model.right[whole][records["image"]].mean())

    def bound(self, records: Records, front_end_us: float) -> float:
        """U2: the best effective accuracy of any cascade over confidences, for these arrivals and budgets.

        `front_end_us`: CPU time of a request outside the engine, on the engine's core; a bound of 0 where it leaves
        nothing. The bound knows the future, takes launches for divisible, and is of all test images.
        """
        begins = records["intended_ns"].astype(np.float64)
        seconds = max(float(np.ptp(begins)) / 1e9, 1e-9)
        left = 1 - len(records) / seconds * front_end_us / 1e6
        if left <= 0:
            return 0.0
        latency_ns = self.device.mean_ns() / left
        options = bounds.cascade_options(self.model.confidence, self.model.right, latency_ns)
        return bounds.u2(options, begins, begins + records["budget_ns"]).effective_accuracy


def open_hindsight(models_dir: Path, name: str) -> Hindsight | None:
    """Of the model name or name@version; None where there is no recording of it as it is now."""
    published = open_model(models_dir, name)
    try:
        recorded = recording.load_for(published)
    except RecordingError:
        return None
    device = durations.from_recording(recorded, with_stalls=False)
    return Hindsight(model.from_recording(published.manifest, recorded), device)
