"""The open-loop generator of a replay: jobs leave at the times of the plan, over the engine's own link protocol.

It stands where a front end stands, without HTTP: it stamps deadlines, sends, and keeps what comes back with the time of
its arrival on this clock; it is decoded once the last deadline has passed, and what it means is read after the run
(rows.py). One thread, epoll and a timerfd, as in client.py, and for the same reasons; but nobody else needs its core,
so it is awake before a job is due.
"""

import contextlib
import itertools
import select
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loadtest.client import no_garbage_collection
from loadtest.records import NEVER
from loadtest.timer import AbsoluteTimer
from server.channel import Channel, Closed
from server.messages import Credit, Done, Heartbeat, Job, Message, Refinement, decode, encode

TOP_K = 1
READY_TIMEOUT_S = 120.0
_LEAD_NS = 5_000_000
_AWAKE_NS = (
    150_000  # before a job is due: a core that has gone to sleep wakes up late, most of all a virtual one
)
_READ = select.EPOLLIN
_NAMES = itertools.count()


class EngineSilent(Exception):
    """The engine did not become ready, or serves no such model; the text says what it said last."""


@dataclass(frozen=True)
class ReplayPlan:
    """What is sent: arrivals (int64 ns from the start, sorted), budgets (int64 ns), places of images and their pixels.

    `grace_s` after the last deadline whatever has not ended is given up.
    """

    model: str
    arrivals_ns: NDArray[np.int64]
    budgets_ns: NDArray[np.int64]
    images: NDArray[np.int32]
    pixels: tuple[bytes, ...]
    seconds: float
    grace_s: float = 1.0

    def __len__(self) -> int:
        return len(self.arrivals_ns)


@dataclass(frozen=True)
class Heard:
    """What came of a plan: when each job was picked and sent, and every message about jobs with its arrival.

    All times are CLOCK_MONOTONIC; NEVER where it did not happen.
    """

    start_ns: int
    picked_ns: list[int]
    sent_ns: list[int]
    messages: list[tuple[int, Refinement | Done]]
    cpu_ns: int


class Replayer:
    """One connection to one engine. Close it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._channel: Channel | None = None
        self._timer = AbsoluteTimer()
        self._epoll = select.epoll()
        self._epoll.register(self._timer.fd, _READ)
        self._epoch = 0
        self.latencies_ns: dict[str, dict[str, dict[int, int]]] = {}

    def close(self) -> None:
        """Disconnects."""
        self._epoll.close()
        self._timer.close()
        if self._channel is not None:
            self._channel.close()

    def greet(self, model: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Waits until the engine serves `model` and gives credit.

        Then `latencies_ns` has, per model, stage and batch, the median launch. Raises EngineSilent.
        """
        until = time.monotonic() + timeout_s
        state, detail, credit, hello = "nothing heard", "", False, 0.0
        while not (state == "ready" and credit):
            now = time.monotonic()
            if now >= until:
                raise EngineSilent(f"not ready after {timeout_s:.0f} s: {state}: {detail}")
            if now >= hello:
                hello = now + 0.1
                self._send([Heartbeat("ready")])
            self._epoll.poll(0.05)
            for message in self._decoded(self._frames()):
                if isinstance(message, Heartbeat):
                    state, detail = message.state, message.detail
                    self._learn(message)
                credit = credit or isinstance(message, Credit)
        if model not in self.latencies_ns:
            raise EngineSilent(f"{model} is not served: {detail}")

    def run(self, plan: ReplayPlan) -> Heard:
        """Sends everything at its time; returns when all jobs have ended or been given up."""
        count = len(plan)
        first = next(_NAMES) << 32  # numbers of an earlier run must not be taken for this one's
        picked, sent = [NEVER] * count, [NEVER] * count
        messages: list[tuple[int, Refinement | Done]] = []
        with no_garbage_collection():
            start = time.monotonic_ns() + _LEAD_NS
            cpu = time.thread_time_ns()
            self._loop(plan, start, first, picked, sent, messages)
            cpu = time.thread_time_ns() - cpu
        return Heard(start, picked, sent, [_renumbered(entry, first) for entry in messages], cpu)

    def _loop(
        self,
        plan: ReplayPlan,
        start: int,
        first: int,
        picked: list[int],
        sent: list[int],
        messages: list[tuple[int, Refinement | Done]],
    ) -> None:
        due = (plan.arrivals_ns + start).tolist()
        deadlines = (plan.arrivals_ns + plan.budgets_ns + start).tolist()
        images = plan.images.tolist()
        last = max(deadlines, default=start)
        patience = last + round(plan.grace_s * 1e9)
        place, unfinished = 0, len(due)
        kept: list[tuple[int, list[bytes]]] = []
        while unfinished:
            jobs: list[Message] = []
            begun = place
            while place < len(due) and (now := time.monotonic_ns()) >= due[place]:
                picked[place] = now
                pixels = plan.pixels[images[place]]
                jobs.append(Job(first + place, plan.model, deadlines[place], 1.0, TOP_K, False, pixels))
                place += 1
            if jobs:
                self._send(jobs)
                sent[begun:place] = [time.monotonic_ns()] * (place - begun)
            if frames := self._frames():
                kept.append((time.monotonic_ns(), frames))
            now = time.monotonic_ns()
            if now >= last:  # reading 32 answers takes as long as the generator may be late
                unfinished -= self._read(kept, first, messages)
                kept.clear()
            if now >= patience:
                return
            self._wait(due[place] if place < len(due) else last if now < last else patience)

    def _read(
        self,
        kept: list[tuple[int, list[bytes]]],
        first: int,
        messages: list[tuple[int, Refinement | Done]],
    ) -> int:
        """Decodes what was kept; returns how many jobs have ended with it."""
        ended = 0
        for now, frames in kept:
            for message in self._decoded(frames):
                if isinstance(message, (Refinement, Done)) and message.number >= first:
                    messages.append((now, message))
                    ended += isinstance(message, Done) or message.final is not None
        return ended

    def _wait(self, until_ns: int) -> None:
        until_ns -= _AWAKE_NS
        if time.monotonic_ns() >= until_ns:
            return
        self._timer.set(until_ns)
        for fd, _ in self._epoll.poll():
            if fd == self._timer.fd:
                self._timer.acknowledge()

    def _connected(self) -> Channel | None:
        if self._channel is None:
            try:
                self._channel = Channel.connect(self._path)
            except OSError:  # it does not listen yet
                return None
            self._epoll.register(self._channel.fileno(), _READ)
        return self._channel

    def _send(self, messages: list[Message]) -> None:
        channel = self._connected()
        if channel is None:
            return
        with contextlib.suppress(Closed):  # `_receive` will say so
            channel.send(encode(self._epoch, messages))

    def _frames(self) -> list[bytes]:
        """What is here, as it came."""
        channel = self._connected()
        if channel is None:
            return []
        try:
            channel.flush()
            return list(channel.receive())
        except Closed as error:
            raise EngineSilent("the engine has ended") from error

    def _decoded(self, frames: list[bytes]) -> list[Message]:
        messages: list[Message] = []
        for data in frames:
            envelope = decode(data)
            self._epoch = envelope.epoch
            messages += envelope.messages
        return messages

    def _learn(self, message: Heartbeat) -> None:
        for served in message.models:
            self.latencies_ns[served.model] = {
                stage: {row.batch: row.p50_ns for row in rows} for stage, rows in served.stages.items()
            }


def _renumbered(entry: tuple[int, Refinement | Done], first: int) -> tuple[int, Refinement | Done]:
    now, message = entry
    if isinstance(message, Done):
        return now, Done(message.number - first, message.stop_reason, message.feasible_ns)
    return now, Refinement(
        message.number - first,
        message.stage,
        message.top,
        message.stage_top,
        message.queue_ns,
        message.compute_ns,
        message.final,
    )
