from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.latency import FIRST_FACTOR, LatencyTable, buckets_up_to

MS = 1_000_000
PROFILE = {0: {1: 1.0 * MS, 2: 1.5 * MS, 4: 2.5 * MS, 8: 4.5 * MS}}


def table(**options) -> LatencyTable:
    return LatencyTable(PROFILE, 32, **{"jitter_ns": 0, **options})


def settled(ratio: float = 1.0) -> LatencyTable:
    known = table()
    for _ in range(600):
        known.observe(0, 1, int(ratio * MS))
    return known


@pytest.mark.parametrize(
    ("most", "buckets"),
    [(1, [1]), (2, [1, 2]), (5, [1, 2, 4, 5]), (32, [1, 2, 4, 8, 16, 32]), (48, [1, 2, 4, 8, 16, 32, 48])],
)
def test_buckets_are_powers_of_two_and_the_largest_batch(most, buckets):
    assert buckets_up_to(most) == buckets


def test_before_anything_is_measured_the_profile_bears_a_margin():
    assert table().ns(0, 1) == int(FIRST_FACTOR * MS)


def test_between_and_beyond_profiled_sizes_it_goes_on_linearly():
    known = settled()
    assert known.ns(0, 3) == pytest.approx(2.0 * MS)
    assert known.ns(0, 6) == pytest.approx(3.5 * MS)
    assert known.ns(0, 32) == pytest.approx((4.5 + 24 * 0.5) * MS)


def test_a_profile_of_one_size_is_taken_as_proportional():
    assert LatencyTable({0: {1: 2.0}}, 4, jitter_ns=0).typical_ns(0, 4) == 8


def test_a_larger_batch_never_seems_faster():
    known = LatencyTable({0: {1: 5.0 * MS, 2: 3.0 * MS, 4: 4.0 * MS}}, 8, jitter_ns=0)
    estimates = [known.ns(0, batch) for batch in range(1, 9)]
    assert estimates == sorted(estimates)


def test_a_device_that_measures_faster_than_its_profile_is_believed():
    assert settled(0.8).ns(0, 1) == pytest.approx(0.8 * MS)


def test_a_miss_raises_the_estimate_at_once_and_it_decays_slowly():
    known = settled()
    known.observe(0, 1, int(1.5 * MS))
    raised = known.ns(0, 1)
    assert raised >= 1.49 * MS
    known.observe(0, 1, MS)
    assert MS < known.ns(0, 1) < raised
    for _ in range(100):
        known.observe(0, 1, MS)
    assert known.ns(0, 1) < 1.05 * MS


def test_one_stall_of_thirty_times_at_most_doubles_the_estimate():
    known = settled()
    known.observe(0, 1, 33 * MS)
    assert known.ns(0, 1) <= 2 * MS


def test_a_device_that_is_ten_times_slower_is_known_after_four_launches():
    known = settled()
    for _ in range(4):
        known.observe(0, 1, 10 * MS)
    assert known.ns(0, 1) >= 9.9 * MS


def test_a_stall_among_the_first_launches_does_not_stand_for_the_device():
    known = table()
    for ratio in (1, 30, 1, 1, 1, 1, 1):
        known.observe(0, 1, ratio * MS)
    for _ in range(30):
        known.observe(0, 1, MS)
    assert known.ns(0, 1) <= 1.5 * MS


def test_relaxing_forgets_the_worst_until_the_profile_is_believed_again():
    known = settled(10.0)
    assert known.ns(0, 1) >= 9.9 * MS
    for _ in range(100):
        known.relax()
    assert known.ns(0, 1) <= FIRST_FACTOR * MS
    known.observe(0, 1, MS)
    assert known.ns(0, 1) <= FIRST_FACTOR * MS


def test_what_is_learnt_on_one_cell_counts_for_all():
    known = settled()
    for _ in range(4):
        known.observe(0, 8, 9 * MS)
    assert known.ns(0, 1) >= 1.9 * MS


def test_the_jitter_allowance_keeps_short_launches_from_spoiling_long_ones():
    known = LatencyTable(
        {0: {1: 0.1 * MS, 2: 0.2 * MS}, 1: {1: 5.0 * MS, 2: 10.0 * MS}}, 2, jitter_ns=100_000
    )
    for _ in range(100):
        known.observe(0, 1, int(0.19 * MS))
    assert known.ns(1, 1) < 5.2 * MS


def test_the_typical_latency_is_the_median_and_below_the_promise():
    known = settled()
    for _ in range(20):
        known.observe(0, 1, int(1.4 * MS))
    assert known.typical_ns(0, 1) == pytest.approx(MS)
    assert known.ns(0, 1) > known.typical_ns(0, 1)


def test_the_best_batch_is_the_smallest_that_is_nearly_cheapest_per_image():
    launch_bound = LatencyTable({0: {1: 1.0 * MS, 32: 1.1 * MS}}, 32, jitter_ns=0)
    linear = LatencyTable({0: {1: 1.0 * MS, 32: 32.0 * MS}}, 32, jitter_ns=0)
    assert launch_bound.best_batch(0) == 32
    assert linear.best_batch(0) == 1


@given(st.lists(st.floats(0.1, 100), max_size=700))
def test_the_estimate_is_always_positive_and_bounded_by_what_was_measured(ratios):
    known = table()
    for ratio in ratios:
        known.observe(0, 1, int(ratio * MS))
    assert 0 < known.ns(0, 1) <= 2 * max([FIRST_FACTOR, *ratios]) * MS
