"""How long whoever comes now will wait behind those before him."""

from __future__ import annotations

import math

import pytest

from server.backlog import LEAST, RELIABLE, TICKS, Backlog
from server.errors import Overloaded
from server.messages import Refinement
from tests.server.parts import MS, SECOND, Parts

TICK = 20 * MS


def answering(per_tick: int, waiting: int) -> Backlog:
    """Where so many wait, and of late so many got an answer in each tick."""
    backlog = Backlog()
    for _ in range(waiting + TICKS * per_tick):
        backlog.begins()
    for _ in range(TICKS):
        for _ in range(per_tick):
            backlog.answered()
        backlog.ticked(TICK)
    return backlog


def test_so_many_waiting_at_so_many_a_second_take_so_long() -> None:
    backlog = answering(per_tick=40, waiting=100)  # 2,000 a second
    assert backlog.waiting == 100
    assert math.isclose(backlog.wait_ns(0), 50 * MS)


def test_who_came_in_the_same_turn_is_before_him_too_and_later_has_a_permit_or_is_gone() -> None:
    backlog = answering(per_tick=40, waiting=100)
    for _ in range(20):
        backlog.comes(turn_ns=7)
    assert math.isclose(backlog.wait_ns(turn_ns=7), 60 * MS)
    assert math.isclose(backlog.wait_ns(turn_ns=8), 50 * MS)
    backlog.comes(turn_ns=8)
    assert math.isclose(backlog.wait_ns(turn_ns=8), 50.5 * MS)


def test_who_leaves_without_an_answer_says_nothing_of_the_pace() -> None:
    backlog = answering(per_tick=40, waiting=100)
    for _ in range(40):
        backlog.left()
    assert math.isclose(backlog.wait_ns(0), 30 * MS)


def test_a_batch_that_waits_is_no_backlog() -> None:
    assert answering(per_tick=40, waiting=LEAST).wait_ns(0) == 0
    assert answering(per_tick=40, waiting=LEAST + 1).wait_ns(0) > 0


def test_the_pace_of_a_handful_is_not_known() -> None:
    backlog = answering(per_tick=0, waiting=1000)
    assert backlog.wait_ns(0) == 0
    for _ in range(RELIABLE):
        backlog.answered()
    backlog.ticked(TICK)
    assert backlog.wait_ns(0) > 0


def test_it_follows_a_device_that_becomes_slower_within_so_many_ticks() -> None:
    backlog = answering(per_tick=40, waiting=200)
    for _ in range(TICKS):
        for _ in range(20):
            backlog.answered()
        backlog.ticked(TICK)
    assert math.isclose(backlog.wait_ns(0), 100 * MS)


def test_images_wait_from_their_permit_until_their_first_stage_has_finished_and_no_longer_than_they_live() -> (
    None
):
    parts = Parts(max_jobs=100)
    parts.engine_is_ready()
    backlog = parts.door.backlog
    answered, missed, left = (parts.job(SECOND), parts.job(50 * MS), parts.job(SECOND))
    assert backlog.waiting == 3
    for stage in (0, 1):
        parts.jobs.refinement(Refinement(answered.number, stage, [(0, 0.9)], (0, 0.9), 0, 0))
        assert backlog.waiting == 2
    parts.jobs.abandon(left)
    parts.clock.move_to(60 * MS)
    assert missed.ended
    assert backlog.waiting == 0
    parts.jobs.abandon(answered)
    assert backlog.waiting == 0


def test_the_door_refuses_who_would_wait_too_long_while_it_refuses_anyway(parts: Parts) -> None:
    now = parts.clock.now = 10 * MS
    parts.door.backlog = answering(per_tick=40, waiting=60)  # for 30 ms
    parts.throttle.rate = 100.0
    parts.door.enter(parts.model, now, now + 50 * MS)
    with pytest.raises(Overloaded):
        parts.door.enter(parts.model, now, now + 50 * MS)
    parts.throttle.rate = 100_000.0
    now = parts.clock.now = 20 * MS
    with pytest.raises(Overloaded, match="More requests arrive"):
        parts.door.enter(parts.model, now, now + 50 * MS)
    parts.door.enter(parts.model, now, now + 100 * MS)


@pytest.fixture
def parts() -> Parts:
    parts = Parts(max_jobs=1000)
    parts.engine_is_ready(jobs=1000)
    return parts
