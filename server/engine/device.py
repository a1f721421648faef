"""Where launches run: short ones at once, long ones beside the loop.

Knows threads and how to wake the loop; must not know stages. Handing a launch to a thread costs a tenth of a
millisecond, and on a shared core more: for one of a few milliseconds the loop may as well wait. During one of 40 ms it
must go on refusing, cancelling and telling that it lives, so that one runs in a thread of its own: runtimes release
the GIL.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from server.engine.backends.protocol import Logits
from server.engine.events import Launch

BESIDE_NS = 6_000_000


@dataclass(frozen=True, slots=True)
class Result:
    """A launch that has ended: with logits, or with the error that it raised."""

    launch: Launch
    started_ns: int
    duration_ns: int
    logits: Logits | None
    error: Exception | None


Work = Callable[[], Logits]


class Device:
    """One launch at a time. `fileno` becomes readable when one that ran beside the loop has ended."""

    def __init__(self) -> None:
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._orders: SimpleQueue[tuple[Launch, Work] | None] = SimpleQueue()
        self._results: SimpleQueue[Result] = SimpleQueue()
        self._beside = 0
        self._thread = threading.Thread(target=self._serve, name="device", daemon=True)
        self._thread.start()

    def fileno(self) -> int:
        """To be polled."""
        return self._wake

    @property
    def busy(self) -> bool:
        """Whether a launch runs beside the loop."""
        return self._beside > 0

    def start(self, launch: Launch, work: Work, typical_ns: int) -> Result | None:
        """Run a launch, which usually takes `typical_ns`; a short one's result is returned, a long one's is polled.

        What is usual, not what is expected now: on a crowded core estimates are several times that, and a thread more
        would make it more crowded.
        """
        if typical_ns < BESIDE_NS:
            return _run(launch, work)
        self._beside += 1
        self._orders.put((launch, work))
        return None

    def poll(self) -> Result | None:
        """The result of the launch that ran beside, once it has ended."""
        if not self._beside:
            return None
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return None
        self._beside -= 1
        return self._results.get()

    def close(self) -> None:
        """Ends the thread after the launch that may be running."""
        self._orders.put(None)
        self._thread.join()
        os.close(self._wake)

    def _serve(self) -> None:
        while (order := self._orders.get()) is not None:
            self._results.put(_run(*order))
            os.eventfd_write(self._wake, 1)


def _run(launch: Launch, work: Work) -> Result:
    started_ns = time.monotonic_ns()
    logits: Logits | None = None
    error: Exception | None = None
    try:
        logits = work()
    except Exception as caught:  # noqa: BLE001 - whatever a runtime raises fails this stage, not the engine
        error = caught
    return Result(launch, started_ns, time.monotonic_ns() - started_ns, logits, error)
