from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.bounds import direct_options, fluid, relaxed, u1_prime
from loadtest.bounds.binned import binned
from tests.loadtest.bounds.instances import arrivals, ladders

ACCURACIES = [0.85, 0.91, 0.94]
LATENCIES = np.array([[2.0, 3.0, 4.0], [4.0, 6.0, 7.0], [9.0, 14.0, 18.0]])


def budgets(most):
    return st.lists(st.integers(1, 25), min_size=most, max_size=most)


@settings(max_examples=25, deadline=None)
@given(ladders(rungs=3), arrivals(20), budgets(20))
def test_the_greedy_is_the_linear_programme_with_a_bin_for_every_tick(ladder, times, windows):
    """All times are whole, so bins of one tick lose nothing but that a window also touches its deadline's bin."""
    deadlines = times + np.array(windows[: len(times)])
    options = direct_options(*ladder)
    free_of_budgets = replace(options, shortest_ns=np.zeros(len(options)))
    programme = binned(free_of_budgets, times, deadlines - 1e-6, 1.0)
    assert relaxed(free_of_budgets, times, deadlines).effective_accuracy == pytest.approx(programme, abs=1e-6)
    greedy = u1_prime(*ladder, times, deadlines).effective_accuracy
    assert greedy <= programme + 1e-6


def test_coarser_bins_never_lower_the_bound():
    random = np.random.default_rng(5)
    times = np.sort(random.uniform(0, 60, 50))
    deadlines = times + random.uniform(5, 60, 50)
    options = direct_options(ACCURACIES, LATENCIES)
    finer = [binned(options, times, deadlines, size) for size in (1.0, 4.0, 16.0)]
    assert u1_prime(ACCURACIES, LATENCIES, times, deadlines).effective_accuracy <= finer[0] + 1e-9
    assert finer[0] <= finer[1] + 1e-9 <= finer[2] + 2e-9
    assert finer[0] < finer[2]


@settings(max_examples=25, deadline=None)
@given(ladders(rungs=3), st.floats(0.01, 5), st.floats(1, 5))
def test_the_fluid_bound_falls_with_the_rate(ladder, rate, factor):
    assert fluid(*ladder, rate) >= fluid(*ladder, rate * factor) - 1e-12


def test_the_fluid_bound_mixes_two_rungs():
    # kappa = 4/3 and 6: a mean cost of 11/3 is half of each.
    assert fluid([0.8, 0.9], [[2, 3, 4], [9, 14, 18]], 3 / 11) == pytest.approx(0.85)
    assert fluid([0.8, 0.9], [[2, 3, 4], [9, 14, 18]], 1e-6) == pytest.approx(0.9)
    assert fluid([0.8, 0.9], [[2, 3, 4], [9, 14, 18]], 1.5) == pytest.approx(0.8 / 2)


def test_a_long_run_with_long_budgets_comes_to_the_fluid_bound():
    times = np.arange(4000) * 2.5
    relaxed = u1_prime(ACCURACIES, LATENCIES, times, times + 50).effective_accuracy
    assert relaxed == pytest.approx(fluid(ACCURACIES, LATENCIES, 1 / 2.5), abs=1e-3)


def test_it_falls_when_the_same_requests_come_faster():
    random = np.random.default_rng(2)
    times = np.cumsum(random.exponential(1.0, 400))
    window = random.uniform(3, 40, 400)
    seen = [u1_prime(ACCURACIES, LATENCIES, times * gap, times * gap + window) for gap in (8, 4, 2, 1, 0.5)]
    values = [bound.effective_accuracy for bound in seen]
    assert values == sorted(values, reverse=True)
    assert values[0] > values[-1]
    assert all(bound.attainment >= bound.effective_accuracy for bound in seen)


def test_a_budget_too_small_for_a_rung_rules_it_out():
    bound = u1_prime(ACCURACIES, LATENCIES, [0.0, 100.0, 200.0], [1.0, 105.0, 299.0])
    assert bound.effective_accuracy == pytest.approx((0 + 0.91 + 0.94) / 3)
    assert bound.attainment == pytest.approx(2 / 3)


def test_requests_in_any_order_and_none_at_all_are_allowed():
    forwards = u1_prime(ACCURACIES, LATENCIES, [0, 1, 5], [9, 4, 8])
    assert u1_prime(ACCURACIES, LATENCIES, [5, 1, 0], [8, 4, 9]) == forwards
    assert u1_prime(ACCURACIES, LATENCIES, [], []).effective_accuracy == 0.0
    assert binned(direct_options(ACCURACIES, LATENCIES), [], [], 1.0) == 0.0
    assert binned(direct_options(ACCURACIES, LATENCIES), [5.0], [1.0], 1.0) == 0.0


def test_senseless_inputs_are_refused():
    with pytest.raises(ValueError, match="two equal lists"):
        u1_prime(ACCURACIES, LATENCIES, [1, 2], [3])
    with pytest.raises(ValueError, match="bins"):
        binned(direct_options(ACCURACIES, LATENCIES), [0], [1], 0)
    with pytest.raises(ValueError, match="rate"):
        fluid(ACCURACIES, LATENCIES, 0.0)
