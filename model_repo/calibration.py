"""Calibration: temperatures, pool weights and expected gains from logits on data used for nothing else.

Knows numbers only: logits in, the manifest's Pool and gain tables out. No torch, so that graphs of any origin can be
calibrated. What is reported (accuracy of a set, gains) is cross-fitted: every image is judged by weights that were
fitted without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, minimize, minimize_scalar

from model_repo.manifest import Pool, rung_sets
from model_repo.pooling import Floats, log_softmax, pool, stage_log_probabilities

Labels = NDArray[np.int64]

GAIN_BIN_EDGES = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)
FOLDS = 5
TEMPERATURE_SPREAD = 0.5
MIN_WEIGHT = 0.02
"""Pool weights below this share are dropped: they move no answer."""


@dataclass(frozen=True)
class Calibration:
    """What calibration gives the manifest; keys as there."""

    temperatures: dict[str, float]
    pools: dict[str, Pool]
    gain_bin_edges: tuple[float, ...]
    gains: dict[str, dict[str, tuple[float, ...]]]


def calibrate(logits: Mapping[str, Floats], labels: Labels) -> Calibration:
    """Fit everything for one ladder.

    Args:
        logits: float32 [n, classes] per rung, in ladder order.
        labels: int64 [n].

    Raises:
        ValueError: fewer images than folds.
    """
    if len(labels) < 2 * FOLDS:
        raise ValueError(f"{len(labels)} calibration images are too few, at least {2 * FOLDS} are needed")
    names = list(logits)
    temperatures = {name: fit_temperature(logits[name], labels) for name in names}
    stages = {name: stage_log_probabilities(logits[name], temperatures[name]) for name in names}
    pools: dict[str, Pool] = {}
    held_out: dict[str, Floats] = {}
    for key in rung_sets(names):
        pools[key], held_out[key] = _fit_pool([stages[name] for name in key.split(",")], labels)
    gains = {key: _gains_after(key, names, held_out) for key in pools}
    return Calibration(temperatures, pools, GAIN_BIN_EDGES, gains)


@dataclass(frozen=True)
class Measures:
    """How one stage does on labelled images: accuracy, mean NLL, calibration error and area under risk-coverage."""

    accuracy: float
    nll: float
    ece: float
    aurc: float


def measure(probabilities: Floats, labels: Labels) -> Measures:
    """All measures of probabilities [n, classes]."""
    return Measures(
        accuracy(probabilities, labels),
        nll(probabilities, labels),
        expected_calibration_error(probabilities, labels),
        area_under_risk_coverage(probabilities, labels),
    )


def measure_stage(logits: Floats, labels: Labels, temperature: float) -> Measures:
    """All measures of one stage's logits [n, classes] at a temperature."""
    return measure(np.exp(stage_log_probabilities(logits, temperature)), labels)


def nll(probabilities: Floats, labels: Labels) -> float:
    """Mean negative log-likelihood."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())


def accuracy(probabilities: Floats, labels: Labels) -> float:
    """Share of rows whose largest entry is at the label."""
    return float((probabilities.argmax(1) == labels).mean())


def expected_calibration_error(probabilities: Floats, labels: Labels, bins: int = 15) -> float:
    """ECE over `bins` equal bins of confidence (Guo et al. 2017)."""
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(index, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def area_under_risk_coverage(probabilities: Floats, labels: Labels) -> float:
    """AURC (Geifman & El-Yaniv 2017): mean error of the most confident share of images, over all shares.

    Lower is better; it judges the order of confidences alone, so that a temperature hardly moves it.
    """
    order = np.argsort(-probabilities.max(1), kind="stable")
    wrong = (probabilities.argmax(1) != labels)[order]
    return float((np.cumsum(wrong) / np.arange(1, len(wrong) + 1)).mean())


def fit_temperature(logits: Floats, labels: Labels) -> float:
    """The temperature in [1/20, 20] that minimises the NLL of log softmax(logits / T), with a weak prior around 1.

    The prior, log T normal with deviation TEMPERATURE_SPREAD, weighs as much as a few images. Without it a stage that
    is right on all of a few dozen images would be called certain of everything.
    """

    def loss(log_t: float) -> float:
        rows = log_softmax(logits / np.float32(np.exp(log_t)))
        prior = (log_t / TEMPERATURE_SPREAD) ** 2 / 2
        return float(-rows[np.arange(len(labels)), labels].mean()) + prior / len(labels)

    found = minimize_scalar(loss, bounds=(-np.log(20), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def _fit_pool(stages: list[Floats], labels: Labels) -> tuple[Pool, Floats]:
    """The pool of one set and its cross-fitted probabilities; the deepest stage alone unless pooling is better."""
    deepest = _one_hot(len(stages))
    plain = _cross_fit(stages, labels, lambda _s, _l: deepest)
    weights, held_out = deepest, plain
    if len(stages) > 1:
        pooled = _cross_fit(stages, labels, _fit_weights)
        if _surely_better(pooled, plain, labels):
            weights, held_out = _fit_weights(stages, labels), pooled
    total = sum(weights)
    shares = tuple(round(w / total, 4) for w in weights)
    return Pool(
        weights=shares, temperature=round(1 / total, 4), accuracy=accuracy(held_out, labels)
    ), held_out


def _surely_better(pooled: Floats, plain: Floats, labels: Labels) -> bool:
    """Whether `pooled` has a lower NLL by 1.5 standard errors, and no lower accuracy by one, both paired.

    A pool that wins by less on these images may lose on new ones. Accuracy moves in steps of whole images, so a little
    less of it says nothing.
    """
    rows = np.arange(len(labels))
    likelier = np.log(np.maximum(pooled[rows, labels], 1e-12)) - np.log(
        np.maximum(plain[rows, labels], 1e-12)
    )
    more_right = (pooled.argmax(1) == labels).astype(np.float64) - (plain.argmax(1) == labels)
    return _in_standard_errors(likelier) > 1.5 and _in_standard_errors(more_right) >= -1.0


def _in_standard_errors(differences: NDArray[np.floating]) -> float:
    """Mean of paired differences [n] by its standard error; 0 where all are 0."""
    error = float(differences.std(ddof=1)) / len(differences) ** 0.5
    return float(differences.mean()) / error if error else 0.0


def _one_hot(size: int) -> tuple[float, ...]:
    return (0.0,) * (size - 1) + (1.0,)


def _cross_fit(
    stages: list[Floats], labels: Labels, fit: Callable[[list[Floats], Labels], tuple[float, ...]]
) -> Floats:
    fold = np.arange(len(labels)) % FOLDS
    out = np.empty_like(stages[0])
    for k in range(FOLDS):
        inside, outside = fold != k, fold == k
        weights = fit([s[inside] for s in stages], labels[inside])
        out[outside] = pool([s[outside] for s in stages], weights, 1.0)
    return out


def _fit_weights(stages: list[Floats], labels: Labels) -> tuple[float, ...]:
    """Non-negative weights (their sum is 1 / temperature) that minimise the NLL of the pool; a convex problem."""
    stacked = np.stack(stages, 2).astype(np.float64)  # [n, classes, stages]
    at_label = stacked[np.arange(len(labels)), labels]  # [n, stages]
    found = minimize(
        partial(_pool_loss, stacked=stacked, at_label=at_label),
        np.full(len(stages), 1 / len(stages)),
        jac=True,
        method="L-BFGS-B",
        bounds=[(0.0, 20.0)] * len(stages),
    )
    weights = found.x / found.x.sum()
    return tuple(float(w) if share >= MIN_WEIGHT else 0.0 for w, share in zip(found.x, weights, strict=True))


def _pool_loss(
    weights: NDArray[np.float64], stacked: NDArray[np.float64], at_label: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    scores = stacked @ weights
    top = scores.max(1, keepdims=True)
    exp = np.exp(scores - top)
    total = exp.sum(1, keepdims=True)
    loss = float((np.log(total[:, 0]) + top[:, 0] - at_label @ weights).mean())
    expected = np.einsum("nc,ncs->ns", exp / total, stacked)
    return loss, (expected - at_label).mean(0)


def _gains_after(key: str, names: list[str], held_out: Mapping[str, Floats]) -> dict[str, tuple[float, ...]]:
    done = key.split(",")
    return {
        name: _gain_table(held_out[key], held_out[_with(done, name, names)])
        for name in names
        if name not in done
    }


def _with(done: list[str], name: str, names: list[str]) -> str:
    return ",".join(n for n in names if n in done or n == name)


def _gain_table(before: Floats, after: Floats) -> tuple[float, ...]:
    """Mean gain in accuracy per bin of the answer's confidence, made non-increasing (isotonic, weighted by counts).

    The gain of an image is what the answer after says of it: how much more probable its class is than that of the
    answer before. This asks for calibrated answers and for no labels, which tell only right or wrong: on a few
    thousand images the few that change sides would drown a small gain in noise. (Measured on the shipped model against
    its 10,000 test images: an error of 1.2 points a bin, root mean square, instead of 1.5.) A bin without images takes
    its neighbours' value through a pseudo-count that no real image notices.
    """
    rows = np.arange(len(after))
    gain = (after.max(1) - after[rows, before.argmax(1)]).astype(np.float64)
    bins = len(GAIN_BIN_EDGES) - 1
    index = np.clip(np.searchsorted(GAIN_BIN_EDGES, before.max(1), side="right") - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins).astype(np.float64)
    means = np.bincount(index, weights=gain, minlength=bins) / np.maximum(counts, 1)
    known = np.flatnonzero(counts)
    filled = np.interp(np.arange(bins), known, means[known])
    smooth = isotonic_regression(filled, weights=np.maximum(counts, 1e-3), increasing=False).x
    return tuple(round(float(value), 5) for value in smooth)
