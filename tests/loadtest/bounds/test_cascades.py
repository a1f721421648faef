from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtest.bounds import Options, cascade_options, direct_options, relaxed, u1_prime, u2

LATENCIES = np.array([[2.0, 3.0, 4.0], [4.0, 6.0, 7.0], [9.0, 14.0, 18.0]])
IMAGES = 300


def recorded(rungs, seed):
    """Outputs in which confidence tells something of being right, and larger sets are right more often."""
    random = np.random.default_rng(seed)
    skill = np.array([0.0] + [0.6 + 0.3 * mask / (1 << rungs) for mask in range(1, 1 << rungs)])
    ease = random.uniform(size=IMAGES)
    confidences = np.clip(ease + random.normal(0, 0.2, (1 << rungs, IMAGES)), 0, 1).round(2)
    return confidences, ease + skill[:, None] > random.uniform(0.4, 1.0, (1 << rungs, IMAGES))


def walked(confidences, right, kappas, name):
    """Cost and accuracy of the cascade that a name tells of, image by image."""
    words = name.split()
    rungs, thresholds = [int(word) for word in words[::2]], [float(word[1:]) for word in words[1::2]]
    cost = accuracy = 0.0
    for image in range(right.shape[1]):
        finished = 1 << rungs[0]
        cost += kappas[rungs[0]]
        for rung, threshold in zip(rungs[1:], thresholds, strict=True):
            if not confidences[finished, image] < threshold:
                break
            finished |= 1 << rung
            cost += kappas[rung]
        accuracy += right[finished, image]
    return cost / right.shape[1], accuracy / right.shape[1]


@pytest.mark.parametrize(("rungs", "steps"), [(2, 1), (3, 1), (3, 2)])
def test_every_option_is_what_walking_the_cascade_image_by_image_gives(rungs, steps):
    confidences, right = recorded(rungs, seed=rungs)
    latencies = LATENCIES[:rungs]
    options = cascade_options(confidences, right, latencies, quantiles=8, steps=steps)
    kappas = direct_options(np.zeros(rungs), latencies).cost_ns
    for cost, accuracy, name in zip(options.cost_ns, options.accuracy, options.names, strict=True):
        # The confidences have two decimals, so the four in a name may hide a threshold between two of them.
        assert walked(confidences, right, kappas, name) == pytest.approx((cost, accuracy), abs=1e-9), name


def test_the_best_threshold_pair_is_found_by_trying_them_all():
    confidences, right = recorded(3, seed=9)
    kappas = direct_options(np.zeros(3), LATENCIES).cost_ns
    options = cascade_options(confidences, right, LATENCIES, quantiles=200, steps=2)
    for outer in (0.2, 0.5, 0.8):
        for inner in (0.3, 0.6):
            cost, accuracy = walked(confidences, right, kappas, f"0 <{outer} 1 <{inner} 2")
            assert options.best_at(cost) >= accuracy - 1e-9


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 4), st.integers(0, 1000), st.floats(0.3, 5))
def test_u2_is_never_below_u1_prime(rungs, seed, gap):
    confidences, right = recorded(rungs, seed)
    latencies = np.array([[2.0, 3.0], [4.0, 6.0], [9.0, 14.0], [12.0, 20.0]])[:rungs]
    times = np.arange(30) * gap
    deadlines = times + np.random.default_rng(seed).uniform(2, 60, 30)
    single = [right[1 << rung].mean() for rung in range(rungs)]
    cascades = u2(cascade_options(confidences, right, latencies, quantiles=5), times, deadlines)
    assert (
        cascades.effective_accuracy >= u1_prime(single, latencies, times, deadlines).effective_accuracy - 1e-9
    )


def test_more_steps_and_more_thresholds_never_lower_the_hull():
    confidences, right = recorded(3, seed=4)
    coarse = cascade_options(confidences, right, LATENCIES, quantiles=10, steps=1)
    finer = cascade_options(confidences, right, LATENCIES, quantiles=20, steps=1)
    longer = cascade_options(confidences, right, LATENCIES, quantiles=10, steps=2)
    for cost in np.linspace(1, 10, 19):
        assert coarse.best_at(cost) <= min(finer.best_at(cost), longer.best_at(cost)) + 1e-9


def test_confidence_that_tells_all_makes_the_cascade_as_good_as_the_deep_rung():
    right = np.zeros((4, 100))
    right[1, :80] = 1
    right[2:, :] = 1
    confidences = right.copy()
    options = cascade_options(confidences, right, [[1.0], [10.0]], quantiles=10, steps=1)
    assert options.best_at(1 + 0.2 * 10) == pytest.approx(1.0)
    assert direct_options([0.8, 1.0], [[1.0], [10.0]]).best_at(3.0) < 0.85


def options_of(points):
    cost, accuracy = (np.array(column, np.float64) for column in zip(*points, strict=True))
    return Options(cost, accuracy, np.zeros(len(cost)), tuple(str(index) for index in range(len(cost))))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 20), st.floats(0, 1)), min_size=1, max_size=12), st.floats(0, 25))
def test_the_hull_is_concave_rises_and_lies_above_every_option(points, cost):
    options = options_of(points)
    hull = options.hull()
    corners = [(0.0, 0.0), *zip(hull.cost_ns, hull.accuracy, strict=True)]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(corners)]
    assert all(slope > 0 for slope in slopes)
    assert slopes == sorted(slopes, reverse=True)
    for point in points:
        assert hull.best_at(point[0]) >= point[1] - 1e-9
    assert set(hull.names) <= set(options.names)
    assert options.best_at(cost) == pytest.approx(hull.best_at(cost))


def test_a_rise_too_small_for_a_slope_is_no_corner():
    assert len(options_of([(2, 5e-324)]).hull()) == 0
    assert options_of([(1, 0.5), (20, 0.5)]).hull().names == ("0",)


def test_an_overhead_is_charged_to_every_answer():
    options = direct_options([0.8, 0.9], LATENCIES[:2]).charged(1.5)
    assert options.cost_ns.tolist() == pytest.approx([4 / 3 + 1.5, 7 / 3 + 1.5])
    assert options.shortest_ns.tolist() == [3.5, 5.5]
    assert relaxed(options, [0.0], [4.0]).effective_accuracy == pytest.approx(0.8)


def test_outputs_of_the_wrong_shape_are_refused():
    confidences, right = recorded(2, seed=0)
    with pytest.raises(ValueError, match="latencies of 3"):
        cascade_options(confidences, right, LATENCIES)
    with pytest.raises(ValueError, match="shape"):
        cascade_options(confidences[:3], right[:3], LATENCIES)
