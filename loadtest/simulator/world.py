"""The world: arrivals, one device, and the loop around a scheduler, as in server/engine/engine.py.

Discrete events in nanoseconds. One turn of the loop tells the scheduler every arrival that is due (also while a launch
is outstanding), lands a launch that has ended, then ticks; orders are obeyed at once. Deciding takes time: the loop's
clock advances by the measured time of every call of the scheduler, and where launches share the core the launch under
way ends later by as much.

Knows what really happens; must not know why a scheduler orders what it does. It refuses orders that no engine would
obey: BrokenSchedule.
"""

import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from loadtest.simulator.durations import Durations
from loadtest.simulator.model import NAME, SimulatedModel
from loadtest.simulator.offered import Offered
from loadtest.simulator.scheduler import Event, Instruction, Scheduler
from server.engine.policy import Arrived, Finish, Job, Launch, LaunchDone, Reject, Tick, WaitUntil

NEVER = 1 << 62
RECEIVING_NS = 1_000_000  # the engine's loop takes in no longer than this before it decides again

OPEN, ENDED, REFUSED = 0, 1, 2


class BrokenSchedule(Exception):
    """A scheduler ordered what cannot be done, or forgot a job."""


@dataclass(frozen=True)
class Costs:
    """What stands around the device.

    Attributes:
        inbound_ns: from the intended send until the engine hears of the job (front end, transport).
        outbound_ns: from the engine's word until the answer is at the client.
        decision_ns: a fixed charge for a call that orders a launch, for repeatable runs, and a sixteenth of it for
            any other; None charges what `clock_ns` measures.
        clock_ns: measures the scheduler; perf_counter_ns, or thread_time_ns beside other work.
    """

    inbound_ns: int = 100_000
    outbound_ns: int = 100_000
    decision_ns: int | None = None
    clock_ns: Callable[[], int] = time.perf_counter_ns


@dataclass(frozen=True)
class Journal:
    """What became of every request, and what the scheduler did.

    Attributes:
        first_ns: int64 [n], when the first refinement was at the client; NEVER where none came.
        answered_ns: int64 [n], when the answer left for good: the job's end or its deadline, whichever was first.
        mask: uint16 [n], rungs in the answer that was there by the deadline; 0 where none was.
        late_mask: uint16 [n], rungs of all refinements, in time or not.
        refused: bool [n].
        device_ns: int64 [n], share of launches' time; a launch is shared equally by its members.
        launches: int64 [m, 4]: start, duration, stage, batch.
        decision_ns: int64 [m], time of the calls that ordered those launches.
        waiting: int32 [m], jobs in the engine at that moment.
        calls, calls_ns: of the scheduler in all.
    """

    first_ns: NDArray[np.int64]
    answered_ns: NDArray[np.int64]
    mask: NDArray[np.uint16]
    late_mask: NDArray[np.uint16]
    refused: NDArray[np.bool_]
    device_ns: NDArray[np.int64]
    launches: NDArray[np.int64]
    decision_ns: NDArray[np.int64]
    waiting: NDArray[np.int32]
    calls: int
    calls_ns: int


def simulate(
    scheduler: Scheduler,
    model: SimulatedModel,
    device: Durations,
    offered: Offered,
    *,
    seed: int = 0,
    costs: Costs = Costs(),
) -> Journal:
    """Play everything that is offered to the scheduler until every job has ended.

    Raises BrokenSchedule.
    """
    return _World(scheduler, model, device, offered, seed, costs).play()


def _places(launch: Launch) -> tuple[int, ...]:
    """Its keys, which here are places in what is offered."""
    return cast("tuple[int, ...]", launch.keys)


class _World:
    def __init__(
        self,
        scheduler: Scheduler,
        model: SimulatedModel,
        device: Durations,
        offered: Offered,
        seed: int,
        costs: Costs,
    ) -> None:
        self._step = scheduler.step
        self._model, self._device, self._costs = model, device, costs
        self._draw = device.drawer(seed)
        self._arrivals: list[int] = (offered.arrivals_ns + costs.inbound_ns).tolist()
        self._deadlines: list[int] = offered.deadlines_ns.tolist()
        self._images: list[int] = offered.images.tolist()
        count = len(offered)
        self._ended = bytearray(count)
        self._mask = [0] * count
        self._in_time = [0] * count
        self._first = [NEVER] * count
        self._answered = [NEVER] * count
        self._device_ns = [0] * count
        self._next = 0
        self._open = 0
        self._open_at_last_call = 0
        self._now = 0
        self._wake = NEVER
        self._launch: Launch | None = None
        self._lands_ns = NEVER
        self._duration = 0
        self._launches = array("q")
        self._decisions = array("q")
        self._waiting = array("i")
        self._calls = 0
        self._calls_ns = 0
        self._call_ns = 0

    def play(self) -> Journal:
        """The loop."""
        arrivals, count = self._arrivals, len(self._arrivals)
        while True:
            due = min(self._wake, self._lands_ns)
            if self._next < count and arrivals[self._next] < due:
                due = arrivals[self._next]
            if due == NEVER:
                if not self._open:
                    return self._journal()
                due = self._last_call()
            self._now = max(self._now, due)
            self._receive()
            if self._lands_ns <= self._now:
                self._land()
            self._decide()

    def _tell(self, event: Event) -> Sequence[Instruction]:
        costs = self._costs
        began = costs.clock_ns()
        orders = self._step(event, self._now)
        spent = costs.clock_ns() - began
        self._calls += 1
        self._calls_ns += spent
        self._call_ns = spent
        charge = spent if costs.decision_ns is None else self._fixed_charge(costs.decision_ns, orders)
        self._now += charge
        if self._launch is not None and self._device.shares_core:
            self._lands_ns += charge
        return orders

    @staticmethod
    def _fixed_charge(decision_ns: int, orders: Sequence[Instruction]) -> int:
        launches = bool(orders) and type(orders[-1]) is Launch
        return decision_ns if launches else decision_ns // 16

    def _receive(self) -> None:
        arrivals, count = self._arrivals, len(self._arrivals)
        until = self._now + RECEIVING_NS
        while self._next < count and arrivals[self._next] <= self._now < until:
            number = self._next
            self._next += 1
            self._open += 1
            orders = self._tell(Arrived(Job(number, NAME, self._deadlines[number])))
            if orders:
                self._follow(orders, may_launch=False)

    def _land(self) -> None:
        launch = self._launch
        assert launch is not None
        self._launch, self._lands_ns = None, NEVER
        bit, keys, images = 1 << launch.stage, _places(launch), self._images
        arrives = self._now + self._costs.outbound_ns
        confidences = []
        for key in keys:
            mask = self._mask[key] = self._mask[key] | bit
            confidences.append(self._model.confidences_of(mask)[images[key]])
            if self._first[key] == NEVER:
                self._first[key] = arrives
            if arrives <= self._deadlines[key] and not self._ended[key]:
                self._in_time[key] = mask
        orders = self._tell(LaunchDone(launch, tuple(confidences), self._duration))
        self._follow(orders, may_launch=False)

    def _decide(self) -> None:
        self._wake = NEVER
        free = self._launch is None
        orders = self._tell(Tick())
        if orders:
            self._follow(orders, may_launch=free)

    def _follow(self, orders: Sequence[Instruction], *, may_launch: bool) -> None:
        for order in orders:
            kind = type(order)
            if kind is Finish or kind is Reject:
                self._end(order.key, refused=kind is Reject)  # type: ignore[union-attr, arg-type]
            elif kind is Launch:
                if not may_launch:
                    raise BrokenSchedule("a launch was ordered while the device is busy or by no tick")
                self._start(order)  # type: ignore[arg-type]
            elif kind is WaitUntil:
                at_ns = order.at_ns  # type: ignore[union-attr]
                # A wake-up in the past would be one without end.
                self._wake = NEVER if at_ns is None else max(at_ns, self._now + 1000)

    def _end(self, key: int, *, refused: bool) -> None:
        if key >= self._next or self._ended[key]:
            raise BrokenSchedule(f"job {key} is not here, or was ended twice")
        if refused and self._mask[key]:
            raise BrokenSchedule(f"job {key} was refused after an answer")
        self._ended[key] = REFUSED if refused else ENDED
        self._answered[key] = self._now + self._costs.outbound_ns
        self._open -= 1

    def _start(self, launch: Launch) -> None:
        bit, keys = 1 << launch.stage, _places(launch)
        if not 0 < len(keys) <= self._device.max_batch or launch.stage >= self._device.stages:
            raise BrokenSchedule(f"a launch of {len(keys)} jobs in rung {launch.stage}")
        duration = self._draw(launch.stage, len(keys))
        share = duration // len(keys)
        for key in keys:
            if self._ended[key] or self._mask[key] & bit:
                raise BrokenSchedule(f"job {key} has ended or had rung {launch.stage} before")
            self._device_ns[key] += share
        self._launch = launch
        self._duration = duration
        self._lands_ns = self._now + duration + self._device.overhead_ns
        self._launches.extend((self._now, duration, launch.stage, len(keys)))
        self._decisions.append(self._call_ns)
        self._waiting.append(self._open)

    def _last_call(self) -> int:
        """Nothing is due and jobs are left: once more after the last deadline, when each must be given up."""
        last = max(d for d, ended in zip(self._deadlines, self._ended, strict=True) if not ended) + 1
        if self._now > last and self._open == self._open_at_last_call:
            forgotten = [key for key, ended in enumerate(self._ended) if not ended]
            raise BrokenSchedule(f"{len(forgotten)} jobs were forgotten, the first is {forgotten[0]}")
        self._open_at_last_call = self._open
        return max(last, self._now) + 1

    def _journal(self) -> Journal:
        deadlines = np.array(self._deadlines, dtype=np.int64)
        ended = np.frombuffer(bytes(self._ended), dtype=np.uint8)
        answered = np.minimum(np.array(self._answered, dtype=np.int64), deadlines)
        first = np.array(self._first, dtype=np.int64)
        return Journal(
            first,
            np.maximum(answered, np.where(first == NEVER, 0, first)),
            np.array(self._in_time, dtype=np.uint16),
            np.array(self._mask, dtype=np.uint16),
            ended == REFUSED,
            np.array(self._device_ns, dtype=np.int64),
            np.array(self._launches, dtype=np.int64).reshape(-1, 4),
            np.array(self._decisions, dtype=np.int64),
            np.array(self._waiting, dtype=np.int32),
            self._calls,
            self._calls_ns,
        )
