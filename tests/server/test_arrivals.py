"""Since when what is read may have waited: on a loop whose turns the test takes itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from server.arrivals import Arrivals
from server.busy import BUSY_NS, Busy, Crowding


class Loop:
    """Calls at the beginning of a turn what was asked for in the one before."""

    def __init__(self, page: Path) -> None:
        self.now = 0
        self.pause_ns = 0
        self.ready: list[Callable[[], object]] = []
        self.arrivals = Arrivals(
            self.ready.append, lambda: self.now, Busy(page, 0), lambda _now: self.pause_ns, self.sleep
        )

    def sleep(self, pause_ns: int) -> None:
        self.now += pause_ns

    def turn(self) -> None:
        """Begins another turn."""
        ready, self.ready[:] = self.ready[:], []
        for call in ready:
            call()

    def read_at(self, now: int) -> int:
        """Reads bytes; returns since when they may have been there."""
        self.now = now
        self.arrivals.read()
        return self.arrivals.since_ns


@pytest.fixture
def page(tmp_path: Path) -> Path:
    return tmp_path / "busy"


@pytest.fixture
def loop(page: Path) -> Loop:
    return Loop(page)


def test_what_wakes_a_sleeping_loop_has_just_arrived(loop) -> None:
    assert loop.read_at(100) == 100


def test_what_is_read_later_in_a_turn_was_there_when_it_began(loop) -> None:
    loop.read_at(100)
    assert loop.read_at(170) == 100


def test_what_is_read_in_the_next_turn_may_have_waited_through_the_last_one(loop) -> None:
    loop.read_at(100)
    loop.turn()
    assert loop.read_at(500) == 100
    loop.turn()
    assert loop.read_at(600) == 500


def test_a_turn_without_bytes_ends_the_chain_so_that_the_loop_may_sleep(loop) -> None:
    loop.read_at(100)
    loop.turn()
    loop.turn()
    assert loop.ready == []
    assert loop.read_at(500) == 500


def test_a_loop_that_reads_in_every_turn_is_busy_until_it_may_sleep(loop, page) -> None:
    crowding = Crowding(page, 1, spare=0)
    loop.read_at(100)
    loop.turn()
    loop.read_at(100 + 2 * BUSY_NS)
    assert crowding.crowded(100 + 2 * BUSY_NS)
    loop.turn()
    loop.turn()
    assert not crowding.crowded(100 + 2 * BUSY_NS)
    loop.read_at(100 + 3 * BUSY_NS)
    assert not crowding.crowded(100 + 3 * BUSY_NS)


def test_a_loop_that_may_pause_does_so_once_it_has_looked_and_what_comes_then_may_have_come_at_once(
    loop,
) -> None:
    loop.pause_ns = 2000
    assert loop.read_at(100) == 100
    loop.turn()
    loop.turn()
    assert loop.now == 100  # what is to be sent is sent first
    loop.turn()
    assert loop.now == 2100
    assert loop.read_at(2150) == 100
    loop.turn()
    assert loop.read_at(2200) == 2150


def test_who_comes_before_the_pause_is_not_kept_waiting(loop) -> None:
    loop.pause_ns = 2000
    loop.read_at(100)
    loop.turn()
    loop.turn()
    loop.read_at(150)
    loop.turn()
    assert loop.now == 150


def test_after_a_pause_in_which_nobody_came_the_loop_sleeps_as_ever(loop) -> None:
    loop.pause_ns = 2000
    loop.read_at(100)
    for _ in range(4):
        loop.turn()
    assert loop.ready == []
    assert loop.read_at(9000) == 9000
