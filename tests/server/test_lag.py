"""How measured lateness becomes the guard before a deadline."""

from __future__ import annotations

from server.lag import Lag

MS = 1_000_000


def test_at_rest_the_guard_is_the_setting() -> None:
    lag = Lag(2 * MS)
    for _ in range(50):
        lag.ticked(0)
    assert lag.guard_ns == 2 * MS


def test_one_stall_is_not_a_trend() -> None:
    lag = Lag(2 * MS)
    for late in (0, 0, 0, 50 * MS, 0, 0):
        lag.ticked(late)
    assert lag.guard_ns == 2 * MS


def test_a_busy_loop_takes_as_long_to_answer() -> None:
    lag = Lag(2 * MS)
    for _ in range(20):
        lag.ticked(5 * MS)
    assert lag.loop_ns == 5 * MS
    assert lag.guard_ns == 7 * MS


def test_the_loop_is_taken_for_punctual_again_within_a_third_of_a_second() -> None:
    lag = Lag(2 * MS)
    for _ in range(20):
        lag.ticked(5 * MS)
    for _ in range(16):
        lag.ticked(0)
    assert lag.loop_ns == 0
    assert lag.guard_ns == 2 * MS


def test_punctual_ticks_do_not_outweigh_late_answers_while_there_are_any() -> None:
    lag = Lag(2 * MS)
    for _ in range(100):
        lag.answered(5 * MS)
        lag.ticked(0)
    assert lag.guard_ns == 7 * MS


def test_late_answers_count_by_a_high_quantile() -> None:
    lag = Lag(2 * MS)
    for number in range(256):
        lag.answered(3 * MS if number % 20 == 0 else MS // 10)
    assert lag.guard_ns == 5 * MS


def test_one_late_answer_does_not_count_however_few_there_were() -> None:
    lag = Lag(2 * MS)
    lag.answered(50 * MS)
    assert lag.guard_ns == 2 * MS


def test_a_guard_that_lets_nobody_in_is_corrected_without_any_answer() -> None:
    lag = Lag(2 * MS)
    for _ in range(128):
        lag.answered(50 * MS)
    assert lag.guard_ns == 52 * MS
    for _ in range(20):  # ticks of less than half a second
        lag.ticked(0)
    assert lag.guard_ns == 2 * MS


def test_answers_before_their_time_count_as_punctual() -> None:
    lag = Lag(2 * MS)
    lag.answered(-5)
    lag.ticked(-5)
    assert lag.guard_ns == 2 * MS
