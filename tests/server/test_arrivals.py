"""Since when what is read may have waited: on a loop whose turns the test takes itself."""

from __future__ import annotations

from collections.abc import Callable

from server.arrivals import Arrivals


class Loop:
    """Calls at the beginning of a turn what was asked for in the one before."""

    def __init__(self) -> None:
        self.now = 0
        self.ready: list[Callable[[], object]] = []
        self.arrivals = Arrivals(self.ready.append, lambda: self.now)

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


def test_what_wakes_a_sleeping_loop_has_just_arrived() -> None:
    loop = Loop()
    assert loop.read_at(100) == 100


def test_what_is_read_later_in_a_turn_was_there_when_it_began() -> None:
    loop = Loop()
    loop.read_at(100)
    assert loop.read_at(170) == 100


def test_what_is_read_in_the_next_turn_may_have_waited_through_the_last_one() -> None:
    loop = Loop()
    loop.read_at(100)
    loop.turn()
    assert loop.read_at(500) == 100
    loop.turn()
    assert loop.read_at(600) == 500


def test_a_turn_without_bytes_ends_the_chain_so_that_the_loop_may_sleep() -> None:
    loop = Loop()
    loop.read_at(100)
    loop.turn()
    loop.turn()
    assert loop.ready == []
    assert loop.read_at(500) == 500
