"""What a runtime must do to serve stages. One module per runtime beside this one; they never import each other."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model_repo.repository import PublishedModel

Pixels = NDArray[np.uint8]
Logits = NDArray[np.float32]


class StageUnusable(Exception):
    """This runtime cannot run this stage; the text says why in one line."""


class BackendUnusable(Exception):
    """This runtime is installed and cannot work here (no device, no driver); the text says why in one line."""


class DeviceLost(Exception):
    """Nothing runs on the device any more in this process, whichever stage; the text says why in one line."""


class StageRunner(Protocol):
    """One stage of one model, ready to run. Called from one thread at a time."""

    def run(self, pixels: Pixels) -> Logits:
        """Logits, float32 [n, classes], of uint8 [n, height, width, 3] for any n from 1 to the largest batch.

        Whatever it raises takes the stage out of the ladder; DeviceLost ends the process, for a new one may do.
        """
        ...

    def runs_as(self, count: int) -> tuple[int, ...]:
        """The batch sizes that so many images are run in: a runtime may pad or split them to what it is made for."""
        ...

    def close(self) -> None:
        """Give memory back; the runner is not used again."""
        ...


class Backend(Protocol):
    """One runtime on one device.

    Attributes:
        name: as in `--backend`.
        device: what it runs on, for people.
    """

    name: str
    device: str

    def load_stage(self, model: PublishedModel, place: int, max_batch: int) -> StageRunner:
        """Make one stage ready. Raises StageUnusable, or ModelDamaged if its file is not what was published."""
        ...

    def describe(self) -> dict[str, str]:
        """All that a latency depends on beside the model: runtime, its version, threads … Part of the profile's key."""
        ...
