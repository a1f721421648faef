"""Publishing a run in INT8: the same ladder, quantised on training images, measured anew on every held-out part.

Refused where a stage loses more than it may. The refusal rests on validation images; the test set only reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from model_repo.calibration import accuracy
from model_repo.export import StageGraph, run, sample
from model_repo.manifest import Manifest
from model_repo.pooling import Floats
from model_repo.quantise import quantise
from model_repo.torch_graph import in_bfloat16, to_torch
from training.parts import Part, Splits
from training.publish import (
    PARITY_IMAGES,
    Ladder,
    Target,
    Trained,
    choose_ladder,
    export_graph,
    publish_graphs,
)

MAY_LOSE = 0.003
"""Accuracy that a precision may cost a stage on validation images, as a fraction."""

RANGE_IMAGES = 512
BATCH = 100


class TooMuchLostError(Exception):
    """A stage is less accurate by more than it may; nothing was published."""


class Requantised(Trained):
    """A run whose ladder computes in INT8: its logits are those of the quantised graphs."""

    def __init__(self, trained: Trained, graphs: Mapping[str, StageGraph], splits: Splits) -> None:
        self.__dict__.update(trained.__dict__)
        self._exact = trained
        parts = {"validation": splits.validation, "calibration": splits.calibration, "test": splits.test}
        self._logits = {
            (name, part): np.log(np.maximum(run(graph.onnx, held.images), 1e-12))
            for name, graph in graphs.items()
            for part, held in parts.items()
        }

    def logits(self, stage: str, part: str) -> Floats:
        """Of the quantised graph; of the net itself for a stage that is not in the ladder."""
        found = self._logits.get((stage, part))
        return self._exact.logits(stage, part) if found is None else found


@dataclass(frozen=True)
class Lost:
    """What a stage's accuracy on validation images comes down by in INT8, as a fraction."""

    stage: str
    fraction: float


def publish_int8(
    trained: Trained, ladder: Ladder, splits: Splits, target: Target, accept_loss: bool
) -> Manifest:
    """Export, quantise, measure, calibrate on the quantised answers, publish in one step.

    Raises:
        TooMuchLostError: a stage loses more than MAY_LOSE on validation images and `accept_loss` is not given.
        ParityError, VersionExists: as for `publish`.
    """
    names = choose_ladder(trained, ladder)
    exact = {
        name: export_graph(trained, name, sample(splits.validation.images, PARITY_IMAGES)) for name in names
    }
    ranges = sample(splits.train.images, RANGE_IMAGES)
    small = {name: replace(graph, onnx=quantise(graph.onnx, ranges)) for name, graph in exact.items()}
    measured = Requantised(trained, small, splits)
    losses = [
        Lost(name, trained.accuracy(name, "validation") - measured.accuracy(name, "validation"))
        for name in names
    ]
    for lost in losses:
        print(f"{lost.stage}: {100 * lost.fraction:+.2f} points lost in INT8 on validation images")
    worst = max(losses, key=lambda lost: lost.fraction)
    if worst.fraction > MAY_LOSE and not accept_loss:
        raise TooMuchLostError(
            f"{worst.stage} loses {100 * worst.fraction:.2f} points in INT8, more than {100 * MAY_LOSE:.1f}; "
            "--accept-loss publishes it all the same"
        )
    accuracies = {
        name: {
            "fp32": trained.accuracy(name, "test"),
            **_bf16_accuracy(exact[name], splits.test),
            "int8": measured.accuracy(name, "test"),
        }
        for name in names
    }
    return publish_graphs(measured, list(small.values()), target, "int8", accuracies)


def _bf16_accuracy(graph: StageGraph, test: Part) -> dict[str, float]:
    """Of the stage computed in bfloat16 by torch, which rounds as the processors do."""
    module = in_bfloat16(to_torch(graph.onnx))
    with torch.inference_mode():
        logits = torch.cat(
            [module(torch.from_numpy(test.images[at : at + BATCH])) for at in range(0, len(test), BATCH)]
        )
    return {"bf16": accuracy(logits.float().numpy(), test.labels)}
