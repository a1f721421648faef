"""What a front end does every few milliseconds, whether requests come or not, by one entry of the deadline heap.

Knows which parts want to be told the time; must not do their work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import uvicorn

from server.admission import Door
from server.busy import Busy
from server.coalescing import Coalescing
from server.deadlines import NEVER, Clock, Deadlines
from server.doorman import SWEEP_NS, Doorman
from server.jobs import Jobs
from server.lag import TICK_NS, Lag
from server.link import Link
from server.metrics import FrontEndMetrics, write_counts
from server.rehearsal import Exercise
from server.throttle import Throttle


@dataclass(slots=True)
class Housekeeping:
    """Ticks for everything that lives by them, and the end of the server once it has drained.

    Attributes:
        server: what is told to end.
        drain_ns: how long answers in flight are waited for.
        exercise: what is done in pauses.
    """

    clock: Clock
    deadlines: Deadlines
    lag: Lag
    throttle: Throttle
    link: Link
    door: Door
    doorman: Doorman
    jobs: Jobs
    busy: Busy
    coalescing: Coalescing
    metrics: FrontEndMetrics
    server: uvicorn.Server
    drain_ns: int
    exercise: Exercise | None = None
    _next_ns: int = field(default=0, init=False)
    _sweep_ns: int = field(default=0, init=False)
    _busy_ns: int = field(default=0, init=False)  # of the loop, at the last sweep
    _beat_busy_ns: int = field(default=0, init=False)  # at the last beat
    _slept_ns: int = field(default=0, init=False)
    _drain_until_ns: int = field(default=0, init=False)

    def start(self) -> None:
        """Begins; never ends."""
        self._next_ns = self.clock() + TICK_NS
        self.deadlines.schedule(self._next_ns, self._beat)

    def _beat(self) -> None:
        now = self.clock()
        late_ns = now - self._next_ns
        self.lag.ticked(late_ns)
        busy_ns, self._beat_busy_ns = self.busy.total_ns - self._beat_busy_ns, self.busy.total_ns
        self.throttle.ticked(late_ns, now, busy_ns / (TICK_NS + late_ns))
        self.door.backlog.ticked(TICK_NS + late_ns)
        self.coalescing.ticked(TICK_NS + late_ns, self.door.asked, self.door.tightest_ns)
        self.door.tightest_ns = NEVER
        pressed = self.throttle.pressed(now)
        self.link.press(pressed)
        if pressed:
            self.metrics.pressed.inc((TICK_NS + late_ns) / 1e9)
        self.link.tick()
        if now >= self._sweep_ns:
            self._sweep_ns = now + SWEEP_NS
            self._sweep()
        write_counts()
        if self.door.draining:
            self._see_to_the_end(now)
        elif self.exercise is not None:
            self.exercise.look(now, self.jobs.begun, self.door.in_work)
        # From now, not from when it was due: after a stall there is nothing to catch up on.
        self._next_ns = now + TICK_NS
        self.deadlines.schedule(self._next_ns, self._beat)

    def _sweep(self) -> None:
        self.doorman.sweep()
        self.metrics.in_flight.set(self.door.in_work)
        self.metrics.connections.set(len(self.server.server_state.connections))
        self.metrics.loop_busy.inc((self.busy.total_ns - self._busy_ns) / 1e9)
        self._busy_ns = self.busy.total_ns
        self.metrics.coalescing.inc((self.coalescing.slept_ns - self._slept_ns) / 1e9)
        self._slept_ns = self.coalescing.slept_ns
        self.metrics.loop_lag.set(self.lag.loop_ns / 1e9)
        self.metrics.answer_guard.set(self.lag.guard_ns / 1e9)
        self.metrics.backlog.set(self.door.backlog.wait_ns(0) / 1e9)
        self.metrics.rate_limit.set(math.inf if self.throttle.rate is None else self.throttle.rate)

    def _see_to_the_end(self, now: int) -> None:
        self._drain_until_ns = self._drain_until_ns or now + self.drain_ns
        if not (self.server.server_state.tasks or self.door.in_work) or now >= self._drain_until_ns:
            self.server.should_exit = True
