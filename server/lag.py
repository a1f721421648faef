"""How late this process runs, and so how long before a deadline an answer must leave.

Knows two measurements: how late the periodic tick of the event loop is, and how long after its due moment an answer
ended by the clock was written. Must not know clocks or requests. How long a request waited before it was read is not
its business (see arrivals).
"""

from __future__ import annotations

from collections import deque

TICK_NS = 20_000_000

_TICKS = 16  # a third of a second: fast enough to shed on
_ANSWERS = 128  # two and a half seconds of ticks alone
_RECOMPUTE_EVERY = 16
_LONG_NS = 10_000_000  # a guard that shuts out many; left over from a burst it must go soon
_RECOVERY = 32
_QUIET = 5  # ticks without an answer that the clock ended


class Lag:
    """Recent lateness in nanoseconds.

    One stall is not a trend. What answering may take is a high quantile, of the ticks or of the answers, whichever is
    larger.

    Attributes:
        loop_ns: median lateness of the recent ticks.
        answering_ns: 98th percentile of the recent answers' lateness.
        guard_ns: how long before the client's deadline an answer has to be on its way.
    """

    def __init__(self, answer_guard_ns: int) -> None:
        self._least_ns = answer_guard_ns
        self._ticks: deque[int] = deque([0] * _TICKS, _TICKS)
        self._answers: deque[int] = deque([0] * _ANSWERS, _ANSWERS)
        self._unread = 0
        self._quiet = 0
        self._late_ticks_ns = 0
        self.loop_ns = 0
        self.answering_ns = 0
        self.guard_ns = answer_guard_ns

    def ticked(self, late_ns: int) -> None:
        """One tick of the loop came `late_ns` after its time."""
        self._ticks.append(max(0, late_ns))
        ordered = sorted(self._ticks)
        self.loop_ns = ordered[len(ordered) // 2]
        self._late_ticks_ns = ordered[-2]
        # A tick wakes as an answer does. Without it a guard too long for those who ask would never be corrected: all
        # are refused, and no answer is measured. Where there is none, or few are let in, a punctual tick stands for
        # many.
        self._quiet += 1
        unmeasured = self._quiet > _QUIET or self.answering_ns > _LONG_NS
        for _ in range(_RECOVERY if unmeasured and late_ns <= self._least_ns else 1):
            self._note(late_ns)
        self._settle()

    def answered(self, late_ns: int) -> None:
        """An answer ended by the clock was written `late_ns` after its due moment."""
        self._quiet = 0
        self._note(late_ns)

    def _note(self, late_ns: int) -> None:
        self._answers.append(max(0, late_ns))
        self._unread += 1
        if self._unread >= _RECOMPUTE_EVERY or late_ns > self.answering_ns:
            self._unread = 0
            ordered = sorted(self._answers)
            self.answering_ns = ordered[len(ordered) * 98 // 100]
            self._settle()

    def _settle(self) -> None:
        self.guard_ns = self._least_ns + max(self._late_ticks_ns, self.answering_ns)
