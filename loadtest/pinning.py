"""Giving the sender a core of its own, and a real-time priority where the system allows it."""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

SENDER_PRIORITY = 20
METER_PRIORITY = 40  # above the sender: the meter must be late only when the machine is


@dataclass(frozen=True)
class Hold:
    """What was really obtained."""

    cpus: tuple[int, ...]
    real_time: bool

    def __str__(self) -> str:
        cpus = ",".join(map(str, self.cpus))
        return f"cpu {cpus}, {'SCHED_FIFO' if self.real_time else 'ordinary priority'}"


def take(cpus: Collection[int], priority: int) -> Hold:
    """Pins this thread to those of `cpus` that exist and asks for SCHED_FIFO; children inherit neither
    priority.
    """
    wanted = set(cpus) & set(range(os.cpu_count() or 1))
    if wanted:
        os.sched_setaffinity(0, wanted)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))
        real_time = True
    except PermissionError:
        real_time = False
    return Hold(tuple(sorted(os.sched_getaffinity(0))), real_time)


@contextmanager
def own_core(cpu: int | None) -> Iterator[Hold]:
    """Pins this thread to `cpu` (None: wherever it is) at real-time priority, and puts everything back
    after.
    """
    affinity, policy, param = os.sched_getaffinity(0), os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield take(affinity if cpu is None else {cpu}, SENDER_PRIORITY)
    finally:
        os.sched_setscheduler(0, policy, param)
        os.sched_setaffinity(0, affinity)
