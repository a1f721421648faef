"""The heap of deadlines on a manual clock, and its timerfd on the real one."""

from __future__ import annotations

import asyncio
import time

from hypothesis import given
from hypothesis import strategies as st

from server import deadlines as module
from server.deadlines import Deadlines, TimerfdAlarm


class ManualClock:
    """Stands still until it is moved; rings the alarm that has been set when its moment passes."""

    def __init__(self) -> None:
        self.now = 0
        self.alarm_ns: int | None = None
        self.deadlines = Deadlines(lambda: self.now)
        self.deadlines.use(self)

    def set(self, at_ns: int) -> None:
        self.alarm_ns = at_ns

    def move_to(self, now: int) -> None:
        self.now = now
        while self.alarm_ns is not None and self.alarm_ns <= self.now:
            self.alarm_ns = None
            self.deadlines.ring()


def test_callbacks_come_in_order_of_their_moments_not_of_scheduling() -> None:
    clock, called = ManualClock(), []
    for moment in (30, 10, 20):
        clock.deadlines.schedule(moment, lambda moment=moment: called.append(moment))
    clock.move_to(9)
    assert called == []
    clock.move_to(20)
    assert called == [10, 20]
    clock.move_to(100)
    assert called == [10, 20, 30]


def test_what_is_cancelled_is_not_called_and_what_has_fired_can_be_cancelled() -> None:
    clock, called = ManualClock(), []
    first = clock.deadlines.schedule(10, lambda: called.append(1))
    second = clock.deadlines.schedule(20, lambda: called.append(2))
    clock.deadlines.cancel(second)
    clock.deadlines.cancel(second)
    clock.move_to(50)
    clock.deadlines.cancel(first)
    assert called == [1]
    assert not first.waiting
    assert not second.waiting


def test_a_callback_may_schedule_and_cancel() -> None:
    clock, called = ManualClock(), []
    victim = clock.deadlines.schedule(11, lambda: called.append("victim"))

    def first() -> None:
        clock.deadlines.cancel(victim)
        clock.deadlines.schedule(12, lambda: called.append("child"))

    clock.deadlines.schedule(10, first)
    clock.move_to(20)
    assert called == ["child"]


def test_a_sooner_moment_sets_the_alarm_forward() -> None:
    clock = ManualClock()
    clock.deadlines.schedule(100, lambda: None)
    assert clock.alarm_ns == 100
    clock.deadlines.schedule(50, lambda: None)
    assert clock.alarm_ns == 50
    clock.deadlines.schedule(70, lambda: None)
    assert clock.alarm_ns == 50
    clock.move_to(60)
    assert clock.alarm_ns == 70


def test_cancelled_entries_do_not_pile_up() -> None:
    clock = ManualClock()
    for _ in range(3 * module._COMPACT_ABOVE):
        clock.deadlines.cancel(clock.deadlines.schedule(1_000_000, lambda: None))
    assert len(clock.deadlines._heap) <= module._COMPACT_ABOVE + 1


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), max_size=40), st.integers(0, 60))
def test_exactly_what_is_due_and_not_cancelled_is_called(plan: list[tuple[int, bool]], now: int) -> None:
    clock, called = ManualClock(), []
    for place, (moment, cancelled) in enumerate(plan):
        entry = clock.deadlines.schedule(moment, lambda place=place: called.append(place))
        if cancelled:
            clock.deadlines.cancel(entry)
    clock.move_to(now)
    due = [place for place, (moment, cancelled) in enumerate(plan) if moment <= now and not cancelled]
    assert sorted(called) == due
    assert called == sorted(due, key=lambda place: (plan[place][0], place))


def test_the_timerfd_rings_at_its_moment_and_at_once_for_one_that_has_passed() -> None:
    async def ring_times() -> list[int]:
        rang: list[int] = []
        done = asyncio.Event()
        deadlines = Deadlines()
        alarm = TimerfdAlarm(asyncio.get_running_loop(), deadlines.ring)
        deadlines.use(alarm)
        now = time.monotonic_ns()
        for moment in (now - 1_000_000, now + 20_000_000):
            deadlines.schedule(moment, lambda moment=moment: rang.append(time.monotonic_ns() - moment))
        deadlines.schedule(now + 30_000_000, done.set)
        async with asyncio.timeout(10):
            await done.wait()
        alarm.close()
        return rang

    late = asyncio.run(ring_times())
    assert len(late) == 2
    assert min(late) >= 0


def test_the_next_one_is_the_next_that_has_not_been_cancelled() -> None:
    clock = ManualClock()
    assert clock.deadlines.next_ns() == module.NEVER
    entries = {moment: clock.deadlines.schedule(moment, lambda: None) for moment in (10, 20, 30)}
    clock.deadlines.cancel(entries[10])
    clock.deadlines.cancel(entries[20])
    assert clock.deadlines.next_ns() == 30
    clock.move_to(30)
    assert not entries[30].waiting
    assert clock.deadlines.next_ns() == module.NEVER
