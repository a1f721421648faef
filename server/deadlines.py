"""Wakes whoever waits for a moment: one heap and one timer for all requests of a process.

Knows CLOCK_MONOTONIC nanoseconds and callbacks; must not know requests. The timer is a timerfd: the event loop's own
timers round to whole milliseconds, a tenth of a tight deadline.
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import itertools
import os
import time
from collections.abc import Callable
from typing import Protocol

Callback = Callable[[], object]
Clock = Callable[[], int]

_COMPACT_ABOVE = 4096  # cancelled entries; they cost memory only
NEVER = 1 << 62


class Alarm(Protocol):
    """Something that calls back at a moment; setting it anew replaces the moment."""

    def set(self, at_ns: int) -> None:
        """Calls back at `at_ns` or as soon after as can be; at once if it has passed."""


class Entry:
    """One thing waited for."""

    __slots__ = ("at_ns", "callback")

    def __init__(self, at_ns: int, callback: Callback) -> None:
        self.at_ns = at_ns
        self.callback: Callback | None = callback

    @property
    def waiting(self) -> bool:
        """False once it has fired or been cancelled."""
        return self.callback is not None


class Deadlines:
    """The heap. `ring` is what the alarm calls."""

    def __init__(self, clock: Clock = time.monotonic_ns) -> None:
        self._clock = clock
        self._alarm: Alarm | None = None
        self._heap: list[tuple[int, int, Entry]] = []
        self._order = itertools.count()
        self._armed_ns = NEVER
        self._cancelled = 0

    def use(self, alarm: Alarm) -> None:
        """Takes the alarm that will call `ring`."""
        self._alarm = alarm

    def schedule(self, at_ns: int, callback: Callback) -> Entry:
        """Has `callback` called once at `at_ns`, in the event loop, unless cancelled."""
        entry = Entry(at_ns, callback)
        heapq.heappush(self._heap, (at_ns, next(self._order), entry))
        if at_ns < self._armed_ns:
            self._arm(at_ns)
        return entry

    def cancel(self, entry: Entry) -> None:
        """Forgets an entry; one that has fired is left alone."""
        if entry.callback is None:
            return
        entry.callback = None
        self._cancelled += 1
        if self._cancelled > _COMPACT_ABOVE and self._cancelled * 2 > len(self._heap):
            self._heap = [item for item in self._heap if item[2].callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def next_ns(self) -> int:
        """When the next entry is due that has not been cancelled; NEVER without any."""
        heap = self._heap
        while heap and heap[0][2].callback is None:
            heapq.heappop(heap)
            self._cancelled -= 1
        return heap[0][0] if heap else NEVER

    def ring(self) -> None:
        """Calls everything that is due, then sets the alarm for the next."""
        self._armed_ns = NEVER
        now = self._clock()
        while self._heap and (self._heap[0][0] <= now or self._heap[0][2].callback is None):
            callback = heapq.heappop(self._heap)[2]
            self._fire(callback)
        if self._heap:
            self._arm(self._heap[0][0])

    def _fire(self, entry: Entry) -> None:
        callback, entry.callback = entry.callback, None
        if callback is None:
            self._cancelled -= 1
        else:
            callback()

    def _arm(self, at_ns: int) -> None:
        assert self._alarm is not None, "schedule before use"
        self._armed_ns = at_ns
        self._alarm.set(at_ns)


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class TimerfdAlarm:
    """Linux's timerfd in an event loop; wakes within tens of microseconds of the moment."""

    _ABSOLUTE = 1

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callback) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._fd: int = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._spec = _TimerSpec()
        self._pointer = ctypes.byref(self._spec)
        self._ring = ring
        self._loop = loop
        loop.add_reader(self._fd, self._readable)

    def set(self, at_ns: int) -> None:
        """See Alarm. A moment of zero would disarm, so it becomes one nanosecond."""
        value = self._spec.value
        value.seconds, value.nanoseconds = divmod(max(at_ns, 1), 1_000_000_000)
        if self._settime(self._fd, self._ABSOLUTE, self._pointer, None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")

    def close(self) -> None:
        """Gives the descriptor back."""
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def _readable(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:  # set anew since it rang
            return
        self._ring()
