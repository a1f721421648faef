"""Who has the machine: training runs share it, whatever measures speed has it alone.

A lock (flock) on one file under runs/, the same that the load tests take; it goes with the process that holds it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class MachineBusyError(Exception):
    """Something else holds the machine, so that nothing can be measured now."""


@contextmanager
def busy_machine(lock: Path) -> Iterator[None]:
    """Hold the lock that benchmarks respect: nothing is measured beside a training run.

    Several runs may train at once (a shared lock); a benchmark in progress is waited for.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def quiet_machine(lock: Path, purpose: str) -> Iterator[None]:
    """Hold the lock alone, for a measurement called `purpose`. Raises MachineBusyError at once where it is taken."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise MachineBusyError(
                f"{lock} is held by a training run or another benchmark: speed measured beside it is no measurement"
            ) from error
        file.truncate(0)
        file.write(f"{purpose} (pid {os.getpid()})\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
