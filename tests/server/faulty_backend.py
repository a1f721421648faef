"""A runtime whose device is made of sleep, and breaks when a test says so in a file. Not part of the service.

The file holds JSON: {"slow": 10} multiplies every launch's time, {"fail": "column2"} has that stage raise, {"hang":
"full"} has its next launch never end, {"lose": "full"} has it lose the device (both take the order out of the file, so
that the next life works).
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from model_repo.repository import PublishedModel
from server.engine.backends.protocol import DeviceLost, Logits, Pixels

COSTS_S = (0.002, 0.006, 0.02)
"""Of one image, by place in the ladder; each further one of a batch takes a fifth more."""


class Faults:
    """The file, read at every launch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def set(self, **faults: Any) -> None:
        """From now on these and no others."""
        half = self.path.with_suffix(".half")
        half.write_text(json.dumps(faults))
        half.replace(self.path)

    def now(self) -> dict[str, Any]:
        """What is broken."""
        try:
            return json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}


class _FaultyStage:
    def __init__(self, faults: Faults, name: str, cost_s: float, classes: int) -> None:
        self._faults = faults
        self._name = name
        self._cost_s = cost_s
        # A confidence in the middle: every deeper rung still has something to gain.
        self._logits = np.zeros(classes, np.float32)
        self._logits[3] = np.log(max(classes - 1, 1))

    def run(self, pixels: Pixels) -> Logits:
        faults = self._faults.now()
        if faults.get("fail") == self._name:
            raise RuntimeError("the device is on fire")
        if faults.get("hang") == self._name:
            self._faults.set(**{key: value for key, value in faults.items() if key != "hang"})
            threading.Event().wait()
        if faults.get("lose") == self._name:
            self._faults.set(**{key: value for key, value in faults.items() if key != "lose"})
            raise DeviceLost("the device fell off the bus")
        time.sleep(self._cost_s * (1 + 0.2 * (len(pixels) - 1)) * faults.get("slow", 1))
        return np.tile(self._logits, (len(pixels), 1))

    def runs_as(self, count: int) -> tuple[int, ...]:
        return (count,)

    def close(self) -> None:
        pass


class FaultyBackend:
    """See the protocol of backends."""

    name = "null"  # under which the engine asks for it
    device = "sleep"

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def load_stage(self, model: PublishedModel, place: int, max_batch: int) -> _FaultyStage:
        stage = model.manifest.stages[place]
        return _FaultyStage(self._faults, stage.name, COSTS_S[place], len(model.manifest.labels))

    def describe(self) -> dict[str, str]:
        return {"runtime": "faulty"}
