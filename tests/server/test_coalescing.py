"""When a front end may sleep although requests come, and for how long."""

from __future__ import annotations

from server.coalescing import EARLY_NS, LONGEST_NS, RECENT, Coalescing
from server.deadlines import NEVER
from tests.server.parts import MS
from tests.server.test_deadlines import ManualClock

TICK = 20 * MS


class Told:
    """A coalescing that hears of so many requests a second."""

    def __init__(self, *, shared: bool = True) -> None:
        self.clock = ManualClock()
        self.coalescing = Coalescing(self.clock.deadlines, shared=shared)
        self.asked = 0

    def ticks(self, rate: int, budget_ns: int, count: int = 50) -> int:
        """The pause after some ticks."""
        for _ in range(count):
            self.asked += rate // 50
            self.coalescing.ticked(TICK, self.asked, budget_ns)
        return self.coalescing.pause_ns(0)


def test_it_pauses_where_several_come_meanwhile_and_have_time() -> None:
    assert Told().ticks(3000, 50 * MS) == LONGEST_NS
    assert Told().ticks(3000, 40 * MS) == 1_600_000


def test_it_does_not_where_nobody_else_is_expected() -> None:
    assert Told().ticks(600, 50 * MS) == LONGEST_NS
    assert Told().ticks(400, 50 * MS) == 0
    assert Told().ticks(0, NEVER) == 0


def test_it_says_how_long_it_has_slept() -> None:
    slept: list[float] = []
    coalescing = Coalescing(ManualClock().deadlines, shared=True, sleep=slept.append)
    coalescing.sleep(2 * MS)
    coalescing.sleep(MS)
    assert slept == [0.002, 0.001]
    assert coalescing.slept_ns == 3 * MS


def test_it_does_not_where_stages_run_on_other_cores() -> None:
    assert Told(shared=False).ticks(3000, 50 * MS) == 0


def test_a_tight_budget_shortens_or_ends_the_pauses_for_half_a_second() -> None:
    told = Told()
    told.ticks(3000, 50 * MS)
    assert told.ticks(3000, 10 * MS, 1) == MS * 4 // 10
    assert told.ticks(3000, 4 * MS, 1) == 0
    assert told.ticks(3000, 50 * MS, RECENT - 1) == 0
    assert told.ticks(3000, 50 * MS, 1) == LONGEST_NS


def test_it_sleeps_through_no_deadline() -> None:
    told = Told()
    told.ticks(3000, 50 * MS)
    entry = told.clock.deadlines.schedule(MS, lambda: None)
    assert told.coalescing.pause_ns(0) == MS - EARLY_NS
    assert told.coalescing.pause_ns(MS - EARLY_NS) == 0
    told.clock.deadlines.cancel(entry)
    assert told.coalescing.pause_ns(0) == LONGEST_NS
