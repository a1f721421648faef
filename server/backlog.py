"""How long whoever is taken on now will wait for his first answer, going by how fast those before him get theirs.

Knows how many images wait and how many got an answer of late; must not know jobs, models or deadlines. Little's law: so
many waiting, so many answers a second, so much time. The engine's own estimate knows how long its stages take, but not
how long it will wait for a processor that front ends need as well; this counts what comes out at the end.
"""

from __future__ import annotations

from collections import deque

TICKS = 5  # over which answers are counted
RELIABLE = 10  # answers; the pace of fewer is not known
LEAST = 48
"""Waiting images, no fewer, are a backlog. A good batch or two always wait, and what a small one measures is how long a
launch takes, not how many images a second the device can answer: held to that, it would stay small."""


class Backlog:
    """The images of one front end that have been taken on and have no answer yet.

    Attributes:
        waiting: those whose permit is out.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._coming = 0  # taken on in this turn; their permits follow when all that can be read has been
        self._turn_ns = 0
        self._answered = 0  # since the last tick
        self._counts: deque[tuple[int, int]] = deque(maxlen=TICKS)  # nanoseconds, answered
        self._each_ns = 0.0

    def comes(self, turn_ns: int) -> None:
        """One more has been taken on, in the turn of the loop that began then."""
        if turn_ns != self._turn_ns:
            self._turn_ns, self._coming = turn_ns, 0
        self._coming += 1

    def begins(self) -> None:
        """One has its permit."""
        self.waiting += 1

    def answered(self) -> None:
        """One got its first answer."""
        self.waiting -= 1
        self._answered += 1

    def left(self) -> None:
        """One ended without."""
        self.waiting -= 1

    def ticked(self, passed_ns: int) -> None:
        """So much time has passed since the last tick."""
        self._counts.append((passed_ns, self._answered))
        self._answered = 0
        answered = sum(count for _, count in self._counts)
        self._each_ns = sum(ns for ns, _ in self._counts) / answered if answered >= RELIABLE else 0.0

    def wait_ns(self, turn_ns: int) -> float:
        """How long one that came in that turn would wait; 0 where there is no backlog, or its pace is not known."""
        waiting = self.waiting + (self._coming if turn_ns == self._turn_ns else 0)
        return waiting * self._each_ns if waiting > LEAST else 0.0
