"""Numbers of a finished run: every stage alone, every prefix of the ladder pooled, rungs against each other.

Temperatures and pools are fitted on the calibration part; everything here is measured on the test part.
Knows logits and labels; must not know figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from model_repo.calibration import Measures, calibrate, fit_temperature, measure, measure_stage
from model_repo.fractalnet import Cost, stage_depth
from model_repo.pooling import Floats, pool, stage_log_probabilities
from training.publish import Ladder, Trained, choose_ladder
from training.significance import Paired, mcnemar


@dataclass(frozen=True)
class StageRow:
    """One stage alone on the test part, before (`raw`) and after its temperature (`calibrated`)."""

    name: str
    depth: int
    cost: Cost
    rung: bool
    temperature: float
    raw: Measures
    calibrated: Measures


@dataclass(frozen=True)
class PrefixRow:
    """The first rungs of the ladder pooled, beside the deepest of them alone, calibrated. `used`: whether pooled."""

    rungs: tuple[str, ...]
    used: bool
    pooled: Measures
    deepest: Measures

    @property
    def holds(self) -> bool:
        """Whether pooling, where it is used, beats the deepest alone in test accuracy or NLL."""
        better = self.pooled.accuracy > self.deepest.accuracy or self.pooled.nll < self.deepest.nll
        return better or not self.used


@dataclass(frozen=True)
class NeighbourRow:
    """McNemar's test of a rung alone against the rung before it."""

    before: str
    after: str
    found: Paired


@dataclass(frozen=True)
class Results:
    """Everything that is measured of one run.

    Attributes:
        answers: probabilities [n, classes] of all rungs together on the test part.
        labels: int64 [n] of the test part.
    """

    stages: tuple[StageRow, ...]
    prefixes: tuple[PrefixRow, ...]
    neighbours: tuple[NeighbourRow, ...]
    answers: Floats
    labels: NDArray[np.int64]


def results(trained: Trained, ladder: Ladder) -> Results:
    """Measure a run under a choice of ladder. Raises ValueError if there are too few images to calibrate with."""
    rungs = choose_ladder(trained, ladder)
    labels = trained.labels("test")
    fitted = calibrate({n: trained.logits(n, "calibration") for n in rungs}, trained.labels("calibration"))
    logp = {n: stage_log_probabilities(trained.logits(n, "test"), fitted.temperatures[n]) for n in rungs}
    prefixes, answers = [], np.exp(logp[rungs[0]])
    for size in range(1, len(rungs) + 1):
        names = tuple(rungs[:size])
        found = fitted.pools[",".join(names)]
        answers = pool([logp[n] for n in names], found.weights, found.temperature)
        used = any(found.weights[:-1])
        prefixes.append(
            PrefixRow(names, used, measure(answers, labels), measure(np.exp(logp[names[-1]]), labels))
        )
    return Results(
        tuple(_stage_row(trained, name, name in rungs) for name in by_cost(trained)),
        tuple(prefixes),
        tuple(_neighbour(trained, a, b) for a, b in pairwise(rungs)),
        answers,
        labels,
    )


def by_cost(trained: Trained) -> list[str]:
    """All stages from cheap to dear."""
    return sorted(trained.stages, key=lambda name: (trained.costs[name].multiply_adds, name))


def _stage_row(trained: Trained, name: str, rung: bool) -> StageRow:
    temperature = fit_temperature(trained.logits(name, "calibration"), trained.labels("calibration"))
    test, labels = trained.logits(name, "test"), trained.labels("test")
    return StageRow(
        name,
        stage_depth(trained.config, name),
        trained.costs[name],
        rung,
        temperature,
        measure_stage(test, labels, 1.0),
        measure_stage(test, labels, temperature),
    )


def _neighbour(trained: Trained, before: str, after: str) -> NeighbourRow:
    labels = trained.labels("test")
    first, second = (trained.logits(name, "test").argmax(1) == labels for name in (before, after))
    return NeighbourRow(before, after, mcnemar(first, second))


def confusion(answers: Floats, labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """How often an image of class i was answered j, int64 [classes, classes]."""
    flat = np.bincount(labels * classes + answers.argmax(1), minlength=classes * classes)
    return flat.reshape(classes, classes)


@dataclass(frozen=True)
class Reliability:
    """Mean confidence, accuracy and number of images of every bin of confidence that has any."""

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    count: NDArray[np.int64]


def reliability(probabilities: Floats, labels: NDArray[np.int64], bins: int = 15) -> Reliability:
    """The points of a reliability diagram, over `bins` equal bins of confidence."""
    confidence = probabilities.max(1).astype(np.float64)
    right = (probabilities.argmax(1) == labels).astype(np.float64)
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    some = count > 0
    sums = (np.bincount(index, weights=values, minlength=bins)[some] for values in (confidence, right))
    means = [total / count[some] for total in sums]
    return Reliability(means[0], means[1], count[some])
