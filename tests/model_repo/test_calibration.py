"""Temperatures, pools and gains from logits."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model_repo.calibration import (
    accuracy,
    area_under_risk_coverage,
    calibrate,
    expected_calibration_error,
    fit_temperature,
    nll,
)
from model_repo.manifest import rung_sets
from model_repo.pooling import log_softmax, pool, stage_log_probabilities

N, CLASSES = 4000, 5


def noisy_logits(labels: NDArray[np.int64], signal: float, seed: int) -> NDArray[np.float32]:
    """Logits whose softmax at temperature 1 is the true posterior of a Gaussian class model with this signal."""
    noise = np.random.default_rng(seed).normal(size=(len(labels), CLASSES))
    noise[np.arange(len(labels)), labels] += signal
    return (signal * noise).astype(np.float32)


LABELS = np.random.default_rng(0).integers(0, CLASSES, N)
WEAK, STRONG = noisy_logits(LABELS, 1.2, 1), noisy_logits(LABELS, 2.5, 2)


@pytest.mark.parametrize("scale", [0.25, 1.0, 6.0])
def test_the_temperature_undoes_over_and_under_confidence(scale: float) -> None:
    t = fit_temperature(np.float32(scale) * STRONG, LABELS)
    assert t == pytest.approx(scale, rel=0.1)
    calibrated = np.exp(stage_log_probabilities(np.float32(scale) * STRONG, t))
    assert expected_calibration_error(calibrated, LABELS) < 0.02


def test_a_few_right_answers_make_no_stage_certain() -> None:
    labels = np.arange(24) % CLASSES
    logits = 2.0 * np.eye(CLASSES, dtype=np.float32)[labels]
    t = fit_temperature(logits, labels)
    assert 0.3 < t < 1.0
    assert np.exp(stage_log_probabilities(logits, t)).max() < 0.9999


def test_two_independent_stages_pool_to_more_than_either() -> None:
    result = calibrate({"a": WEAK, "b": STRONG}, LABELS)
    pools = result.pools
    assert set(pools) == set(rung_sets(["a", "b"]))
    assert pools["a,b"].accuracy > pools["b"].accuracy > pools["a"].accuracy
    assert min(pools["a,b"].weights) > 0.2  # both are evidence
    fresh = np.random.default_rng(9).integers(0, CLASSES, N)
    logits = [noisy_logits(fresh, 1.2, 11), noisy_logits(fresh, 2.5, 12)]
    logp = [stage_log_probabilities(z, result.temperatures[n]) for z, n in zip(logits, "ab", strict=True)]
    pooled = pool(logp, pools["a,b"].weights, pools["a,b"].temperature)
    assert accuracy(pooled, fresh) == pytest.approx(pools["a,b"].accuracy, abs=0.02)
    assert nll(pooled, fresh) < nll(np.exp(logp[1]), fresh)


def test_a_stage_without_evidence_gets_no_say() -> None:
    nothing = np.random.default_rng(5).normal(size=(N, CLASSES)).astype(np.float32)
    result = calibrate({"noise": nothing, "b": STRONG}, LABELS)
    assert result.pools["noise,b"].weights[1] > 0.97


def test_a_pool_that_may_have_won_by_chance_is_not_used() -> None:
    """The weak stage knows next to nothing; on 40 images a pool with it often looks better, on new ones it is not."""
    for seed in range(20):
        labels = np.random.default_rng(seed).integers(0, CLASSES, 40)
        nearly_nothing = noisy_logits(labels, 0.3, 50 + seed)
        result = calibrate({"a": nearly_nothing, "b": noisy_logits(labels, 2.0, 100 + seed)}, labels)
        assert result.pools["a,b"].weights == (0.0, 1.0), seed


def test_gains_fall_with_confidence_and_name_exactly_the_missing_rungs() -> None:
    result = calibrate({"a": WEAK, "b": STRONG, "c": STRONG + WEAK}, LABELS)
    assert set(result.gains["a"]) == {"b", "c"}
    assert result.gains["a,b,c"] == {}
    table = result.gains["a"]["c"]
    assert len(table) == len(result.gain_bin_edges) - 1
    assert list(table) == sorted(table, reverse=True)
    assert table[0] > 0.1 > table[-1]


def test_expected_gain_is_the_difference_of_the_sets_accuracies() -> None:
    result = calibrate({"a": WEAK, "b": STRONG}, LABELS)
    confidence = np.exp(stage_log_probabilities(WEAK, result.temperatures["a"])).max(1)
    bins = np.clip(np.searchsorted(result.gain_bin_edges, confidence, side="right") - 1, 0, 11)
    mean = np.asarray(result.gains["a"]["b"])[bins].mean()
    assert mean == pytest.approx(result.pools["a,b"].accuracy - result.pools["a"].accuracy, abs=0.01)


def test_a_small_gain_shows_on_few_images() -> None:
    """A weak stage changes the side of a few in a hundred; which of those were right hardly tells the gain."""
    many = np.random.default_rng(1).integers(0, CLASSES, 20_000)
    strong, weak = noisy_logits(many, 2.5, 3), noisy_logits(many, 1.2, 4)
    right_after = (strong + weak).argmax(1) == many  # independent evidence: the sum is the true posterior
    right_before = strong.argmax(1) == many
    true = right_after.mean() - right_before.mean()
    errors, errors_by_label = [], []
    for start in range(0, len(many), 500):
        few = slice(start, start + 500)
        result = calibrate({"a": strong[few], "b": weak[few]}, many[few])
        confidence = np.exp(stage_log_probabilities(strong[few], result.temperatures["a"])).max(1)
        bins = np.clip(np.searchsorted(result.gain_bin_edges, confidence, side="right") - 1, 0, 11)
        if result.pools["a,b"].weights[0]:
            errors.append(np.asarray(result.gains["a"]["b"])[bins].mean() - true)
            errors_by_label.append(right_after[few].mean() - right_before[few].mean() - true)
    assert len(errors) > 10
    assert np.std(errors) < 0.8 * np.std(errors_by_label)
    assert abs(np.mean(errors)) < 0.01


def test_risk_is_low_where_the_confident_answers_are_right() -> None:
    labels = np.array([0, 0, 0, 0])
    sure = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]], np.float32)
    rising = area_under_risk_coverage(sure, labels)
    assert rising == pytest.approx((0 + 0 + 1 / 3 + 2 / 4) / 4)
    confident_when_wrong = np.array([[0.6, 0.4], [0.7, 0.3], [0.1, 0.9], [0.2, 0.8]], np.float32)
    assert area_under_risk_coverage(confident_when_wrong, labels) > rising


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="too few"):
        calibrate({"a": WEAK[:9]}, LABELS[:9])


def test_log_softmax_survives_large_logits() -> None:
    out = log_softmax(np.array([[1e4, 0.0, -1e4]], np.float32))
    assert np.isfinite(out).all()
    assert np.exp(out).sum() == pytest.approx(1.0)
