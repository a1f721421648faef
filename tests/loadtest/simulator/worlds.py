"""Tiny worlds of known outcome, for tests only."""

from __future__ import annotations

import itertools

import numpy as np

from loadtest.simulator.durations import Durations, from_samples
from loadtest.simulator.model import SimulatedModel
from loadtest.simulator.offered import Offered, offer

MS = 1_000_000
STAGES = ("column1", "joined2", "full")
EDGES = (0.0, 0.5, 0.9, 1.0)
ALONE = (0.7, 0.8, 0.9)


def model(images: int = 1000, stages: tuple[str, ...] = STAGES, seed: int = 0) -> SimulatedModel:
    """Rung k alone is right on a share ALONE[k], the easiest images first; the deepest rung speaks for a set."""
    count = len(stages)
    alone = np.linspace(0.7, 0.9, count) if count != 3 else np.array(ALONE)
    ease = np.random.default_rng(seed).permutation(images) / images
    confidence = np.zeros((1 << count, images), dtype=np.float32)
    right = np.zeros(confidence.shape, dtype=np.bool_)
    for mask in range(1, 1 << count):
        deepest = mask.bit_length() - 1
        right[mask] = ease < alone[deepest]
        confidence[mask] = np.clip(1.0 - 0.8 * ease, 0.0, 1.0)
    keys = [",".join(s) for n in range(1, count + 1) for s in itertools.combinations(stages, n)]
    accuracies = {key: float(alone[stages.index(key.split(",")[-1])]) for key in keys}
    gains = {
        key: {
            name: tuple(
                max(0.0, float(alone[stages.index(name)]) - accuracies[key]) * factor for factor in (3, 1, 0)
            )
            for name in stages
            if name not in key.split(",")
        }
        for key in keys
    }
    return SimulatedModel(stages, accuracies, EDGES, gains, confidence, right)


def device(
    costs_ms: tuple[float, ...] = (0.1, 0.4, 1.2),
    max_batch: int = 8,
    batch_share: float = 0.8,
    overhead_ns: int = 20_000,
) -> Durations:
    """Rung k takes costs_ms[k] at batch 1, and `batch_share` of it for each further image. No jitter."""
    samples = {
        (stage, batch): np.full(4, round(cost * MS * (1 + batch_share * (batch - 1))), dtype=np.int64)
        for stage, cost in enumerate(costs_ms)
        for batch in (1, 2, 4, 8)
        if batch <= max_batch
    }
    return from_samples("test", samples, overhead_ns=overhead_ns, shares_core=True)


def at(times_ms: list[float], budget_ms: float, images: int = 1000, seed: int = 0) -> Offered:
    """Requests at those times."""
    return offer(np.array([round(t * MS) for t in times_ms], np.int64), (budget_ms, budget_ms), images, seed)
