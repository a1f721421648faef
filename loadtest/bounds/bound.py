"""What a bound says, and the checks of what it is given. It knows nothing of how bounds are found."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bound:
    """An upper bound on effective accuracy, and how far it may lie above what is possible.

    `effective_accuracy`: no schedule of the kind bounded has more (right and on time, over all offered), in 0…1.
    `attainment`: no schedule answers a larger share on time, whatever its accuracy; usually another schedule
    than the one of best accuracy reaches it.
    `reached`: a schedule of this effective accuracy exists for the problem as the bound sees it; for `u1` that is
    the problem itself, so the true optimum lies in `reached … effective_accuracy`. For the relaxations it equals
    `effective_accuracy`.
    """

    effective_accuracy: float
    attainment: float
    reached: float

    @property
    def tolerance(self) -> float:
        """How much of the bound may be owed to pruning (a fraction, as the accuracies are)."""
        return self.effective_accuracy - self.reached


NOTHING_OFFERED = Bound(0.0, 0.0, 0.0)


def checked_latencies(latency_ns: ArrayLike) -> Floats:
    """Latencies [K, B] for batches of 1…B, made monotone: a batch may be padded to a larger one that is faster.

    Raises ValueError unless the array has two dimensions, no empty one, and positive finite entries.
    """
    latencies = np.asarray(latency_ns, dtype=np.float64)
    if latencies.ndim != 2 or 0 in latencies.shape:
        raise ValueError(f"latencies need the shape [rungs, batch sizes], not {latencies.shape}")
    if not (np.isfinite(latencies).all() and (latencies > 0).all()):
        raise ValueError("latencies must be positive and finite")
    return np.minimum.accumulate(latencies[:, ::-1], axis=1)[:, ::-1]


def checked_accuracies(accuracies: ArrayLike, rungs: int) -> Floats:
    """Accuracies [K] in 0…1. Raises ValueError otherwise."""
    checked = np.asarray(accuracies, dtype=np.float64)
    if checked.shape != (rungs,):
        raise ValueError(f"{rungs} rungs need as many accuracies, not shape {checked.shape}")
    if not ((checked >= 0) & (checked <= 1)).all():
        raise ValueError("accuracies must be fractions in 0…1")
    return checked


def checked_windows(arrivals_ns: ArrayLike, deadlines_ns: ArrayLike) -> tuple[Floats, Floats]:
    """Arrivals and deadlines [n], in order of arrival. Raises ValueError unless both are one-dimensional and equal."""
    arrivals, deadlines = np.asarray(arrivals_ns, np.float64), np.asarray(deadlines_ns, np.float64)
    if arrivals.ndim != 1 or arrivals.shape != deadlines.shape:
        raise ValueError(f"arrivals {arrivals.shape} and deadlines {deadlines.shape} must be two equal lists")
    order = np.argsort(arrivals, kind="stable")
    return arrivals[order], deadlines[order]
