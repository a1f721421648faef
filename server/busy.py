"""Which front ends have had no pause of late: a page of memory that they share with the engine.

Knows two words for each front end: since when there has been something to read in every turn of its loop, and when the
last of these turns began. Must not know sockets, jobs or stages. Where stages run on the cores that front ends need,
one that has not slept for a while has work lying about, and whatever can wait had better do so. A message could say
the same, but too late: it is sent by the very loop that has no time for it.
"""

from __future__ import annotations

from pathlib import Path

from server.page import open_page

BUSY_NS = 1_000_000
STALE_NS = 100_000_000  # without a turn: it has been stopped or killed, and says nothing any more

_WORDS = 2
_SINCE, _TURN = range(_WORDS)


class Busy:
    """One front end's side of the page.

    Args:
        path: of the page; made if nobody has.
        number: of the front end, from 0; another one in each process.

    Attributes:
        total_ns: how long the loop has been busy, all in all, up to its last turn.
    """

    def __init__(self, path: Path, number: int) -> None:
        words = memoryview(open_page(path)).cast("Q")
        self._words = words[_WORDS * number : _WORDS * (number + 1)]
        self._words[_SINCE] = 0  # whoever had the place before has died
        self._turn_ns = self.total_ns = 0

    def begins(self, now_ns: int) -> None:
        """The loop was asleep, and has something to read."""
        self._turn_ns = self._words[_TURN] = now_ns
        self._words[_SINCE] = now_ns

    def goes_on(self, now_ns: int) -> None:
        """So it has in another turn, without having slept."""
        self.total_ns += now_ns - self._turn_ns
        self._turn_ns = self._words[_TURN] = now_ns

    def ends(self, now_ns: int) -> None:
        """It has looked, and there was nothing."""
        self._words[_SINCE] = 0
        self.total_ns += now_ns - self._turn_ns


class Crowding:
    """The engine's side of it.

    Args:
        path: of the page; made if nobody has.
        front_ends: how many there are.
        spare: cores that they may fill without wanting those of the stages.
    """

    def __init__(self, path: Path, front_ends: int, spare: int) -> None:
        self._words = memoryview(open_page(path)).cast("Q")
        self._places = range(0, _WORDS * front_ends, _WORDS)
        self._spare = spare

    def crowded(self, now_ns: int) -> bool:
        """Whether front ends want a core that stages run on."""
        words = self._words
        busy = 0
        for place in self._places:
            since_ns = words[place + _SINCE]
            if since_ns and now_ns - since_ns > BUSY_NS and now_ns - words[place + _TURN] < STALE_NS:
                busy += 1
        return busy > self._spare
