"""A timer that wakes an epoll at an absolute monotonic nanosecond.

epoll's own time-out is rounded up to whole milliseconds; a timerfd is exact. `os.timerfd_create` exists from
Python 3.13 on, hence ctypes. Linux only.
"""

import ctypes
import os
import time

_TFD_TIMER_ABSTIME = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_libc = ctypes.CDLL(None, use_errno=True)


class _Itimerspec(ctypes.Structure):
    _fields_ = [
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    ]


class AbsoluteTimer:
    """One timerfd on CLOCK_MONOTONIC; `fd` becomes readable at the instant last set. Raises OSError."""

    def __init__(self) -> None:
        self.fd = _libc.timerfd_create(time.CLOCK_MONOTONIC, _FLAGS)
        if self.fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        self._spec = _Itimerspec()
        self._address = ctypes.byref(self._spec)

    def set(self, when_ns: int) -> None:
        """Fires at `when_ns` on the clock of time.monotonic_ns(), at once if that is past."""
        # Both fields zero would disarm the timer.
        self._spec.value_s, self._spec.value_ns = divmod(max(when_ns, 1), 1_000_000_000)
        if _libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, self._address, None) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def acknowledge(self) -> None:
        """Makes `fd` unreadable again."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return  # set anew between the wake-up and now

    def close(self) -> None:
        os.close(self.fd)
