"""How long a front end may sleep between two turns of its loop, so that it finds several requests at once.

Knows how many requests came of late, their tightest budget and when the next deadline is; must not know sockets or the
loop. Network drivers moderate interrupts for the same reason. Where stages run on the front end's core, each request
that wakes it also interrupts a launch, and either finds the caches full of the other's: several requests in a row cost
less each, and the launch is interrupted once. What they wait is a small part of what each has.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from server.deadlines import Deadlines

LONGEST_NS = 2_000_000
OF_BUDGET = 0.04  # of the tightest one
SHORTEST_NS = 200_000  # less is not worth the system call
COMPANY = 1.0  # requests that must be expected meanwhile
EARLY_NS = 200_000  # before a deadline
RECENT = 25  # ticks for which a tight budget is remembered
WEIGHT = 0.1  # of the last tick in the rate


class Coalescing:
    """The pauses of one front end.

    Args:
        deadlines: none of them is slept through.
        shared: whether stages run on its cores; if not there are no pauses.
        sleep: for so many seconds.

    Attributes:
        slept_ns: all pauses together.
    """

    def __init__(
        self, deadlines: Deadlines, *, shared: bool, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._deadlines = deadlines
        self._shared = shared
        self._sleep = sleep
        self.slept_ns = 0
        self._asked = 0
        self._rate = 0.0  # requests a nanosecond
        self._tightest: deque[int] = deque(maxlen=RECENT)
        self._longest_ns = 0

    def ticked(self, passed_ns: int, asked: int, tightest_ns: int) -> None:
        """So much time has passed; `asked` requests have come in all, the tightest of the last with such a budget."""
        self._rate += WEIGHT * ((asked - self._asked) / max(passed_ns, 1) - self._rate)
        self._asked = asked
        self._tightest.append(tightest_ns)
        pause_ns = min(int(OF_BUDGET * min(self._tightest)), LONGEST_NS)
        alone = self._rate * pause_ns < COMPANY
        self._longest_ns = 0 if not self._shared or alone or pause_ns < SHORTEST_NS else pause_ns

    def pause_ns(self, now_ns: int) -> int:
        """How long the loop may sleep now, whatever comes; 0: as usual."""
        if not self._longest_ns:
            return 0
        pause_ns = min(self._longest_ns, self._deadlines.next_ns() - EARLY_NS - now_ns)
        return pause_ns if pause_ns >= SHORTEST_NS else 0

    def sleep(self, pause_ns: int) -> None:
        """Take such a pause."""
        self.slept_ns += pause_ns
        self._sleep(pause_ns / 1e9)
