"""SIGINT and SIGTERM as a question that a long run asks, so that it can end with a checkpoint."""

from __future__ import annotations

import signal
from collections.abc import Callable


def stop_at_signals() -> Callable[[], bool]:
    """Whether SIGINT or SIGTERM has come since this call; they no longer end the process at once."""
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _frame: stopped.append(n))
    return lambda: bool(stopped)
