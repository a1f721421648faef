import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.bounds import u1, u1_prime
from loadtest.bounds.options import pooled_accuracies
from tests.loadtest.bounds.brute_force import best_utility
from tests.loadtest.bounds.instances import arrivals, ladders


@settings(max_examples=40, deadline=None)
@given(ladders(), arrivals(5), st.integers(1, 12))
def test_u1_is_what_trying_every_schedule_finds(ladder, times, budget):
    accuracies, latencies = ladder
    found = best_utility(accuracies, latencies, times, budget)
    bound = u1(accuracies, latencies, times, budget, tolerance=0.0)
    assert bound.effective_accuracy * len(times) == pytest.approx(found)
    assert bound.reached == pytest.approx(bound.effective_accuracy)
    answered = best_utility(np.ones(len(accuracies)), latencies, times, budget)
    assert bound.attainment * len(times) == pytest.approx(answered)


@pytest.mark.parametrize("seed", range(3))
def test_u1_is_what_trying_every_schedule_of_six_requests_finds(seed):
    random = np.random.default_rng(seed)
    latencies = np.array([[2.0, 3.0, 4.0], [5.0, 6.0, 8.0]])
    times = np.sort(random.integers(0, 12, 6))
    bound = u1([0.7, 0.95], latencies, times, 9, tolerance=0.0)
    assert bound.effective_accuracy * 6 == pytest.approx(best_utility([0.7, 0.95], latencies, times, 9))


@settings(max_examples=20, deadline=None)
@given(ladders(rungs=3), arrivals(40), st.integers(1, 30), st.sampled_from([0.0005, 0.01, 0.05]))
def test_merging_keeps_the_optimum_between_what_is_reached_and_the_bound(ladder, times, budget, tolerance):
    exact = u1(*ladder, times, budget, tolerance=0.0).effective_accuracy
    merged = u1(*ladder, times, budget, tolerance=tolerance)
    assert merged.reached - 1e-9 <= exact <= merged.effective_accuracy + 1e-9
    assert merged.tolerance <= tolerance + 1e-9


@settings(max_examples=20, deadline=None)
@given(ladders(rungs=3), arrivals(40), st.integers(1, 30))
def test_u1_never_exceeds_u1_prime(ladder, times, budget):
    exact = u1(*ladder, times, budget, tolerance=0.0)
    relaxed = u1_prime(*ladder, times, times + budget)
    assert exact.effective_accuracy <= relaxed.effective_accuracy + 1e-9
    assert exact.attainment <= relaxed.attainment + 1e-9


@settings(max_examples=20, deadline=None)
@given(ladders(), arrivals(25), st.integers(2, 20))
def test_u1_does_not_fall_when_arrivals_spread_or_budgets_grow(ladder, times, budget):
    crowded = u1(*ladder, times, budget, tolerance=0.0).effective_accuracy
    # With the same budget it may fall: whom a batch would have to wait for comes later.
    assert u1(*ladder, times * 2, budget * 2, tolerance=0.0).effective_accuracy >= crowded - 1e-9
    assert u1(*ladder, times, budget + 3, tolerance=0.0).effective_accuracy >= crowded - 1e-9


def test_alone_a_request_gets_the_best_rung_that_fits_its_budget():
    latencies = [[1.0], [4.0], [9.0]]
    assert u1([0.8, 0.9, 0.95], latencies, [0.0], 5.0).effective_accuracy == pytest.approx(0.9)
    assert u1([0.8, 0.9, 0.95], latencies, [0.0], 0.5).effective_accuracy == 0.0


def test_a_small_batch_may_be_padded_to_a_faster_larger_one():
    assert u1([0.9], [[5.0, 3.0]], [0.0], 4.0).effective_accuracy == pytest.approx(0.9)


def test_nothing_offered_is_no_error():
    assert u1([0.9], [[1.0]], [], 1.0).effective_accuracy == 0.0


@pytest.mark.parametrize(
    ("accuracies", "latencies", "budget", "tolerance"),
    [([0.9, 1.0], [[1.0]], 1, 0), ([1.1], [[1.0]], 1, 0), ([0.9], [[0.0]], 1, 0), ([0.9], [1.0], 1, 0),
     ([0.9], [[1.0]], 0, 0), ([0.9], [[1.0]], 1, -1)],
)  # fmt: skip
def test_senseless_inputs_are_refused(accuracies, latencies, budget, tolerance):
    with pytest.raises(ValueError, match=r"accuracies|latencies|budget"):
        u1(accuracies, latencies, [0.0], budget, tolerance)


def test_pooling_credits_the_costliest_rung_of_a_set():
    by_set = [0.0, 0.80, 0.90, 0.93]
    assert pooled_accuracies(by_set, [[1.0], [3.0]]).tolist() == [0.80, 0.93]
    assert pooled_accuracies(by_set, [[3.0], [1.0]]).tolist() == [0.93, 0.90]
