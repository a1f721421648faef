from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from model_repo.pooling import log_softmax, pool, stage_log_probabilities

logits = arrays(np.float32, (4, 7), elements=st.floats(-50, 50, width=32))


@given(logits)
def test_log_softmax_is_the_logarithm_of_a_distribution(values):
    np.testing.assert_allclose(np.exp(log_softmax(values)).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(log_softmax(values), log_softmax(values + np.float32(3)), atol=1e-4)


def test_large_logits_do_not_overflow():
    result = log_softmax(np.array([[1e4, 0.0], [-1e4, 0.0]], np.float32))
    assert np.isfinite(result).all()


def test_a_temperature_above_one_makes_a_stage_less_sure():
    values = np.array([[3.0, 1.0, 0.0]], np.float32)
    sure, unsure = stage_log_probabilities(values, 1.0), stage_log_probabilities(values, 4.0)
    assert unsure.max() < sure.max()
    assert unsure.argmax() == sure.argmax()


@given(logits)
def test_one_stage_with_weight_one_is_itself(values):
    alone = stage_log_probabilities(values, 1.0)
    np.testing.assert_allclose(pool([alone], [1.0], 1.0), np.exp(alone), atol=1e-5)


@given(logits, logits, st.floats(0.1, 2), st.floats(0.1, 2), st.floats(0.3, 3))
def test_pooling_is_a_weighted_geometric_mean_at_a_temperature(first, second, w1, w2, temperature):
    rows = [stage_log_probabilities(first, 1.0), stage_log_probabilities(second, 1.0)]
    expected = np.exp((w1 * rows[0].astype(np.float64) + w2 * rows[1].astype(np.float64)) / temperature)
    expected /= expected.sum(axis=1, keepdims=True)
    pooled = pool(rows, [w1, w2], temperature)
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, expected, atol=1e-4)


def test_a_weight_of_zero_leaves_a_stage_out_even_where_it_is_certain_of_another_class():
    first = stage_log_probabilities(np.array([[5.0, 0.0]], np.float32), 1.0)
    certain = np.array([[-np.inf, 0.0]], np.float32)
    np.testing.assert_allclose(pool([first, certain], [1.0, 0.0], 1.0), np.exp(first), atol=1e-6)


def test_each_stage_needs_its_weight():
    rows = [np.zeros((1, 2), np.float32)] * 2
    with pytest.raises(ValueError, match="zip"):
        pool(rows, [1.0], 1.0)
