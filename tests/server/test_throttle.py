"""How many requests are taken on while more arrive than can be answered."""

from __future__ import annotations

import math

from server.throttle import (
    BACK_S,
    CUT,
    FEW,
    LEAST_RATE,
    MISSING_TICKS,
    PATIENCE,
    PATIENT_NS,
    PUNCTUAL_NS,
    QUEUED,
    SETTLE_NS,
    Throttle,
)

MS = 1_000_000
TICK = 20 * MS
JUST_PUNCTUAL = PUNCTUAL_NS - 1


def run(throttle: Throttle, start_ns: int, ticks: int, per_tick: int, late_ns: int) -> tuple[int, int]:
    """Offers requests evenly; returns how many were taken on, and the time afterwards."""
    taken, now = 0, start_ns
    for _ in range(ticks):
        for number in range(per_tick):
            taken += throttle.take(now + number * TICK // per_tick)
        now += TICK
        throttle.ticked(late_ns, now)
    return taken, now


def test_while_the_loop_is_punctual_everybody_is_taken_on() -> None:
    throttle = Throttle()
    assert run(throttle, 0, 200, 50, 0)[0] == 10_000
    assert throttle.rate is None


def test_one_stall_is_no_trend() -> None:
    throttle = Throttle()
    _, now = run(throttle, 0, 50, 50, 0)
    throttle.ticked(100 * MS, now)
    throttle.ticked(0, now + TICK)
    assert throttle.rate is None


def test_lateness_again_and_again_cuts_the_rate_below_what_was_taken_on() -> None:
    throttle = Throttle()
    _, now = run(throttle, 0, 50, 50, 0)  # 2,500 a second
    _, now = run(throttle, now, 2, 50, 15 * MS)
    assert throttle.rate is not None
    assert math.isclose(throttle.rate, CUT * 2500, rel_tol=0.1)
    taken, _ = run(throttle, now, 50, 100, 4 * MS)  # neither late nor punctual: the rate stays
    assert math.isclose(taken, throttle.rate, rel_tol=0.05)


def test_before_anybody_is_refused_the_loop_may_be_later() -> None:
    throttle = Throttle()
    _, now = run(throttle, 0, 50, 50, 0)
    _, now = run(throttle, now, 10, 50, 8 * MS)
    assert throttle.rate is None
    _, now = run(throttle, now, 2, 50, 15 * MS)
    _, now = run(throttle, now, 5, 50, 4 * MS)
    assert (limited := throttle.rate) is not None
    run(throttle, now, 10, 50, 8 * MS)
    assert throttle.rate < limited


def test_a_burst_that_has_just_begun_is_measured_from_its_beginning() -> None:
    throttle = Throttle()
    _, now = run(throttle, 0, 50, 0, 0)
    _, now = run(throttle, now, 3, 50, 15 * MS)
    assert throttle.rate is not None
    assert math.isclose(throttle.rate, CUT * 2500, rel_tol=0.1)


def test_a_rate_that_limited_nobody_says_nothing_of_what_was_too_much() -> None:
    throttle = Throttle()
    _, now = run(throttle, 0, 50, 50, 0)
    _, now = run(throttle, now, 2, 50, 15 * MS)
    _, now = run(throttle, now, 45, 50, 0)  # 2,500 a second come, and far more may
    assert throttle.rate is not None
    assert throttle.rate > 3500
    run(throttle, now, 2, 50, 15 * MS)
    assert throttle.rate < 2500


def test_where_it_was_too_much_again_at_less_it_expects_less_room() -> None:
    throttle = Throttle()
    _, now = run(throttle, 0, 50, 60, 0)
    _, now = run(throttle, now, 2, 60, 15 * MS)  # 3,000 a second were too much
    _, now = run(throttle, now, 5, 200, JUST_PUNCTUAL)
    _, now = run(throttle, now, 20, 200, 4 * MS)
    assert throttle.rate is not None
    assert 2600 < (stays := throttle.rate) < 3000
    _, now = run(throttle, now, 2, 200, 15 * MS)  # and now so many are
    run(throttle, now, 8, 200, JUST_PUNCTUAL)
    assert throttle.rate < 0.95 * stays


def test_what_was_too_much_is_forgotten_where_less_is_too_much_soon_after() -> None:
    throttle = Throttle()
    _, now = run(throttle, 0, 50, 150, 0)
    _, now = run(throttle, now, 2, 150, 15 * MS)  # 7,500 a second, as a burst after a stall
    for _ in range(24):  # a loop that is late whenever it has taken on more than 4,000 a second for two ticks
        for _ in range(20):
            taken, now = run(throttle, now, 1, 150, 1 * MS)
            if taken > 80:
                _, now = run(throttle, now, 2, 150, 10 * MS)
                break
    taken, _ = run(throttle, now, 15, 150, 1 * MS)
    assert taken / 15 < 85


def test_it_never_takes_on_nobody() -> None:
    throttle = Throttle()
    _, now = run(throttle, 0, 50, 50, 0)
    run(throttle, now, 2000, 50, 50 * MS)
    assert throttle.rate == LEAST_RATE


def test_a_punctual_loop_takes_on_more_and_at_last_everybody() -> None:
    throttle = Throttle()
    _, now = run(throttle, 0, 50, 50, 0)
    _, now = run(throttle, now, 20, 50, 15 * MS)
    low = throttle.rate
    _, now = run(throttle, now, 50, 50, 0)
    assert low is not None
    assert throttle.rate is not None
    assert throttle.rate > low
    run(throttle, now, 500, 50, 0)
    assert throttle.rate is None


def test_it_is_soon_back_at_what_was_too_much_and_slow_there() -> None:
    throttle = Throttle()
    _, now = run(throttle, 0, 50, 50, 0)  # 2,500 a second
    _, now = run(throttle, now, 2, 50, 15 * MS)
    _, now = run(throttle, now, round(0.5 * BACK_S / 0.02), 100, JUST_PUNCTUAL)
    assert throttle.rate is not None
    halfway = throttle.rate
    assert 2500 * (1 + CUT) / 2 < halfway < 2500
    run(throttle, now, round(BACK_S / 0.02), 100, JUST_PUNCTUAL)
    assert 2500 < throttle.rate < 2500 * 1.1


def test_the_more_punctual_the_loop_the_sooner_it_is_back() -> None:
    assert ticks_until_well_above(0) < 0.7 * ticks_until_well_above(JUST_PUNCTUAL)


def ticks_until_well_above(late_ns: int) -> int:
    """From a cut at 2,500 a second until the rate is half as high again."""
    throttle = Throttle()
    _, now = run(throttle, 0, 50, 50, 0)
    _, now = run(throttle, now, 2, 50, 15 * MS)
    for ticks in range(100):
        assert throttle.rate is not None
        if throttle.rate >= 3750:
            return ticks
        _, now = run(throttle, now, 1, 100, late_ns)
    raise AssertionError("it never came back")


def test_it_is_pressed_while_it_refuses() -> None:
    throttle = Throttle()
    assert not throttle.pressed(0)
    _, now = run(throttle, 0, 50, 50, 0)
    _, now = run(throttle, now, 2, 50, 15 * MS)
    _, now = run(throttle, now, 15, 5, MS)
    assert not throttle.pressed(now)
    _, now = run(throttle, now, 2, 100, MS)
    assert throttle.pressed(now)
    assert not throttle.pressed(now + 200 * MS)


def test_where_requests_already_wait_for_most_of_their_time_it_takes_on_no_more() -> None:
    throttle = Throttle()
    _, now = run(throttle, 0, 50, 50, 0)
    _, now = run(throttle, now, 2, 50, 15 * MS)
    before = throttle.rate
    for _ in range(20):
        throttle.take(now, tightness=0.8)
        throttle.ticked(0, now := now + TICK)
    assert throttle.rate == before
    for _ in range(20):
        throttle.take(now, tightness=0.3)
        throttle.ticked(0, now := now + TICK)
    assert before is not None
    assert throttle.rate is not None
    assert throttle.rate > before


def test_while_it_refuses_nobody_is_taken_on_to_wait_for_much_of_his_time() -> None:
    throttle = Throttle()
    assert throttle.take(0, queued=2 * QUEUED)  # while all are taken on, the door alone says what is feasible
    _, now = run(throttle, 0, 50, 50, 0)
    _, now = run(throttle, now, 2, 50, 15 * MS)
    _, now = run(throttle, now, 15, 5, MS)
    assert not throttle.pressed(now)
    assert throttle.take(now, queued=2 * QUEUED)  # as many as have come of late can be carried
    _, now = run(throttle, now, 2, 100, MS)
    now += 10 * MS
    assert throttle.pressed(now)
    assert not throttle.take(now, queued=1.01 * QUEUED)
    assert throttle.pressed(now + 90 * MS)
    assert throttle.take(now, queued=0.99 * QUEUED)


def limited(late_ns: int) -> tuple[Throttle, int]:
    """One that holds to a rate, its tokens spent, after a while in which the loop was so late; and the time."""
    throttle = Throttle()
    _, now = run(throttle, 0, 50, 50, 0)
    _, now = run(throttle, now, 50, 50, late_ns)
    while throttle.take(now):
        pass
    return throttle, now


def test_whoever_has_far_more_time_than_a_cut_lasts_is_not_held_to_the_rate() -> None:
    throttle, now = limited(15 * MS)
    assert all(throttle.take(now, patience_ns=PATIENT_NS) for _ in range(100))
    assert not throttle.take(now, patience_ns=0.99 * PATIENT_NS)


def test_nor_do_those_leave_a_debt_to_the_others() -> None:
    throttle, now = limited(15 * MS)
    for _ in range(100):
        throttle.take(now, patience_ns=PATIENT_NS)
    assert throttle.rate is not None
    assert throttle.take(now + int(1.01e9 / throttle.rate))


def test_patience_ends_where_the_loop_is_late_by_a_part_of_it_that_counts() -> None:
    late_ns = 300 * MS
    throttle, now = limited(late_ns)
    assert not throttle.take(now, patience_ns=0.9 * PATIENCE * late_ns)
    assert throttle.take(now, patience_ns=1.1 * PATIENCE * late_ns)


def test_what_was_taken_on_in_vain_has_the_engine_pressed_and_then_cuts_the_rate_of_a_punctual_loop_too() -> (
    None
):
    throttle = Throttle()
    _, now = run(throttle, 0, 50, 50, 0)
    now = miss(throttle, now, MISSING_TICKS, 10)
    assert throttle.pressed(now)
    now = miss(throttle, now, SETTLE_NS // TICK - 1, 10)  # they had been taken on before
    assert throttle.rate is None
    miss(throttle, now, MISSING_TICKS + 1, 10)
    assert throttle.rate is not None


def test_where_most_are_taken_on_in_vain_the_rate_is_cut_at_once() -> None:
    throttle = Throttle()
    _, now = run(throttle, 0, 5, 50, 0)
    now = miss(throttle, now, 1, 500)  # of one tick alone they are no sign
    assert throttle.rate is None
    miss(throttle, now, 1, 45)
    assert throttle.rate is not None


def test_what_is_taken_on_in_vain_by_a_loop_without_a_pause_cuts_the_rate_at_once() -> None:
    """An engine on its cores has been running first rungs only since the loop had its last pause."""
    throttle = Throttle()
    _, now = run(throttle, 0, 50, 50, 0)
    miss(throttle, now, MISSING_TICKS, 10, busy=1.0)
    assert throttle.rate is not None


def miss(throttle: Throttle, now: int, ticks: int, missed: int, busy: float = 0.0) -> int:
    """Of 50 in each of so many punctual ticks, and of some before, `missed` get no answer; returns the time after."""
    for _ in range(ticks):
        for _ in range(50):
            throttle.take(now)
        for _ in range(missed):
            throttle.missed(40 * MS)
        throttle.ticked(0, now := now + TICK, busy)
    return now


def test_a_few_misses_and_those_of_tight_deadlines_do_not() -> None:
    throttle = Throttle()
    _, now = run(throttle, 0, 50, 50, 0)
    for _ in range(1000):
        throttle.missed(5 * MS)
    for _ in range(FEW):
        throttle.missed(40 * MS)
        throttle.ticked(0, now := now + TICK)
    assert not throttle.pressed(now)
