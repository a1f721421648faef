"""How the logits of the finished rungs become one answer.

Knows the formula of `Pool` in the manifest and nothing else: log p ∝ Σ w_k·log softmax(z_k / T_k), divided by T.
The engine serves with it, calibration fits with it, so the served probabilities are the calibrated ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def log_softmax(logits: Floats) -> Floats:
    """Row-wise log softmax of float32 [n, classes]."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))  # type: ignore[no-any-return]


def softmax(logits: Floats, temperature: float) -> Floats:
    """Calibrated probabilities of one stage alone, float32 [n, classes]."""
    scaled = logits * np.float32(1.0 / temperature)
    scaled -= scaled.max(axis=-1, keepdims=True)
    np.exp(scaled, out=scaled)
    scaled /= scaled.sum(axis=-1, keepdims=True)
    return scaled


def stage_log_probabilities(logits: Floats, temperature: float) -> Floats:
    """Calibrated log-probabilities of one stage alone, float32 [n, classes]."""
    return log_softmax(logits / np.float32(temperature))


def pool(log_probabilities: Sequence[Floats], weights: Sequence[float], temperature: float) -> Floats:
    """Pooled probabilities over one set of finished stages.

    Args:
        log_probabilities: per stage of the set, in ladder order, float32 [n, classes] from `stage_log_probabilities`.
        weights: one per stage.
        temperature: of the set.

    Returns:
        float32 [n, classes], rows sum to 1.
    """
    total = np.zeros_like(log_probabilities[0])
    for weight, values in zip(weights, log_probabilities, strict=True):
        if weight:
            total += np.float32(weight) * values
    return np.exp(log_softmax(total / np.float32(temperature)))
