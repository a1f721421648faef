"""From the logits of a launch to refinements: each job's stages pooled as the manifest says.

Knows jobs as the engine keeps them and the formulas of model_repo.pooling; must not know time, sockets or the policy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model_repo.manifest import Manifest
from model_repo.pooling import pool, softmax, stage_log_probabilities
from server.engine.backends.protocol import Logits
from server.messages import Decision, Refinement

Floats = NDArray[np.float32]


@dataclass(slots=True)
class JobRecord:
    """One job at the engine.

    Attributes:
        front_end: connection it came by.
        number: its number there.
        model: name@version.
        deadline_ns, arrived_ns: monotonic.
        top_k: classes wanted in a refinement, at most as many as there are.
        pixels: uint8 height x width x 3.
        logits: float32 [classes] of each stage that has run, by place in the ladder.
        queue_ns: from arrival to first launch; -1 before it.
        compute_ns: wall time of its launches.
    """

    front_end: bytes
    number: int
    model: str
    deadline_ns: int
    arrived_ns: int
    top_k: int
    pixels: bytes
    logits: dict[int, Floats] = field(default_factory=dict)
    queue_ns: int = -1
    compute_ns: int = 0


@dataclass(frozen=True, slots=True)
class Refined:
    """What one launch has made of its jobs, in the launch's order.

    Attributes:
        confidences: top probability of each pooled answer.
    """

    jobs: list[JobRecord]
    stage: int
    confidences: list[float]
    _indices: list[list[int]]
    _values: list[list[float]]
    _alone: list[tuple[int, float]]

    def message(self, n: int, final: str | None, decisions: list[Decision] | None = None) -> Refinement:
        """The refinement of job n."""
        job = self.jobs[n]
        top = list(zip(self._indices[n][: job.top_k], self._values[n], strict=False))
        alone, queue_ns, compute_ns = self._alone[n], job.queue_ns, job.compute_ns
        return Refinement(job.number, self.stage, top, alone, queue_ns, compute_ns, final, decisions)


@dataclass(frozen=True, slots=True)
class _Formula:
    stages: tuple[int, ...]
    weights: tuple[float, ...]
    temperature: float
    alone: int  # the only stage that has a say, as it is; -1 where several have


class Refiner:
    """Pools the stages of one model."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._temperatures = [stage.temperature for stage in manifest.stages]
        self._formulas: dict[tuple[int, ...], _Formula] = {}

    def refine(self, jobs: list[JobRecord], stage: int, logits: Logits) -> Refined:
        """Add a stage to each job.

        Args:
            jobs: n jobs of this model, in the launch's order.
            stage: the stage that has run.
            logits: float32 [n, classes], finite.
        """
        for job, row in zip(jobs, logits, strict=True):
            job.logits[stage] = row
        alone = softmax(logits, self._temperatures[stage])
        pooled = self._pooled(jobs, stage, alone)
        indices, values = _best_first(pooled, max(job.top_k for job in jobs))
        tops = (indices, values) if pooled is alone else _best_first(alone, 1)
        stage_tops = [(index[0], value[0]) for index, value in zip(*tops, strict=True)]
        return Refined(jobs, stage, [row[0] for row in values], indices, values, stage_tops)

    def _pooled(self, jobs: list[JobRecord], ran: int, alone: Floats) -> Floats:
        """Probabilities float32 [n, classes] after stage `ran` alone gave `alone`, of the same shape.

        Jobs with the same stages behind them are pooled together. Where the manifest lets the stage that ran speak
        alone, there is nothing to pool: with small batches most of the time went there.
        """
        alike: dict[tuple[int, ...], list[int]] = {}
        for n, job in enumerate(jobs):
            alike.setdefault(tuple(sorted(job.logits)), []).append(n)
        mixed = {s: members for s, members in alike.items() if self._formula(s).alone != ran}
        if not mixed:
            return alone
        pooled = alone.copy()
        for stages, members in mixed.items():
            pooled[members] = self._pool([jobs[n] for n in members], self._formula(stages))
        return pooled

    def _pool(self, jobs: list[JobRecord], formula: _Formula) -> Floats:
        rows = [
            stage_log_probabilities(np.stack([job.logits[s] for job in jobs]), self._temperatures[s])
            for s in formula.stages
        ]
        return pool(rows, formula.weights, formula.temperature)

    def _formula(self, stages: tuple[int, ...]) -> _Formula:
        found = self._formulas.get(stages)
        if found is None:
            names = self._manifest.stage_names
            rule = self._manifest.pools[",".join(names[stage] for stage in stages)]
            speaking = [stage for stage, weight in zip(stages, rule.weights, strict=True) if weight]
            plain = len(speaking) == 1 and max(rule.weights) == rule.temperature
            found = self._formulas[stages] = _Formula(
                stages, rule.weights, rule.temperature, speaking[0] if plain else -1
            )
        return found


def _best_first(probabilities: Floats, count: int) -> tuple[list[list[int]], list[list[float]]]:
    """Per row the `count` likeliest classes, best first (the lower index among equals), and their probabilities."""
    order = (-probabilities).argsort(axis=1, kind="stable")[:, :count].tolist()
    rows = probabilities.tolist()
    return order, [[row[index] for index in best] for row, best in zip(rows, order, strict=True)]
