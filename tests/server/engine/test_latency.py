from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.engine.latency import (
    FIRST_FACTOR,
    FIRST_TAIL_NS,
    LONGEST_TAIL_NS,
    OVERHEAD_NS,
    LatencyTable,
    buckets_up_to,
)

MS = 1_000_000
PROFILE = {0: {1: 1.0 * MS, 2: 1.5 * MS, 4: 2.5 * MS, 8: 4.5 * MS}, 1: {1: 0.01 * MS}}


def table(profile=PROFILE, most: int = 32) -> LatencyTable:
    return LatencyTable(profile, most, overhead_ns=0, first_tail_ns=0)


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


def test_before_anything_is_measured_the_profile_bears_margins():
    known = LatencyTable(PROFILE, 32)
    assert known.work_ns(0, 1) == pytest.approx(FIRST_FACTOR * MS + OVERHEAD_NS)
    assert known.ns(0, 1) == known.work_ns(0, 1) + FIRST_TAIL_NS
    assert known.profiled_ns(0, 1) == MS + OVERHEAD_NS


def test_between_and_beyond_profiled_sizes_it_goes_on_linearly():
    known = settled()
    assert known.ns(0, 3) == pytest.approx(2.0 * MS)
    assert known.ns(0, 6) == pytest.approx(3.5 * MS)
    assert known.ns(0, 32) == pytest.approx((4.5 + 24 * 0.5) * MS)


def test_a_batch_costs_what_it_is_run_in():
    known = LatencyTable(PROFILE, 8, {0: [[0], [1], [2], [4], [4], [4, 1], [4, 2], [8], [8]]}, overhead_ns=0)
    found = [known.typical_ns(0, batch) / MS for batch in range(1, 9)]
    assert found == [1, 1.5, 2.5, 2.5, 3.5, 4, 4.5, 4.5]
    assert known.typical_ns(1, 3) == pytest.approx(0.03 * MS)  # that stage runs batches as they are


def test_a_profile_of_one_size_is_taken_as_proportional():
    assert table({0: {1: 2.0}}, 4).typical_ns(0, 4) == 8


def test_a_larger_batch_never_seems_faster():
    known = table({0: {1: 5.0 * MS, 2: 3.0 * MS, 4: 4.0 * MS}}, 8)
    estimates = [known.ns(0, batch) for batch in range(1, 9)]
    assert estimates == sorted(estimates)


def test_a_device_that_measures_faster_than_its_profile_is_believed():
    assert settled(0.8).ns(0, 1) == pytest.approx(0.8 * MS)


def test_a_miss_raises_the_promise_at_once_and_it_sinks_slowly():
    known = settled()
    known.observe(0, 1, int(1.5 * MS))
    raised = known.ns(0, 1)
    assert raised == pytest.approx(1.5 * MS)
    known.observe(0, 1, MS)
    assert MS < known.ns(0, 1) < raised
    for _ in range(100):
        known.observe(0, 1, MS)
    assert known.ns(0, 1) < 1.05 * MS


def test_a_stall_adds_its_time_to_every_stage_but_multiplies_none_and_is_capped():
    known = settled()
    known.observe(1, 1, 33 * MS)
    assert known.work_ns(0, 8) == pytest.approx(4.5 * MS)
    assert known.ns(0, 8) == pytest.approx(4.5 * MS + LONGEST_TAIL_NS)


def test_rare_stalls_are_in_the_tail_and_not_in_the_work():
    known = table()
    for number in range(400):
        known.observe(0, 1, int(1.7 * MS) if number % 40 == 0 else MS)
    assert known.work_ns(0, 1) == pytest.approx(MS)
    assert known.ns(0, 1) >= 1.69 * MS


def test_a_device_that_is_ten_times_slower_is_known_after_two_launches():
    known = settled()
    known.observe(0, 1, 10 * MS)
    assert known.work_ns(0, 8) == pytest.approx(4.5 * MS)
    known.observe(0, 2, 15 * MS)
    assert known.work_ns(0, 8) >= 44 * MS


def test_launches_too_short_to_tell_do_not_move_the_factor():
    known = settled()
    for _ in range(100):
        known.observe(1, 1, int(0.4 * MS))
    assert known.work_ns(0, 1) == pytest.approx(MS)


def test_each_stage_has_a_factor_of_its_own_once_it_has_run_often_enough():
    known = table({0: {1: MS}, 1: {1: 10.0 * MS}})
    for _ in range(600):
        known.observe(0, 1, 2 * MS)
        known.observe(1, 1, 10 * MS)
    assert known.work_ns(0, 1) == pytest.approx(2 * MS)
    assert known.work_ns(1, 1) == pytest.approx(10 * MS)


def test_a_stage_that_has_hardly_run_is_taken_to_be_as_slow_as_the_others():
    known = table({0: {1: MS}, 1: {1: 10.0 * MS}})
    for _ in range(600):
        known.observe(0, 1, 2 * MS)
    assert known.work_ns(1, 1) == pytest.approx(20 * MS)


def test_a_device_found_slow_by_one_stage_is_slow_for_all_at_once():
    known = table({0: {1: MS}, 1: {1: 10.0 * MS}})
    for _ in range(600):
        known.observe(0, 1, 2 * MS)
        known.observe(1, 1, 10 * MS)
    known.observe(0, 1, 20 * MS)
    known.observe(0, 1, 20 * MS)
    assert known.work_ns(1, 1) >= 99 * MS


def test_a_stage_that_is_avoided_for_its_slowness_is_tried_again():
    known = table({0: {1: MS}, 1: {1: 10.0 * MS}})
    for _ in range(100):
        known.observe(0, 1, 5 * MS)
        known.observe(1, 1, 50 * MS)
    assert known.work_ns(1, 1) == pytest.approx(50 * MS)
    for _ in range(10_000):
        known.observe(0, 1, MS)
    assert known.work_ns(1, 1) == pytest.approx(10 * MS)


def test_relaxing_forgets_the_worst_until_the_profile_is_believed_again():
    known = settled(10.0)
    assert known.ns(0, 1) >= 9.9 * MS
    for _ in range(100):
        known.relax()
    assert known.ns(0, 1) <= FIRST_FACTOR * MS
    known.observe(0, 1, MS)
    assert known.ns(0, 1) <= FIRST_FACTOR * MS


def test_what_passes_between_launches_is_part_of_their_cost_and_sinks_slowly():
    known = table()
    before = known.work_ns(0, 4)
    for _ in range(10):
        known.observe_between(2 * MS)
    crowded = known.work_ns(0, 4)
    assert crowded - before == pytest.approx(2 * MS, rel=0.1)
    for _ in range(10):
        known.observe_between(0)
    assert before < known.work_ns(0, 4) < crowded
    for _ in range(500):
        known.observe_between(0)
    assert known.work_ns(0, 4) == pytest.approx(before, abs=50_000)


def test_the_costlier_a_launch_is_beside_its_images_the_more_of_them_are_best_in_one():
    known = table()
    assert known.best_batch(0) < 32
    for _ in range(50):
        known.observe_between(5 * MS)
    assert known.best_batch(0) == 32


def test_the_typical_latency_is_the_median_and_below_the_promise():
    known = settled()
    for _ in range(20):
        known.observe(0, 1, int(1.4 * MS))
    assert known.typical_ns(0, 1) == pytest.approx(MS)
    assert known.ns(0, 1) > known.typical_ns(0, 1)


def test_the_best_batch_is_the_smallest_that_is_nearly_cheapest_per_image():
    assert table({0: {1: 1.0 * MS, 32: 1.1 * MS}}).best_batch(0) == 32
    assert table({0: {1: 1.0 * MS, 32: 32.0 * MS}}).best_batch(0) == 1


@given(st.lists(st.tuples(st.floats(0.1, 100), st.booleans()), max_size=700))
def test_the_estimate_is_always_positive_and_bounded_by_what_was_measured(measured):
    known = table()
    for ratio, forget in measured:
        known.observe(0, 1, int(ratio * MS))
        if forget:
            known.relax()
    highest = max([FIRST_FACTOR, *(ratio for ratio, _ in measured)])
    assert 0 < known.ns(0, 1) <= highest * MS + LONGEST_TAIL_NS


def test_small_launches_on_a_crowded_core_do_not_make_large_ones_seem_slow():
    """Each launch loses 2 ms to others: four times the length of the small ones, a tenth of that of a large one."""
    known = table({0: {1: 0.5 * MS, 32: 16.0 * MS}})
    for _ in range(100):
        known.observe(0, 1, int(2.5 * MS))
        known.observe(0, 32, 18 * MS)
        known.observe(0, 32, 18 * MS)
    assert known.work_ns(0, 32) < 24 * MS
    assert known.ns(0, 32) >= 18 * MS
