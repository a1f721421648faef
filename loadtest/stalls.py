"""A stall meter for each core: a short pinned loop that sleeps to fixed instants and notes when it woke late.

At real-time priority above everything else that runs here, it is late only when the machine (or its
hypervisor) was away. Without that priority it also sees ordinary competition, and its gaps excuse nothing:
see `trustworthy`. A loop that spins would take the very core it watches; one that wakes each millisecond takes
about a fiftieth of it. Where several processes fill that core it takes more, for whenever it wakes the kernel chooses
anew between them: a tenth of the answers of a server beyond its ceiling. There it wakes more seldom and overlooks short
stalls, which then excuse nothing. Run as a process: `python -m loadtest.stalls CPU SECONDS THRESHOLD PERIOD`, both in
nanoseconds; it prints the gaps as JSON at SIGTERM or when its time is over.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import numpy as np
from numpy.typing import NDArray

from loadtest.pinning import METER_PRIORITY, take

PERIOD_NS = 1_000_000  # a stall of 2 ms is always seen, one of 1 to 2 ms sometimes
SPARING_NS = 5_000_000  # where the core is a server's: of 6 ms always, shorter ones sometimes
THRESHOLD_NS = 1_000_000


def merge(gaps: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Overlapping (begin, end) become one; sorted; int64 [n, 2]."""
    merged: list[list[int]] = []
    for begin, end in sorted(gaps):
        if merged and begin <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], end)
        else:
            merged.append([begin, end])
    return np.array(merged, dtype=np.int64).reshape(-1, 2)


def touched(
    begins: NDArray[np.int64], ends: NDArray[np.int64], stalls: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which of the intervals [begin, end] meet a stall; `stalls` as merge() gives them."""
    if not len(stalls):
        return np.zeros(len(begins), dtype=np.bool_)
    # The first stall that ends after the interval begins is the only one that need be looked at.
    first = np.searchsorted(stalls[:, 1], begins, side="left")
    inside = np.minimum(first, len(stalls) - 1)
    return np.asarray((first < len(stalls)) & (stalls[inside, 0] <= ends))


class Meters:
    """Running meters; `stop()` gives what all of them saw.

    Attributes:
        trustworthy: once stopped, whether all of them had the priority that they need.
        gaps: once stopped, what each core's meter saw, as `stop` gives it.
    """

    def __init__(self, cpus: Sequence[int], seconds: float, threshold_ns: int, period_ns: int) -> None:
        command = [sys.executable, "-m", "loadtest.stalls"]
        self._children = {
            cpu: subprocess.Popen(
                [*command, str(cpu), str(seconds), str(threshold_ns), str(period_ns)], stdout=subprocess.PIPE
            )
            for cpu in cpus
        }
        self.trustworthy = False
        self.gaps: dict[int, NDArray[np.int64]] = {}
        for child in self._children.values():
            assert child.stdout is not None
            child.stdout.readline()  # it has its core and its priority, and measures

    def stop(self) -> NDArray[np.int64]:
        """Ends the meters and gives their gaps on CLOCK_MONOTONIC, merged: int64 [n, 2]."""
        reports = {}
        for cpu, child in self._children.items():
            child.terminate()
            output, _ = child.communicate(timeout=10)
            reports[cpu] = json.loads(output)
        self._children = {}
        self.trustworthy = bool(reports) and all(report["real_time"] for report in reports.values())
        self.gaps = {cpu: merge(report["gaps"]) for cpu, report in reports.items()}
        return merge([gap for report in reports.values() for gap in report["gaps"]])

    def abandon(self) -> None:
        """Ends what still runs, without asking what it saw."""
        for child in self._children.values():
            child.kill()
            child.communicate()
        self._children = {}


@contextmanager
def metering(
    cpus: Sequence[int], seconds: float, threshold_ns: int = THRESHOLD_NS, period_ns: int = PERIOD_NS
) -> Iterator[Meters]:
    """Meters on `cpus` for at most `seconds`, noting gaps above `threshold_ns`; none outlives the block."""
    meters = Meters(cpus, seconds, threshold_ns, period_ns)
    try:
        yield meters
    finally:
        meters.abandon()


def watch(
    seconds: float, stop: list[bool], threshold_ns: int = THRESHOLD_NS, period_ns: int = PERIOD_NS
) -> list[tuple[int, int]]:
    """Sleeps from instant to instant and returns the (intended, real) wake-ups more than `threshold_ns` apart."""
    gaps: list[tuple[int, int]] = []
    due = now = time.monotonic_ns()
    end = due + round(seconds * 1e9)
    while due < end and not stop:
        due += period_ns
        time.sleep(max(0, due - now) / 1e9)
        now = time.monotonic_ns()
        if now - due > threshold_ns:
            gaps.append((due, now))
            due = now
    return gaps


def main() -> None:
    """The meter process."""
    cpu, seconds, threshold_ns, period_ns = int(sys.argv[1]), float(sys.argv[2]), *map(int, sys.argv[3:])
    stop: list[bool] = []

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.append(True)

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    hold = take({cpu}, METER_PRIORITY)
    print("ready", flush=True)
    gaps = watch(seconds, stop, threshold_ns, period_ns)
    if os.getppid() == parent:
        print(json.dumps({"real_time": hold.real_time, "gaps": gaps}), flush=True)


if __name__ == "__main__":
    main()
