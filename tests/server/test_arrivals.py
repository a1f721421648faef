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
        self.ready: list[Callable[[], object]] = []
        self.arrivals = Arrivals(self.ready.append, lambda: self.now, Busy(page, 0))

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
