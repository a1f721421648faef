"""Since when a request that is read now may have been waiting in its socket.

Knows the turns of an event loop; must not know sockets or requests. A busy loop reads in one turn all that arrived
during the turn before. Without this, a request's time would begin only when it is read at last, and a deadline would
be missed by a service that believes itself punctual. The kernel could say when bytes came, but not for TCP through
this loop; so the longest that they can have waited is taken, which in a loop with time to spare is nothing.

Before the loop waits for bytes it may be put to sleep for a moment in which it does not look at any (coalescing.py).
"""

from __future__ import annotations

from collections.abc import Callable

from server.busy import Busy
from server.deadlines import Clock

Pause = Callable[[int], int]
"""Nanoseconds that the loop may sleep, asked with the time it is."""

CallSoon = Callable[[Callable[[], object]], object]
"""Has the loop call something at the beginning of its next turn."""


class Arrivals:
    """The turns of one loop in which bytes are read.

    Args:
        call_soon: of the loop.
        clock: nanoseconds.
        busy: told when turns begin to follow each other at once, and when that ends.
        pause: asked whenever the loop has nothing to do.
        sleep: for so many nanoseconds.

    Attributes:
        since_ns: the earliest moment at which the bytes that are being read may have arrived.
    """

    def __init__(
        self,
        call_soon: CallSoon,
        clock: Clock,
        busy: Busy,
        pause: Pause = lambda _now_ns: 0,
        sleep: Callable[[int], object] = lambda _ns: None,
    ) -> None:
        self._call_soon = call_soon
        self._clock = clock
        self._busy = busy
        self._pause = pause
        self._sleep = sleep
        self._reading = False  # in this turn
        self._awake = False  # not slept since bytes were last read: the turns follow each other at once
        self._began_ns = self.since_ns = 0
        self._slept_ns = 0  # since when, if it has just been asleep

    def read(self) -> None:
        """Bytes have been read."""
        if self._reading:
            return
        now = self._clock()
        self.since_ns = self._began_ns if self._awake else self._slept_ns or now
        self._began_ns = now
        self._reading = True
        if self._awake:
            self._busy.goes_on(now)
        else:
            self._awake = True
            self._busy.begins(now)
            self._call_soon(self._turned)

    def _turned(self) -> None:
        """Another turn begins; while there is something to call, it looks for bytes without waiting for them."""
        if self._reading:
            self._reading = False
            self._call_soon(self._turned)
        else:  # it looked, and there were none: from here on it may sleep
            self._awake = False
            now = self._clock()
            self._busy.ends(now)
            if self._pause(now):
                self._call_soon(self._rest)  # what the last turn still has to send goes before

    def _rest(self) -> None:
        now = self._clock()
        if not self._awake and (pause_ns := self._pause(now)):
            self._sleep(pause_ns)
            self._slept_ns = now
            self._call_soon(self._rested)

    def _rested(self) -> None:
        """It has looked since."""
        self._slept_ns = 0
