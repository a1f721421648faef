"""An engine that speaks the real protocol over a real socket and does what a test tells it to."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from server.channel import Channel, Closed
from server.messages import (
    Cancel,
    Credit,
    Done,
    Envelope,
    Heartbeat,
    Job,
    Message,
    Refinement,
    ServedModel,
    StageLatency,
    decode,
    encode,
)

Behaviour = Callable[[Job], Sequence[tuple[float, Message]]]
"""A job -> messages, each after so many seconds."""


def refinement(job: Job, stage: int, confidence: float = 0.6, final: str | None = None) -> Refinement:
    """Class 3 is best, the rest share what is left."""
    rest = (1 - confidence) / 9
    top = [(3, confidence), *((index, rest) for index in range(10) if index != 3)][: job.top_k]
    return Refinement(job.number, stage, top, (3, confidence), 100_000, 200_000 * (stage + 1), final)


def whole_ladder(job: Job) -> Sequence[tuple[float, Message]]:
    """Three rungs, at once."""
    return [
        (0.0, refinement(job, 0, 0.5)),
        (0.0, refinement(job, 1, 0.7)),
        (0.0, refinement(job, 2, 0.9, "deepest")),
    ]


def silent(job: Job) -> Sequence[tuple[float, Message]]:
    """Nothing ever."""
    return []


@dataclass
class FakeEngine:
    """One life of an engine; `stop` and a new one make the next.

    Attributes:
        behaviour: of jobs that arrive from now on.
        jobs, cancelled: what has arrived.
        beating: whether heartbeats are sent.
    """

    runtime_dir: Path
    epoch: int = 1001
    model: str = "tiny@1"
    behaviour: Behaviour = whole_ladder
    credit: int = 512
    first_answer_ns: int = 500_000
    state: str = "ready"
    beating: bool = True
    jobs: list[Job] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    envelopes: list[Envelope] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> FakeEngine:
        """Binds and serves in a thread."""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """The socket closes, as when the process is killed."""
        self._stop.set()
        assert self._thread is not None
        self._thread.join()

    def _serve(self) -> None:
        path = self.runtime_dir / "engine.sock"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            listener.listen()
            peers: dict[Channel, float] = {}
            try:
                self._loop(listener, peers)
            finally:
                for channel in peers:
                    channel.close()

    def _loop(self, listener: socket.socket, peers: dict[Channel, float]) -> None:
        planned: list[tuple[float, Channel, Message]] = []
        while not self._stop.is_set():
            for ready in select.select([listener, *peers], (), (), 0.005)[0]:
                if ready is listener:
                    peers[Channel(listener.accept()[0])] = 0.0
                    continue
                try:
                    received = ready.receive()
                except Closed:
                    del peers[ready]
                    ready.close()
                    continue
                for data in received:
                    planned += [(when, ready, message) for when, message in self._take(decode(data))]
            now = time.monotonic()
            for channel, last in peers.items():
                if self.beating and now - last > 0.05:
                    peers[channel] = now
                    self._say(channel, self._report())
            for item in [item for item in planned if item[0] <= now]:
                planned.remove(item)
                self._say(item[1], [item[2]])

    def _say(self, channel: Channel, messages: list[Message]) -> None:
        with contextlib.suppress(OSError):  # it has left
            channel.flush()
            channel.send(encode(self.epoch, messages))

    def _take(self, envelope: Envelope) -> list[tuple[float, Message]]:
        self.envelopes.append(envelope)
        out: list[tuple[float, Message]] = []
        for message in envelope.messages:
            if isinstance(message, Job) and envelope.epoch == self.epoch:
                self.jobs.append(message)
                out += [(time.monotonic() + after, answer) for after, answer in self.behaviour(message)]
            elif isinstance(message, Cancel):
                self.cancelled.append(message.number)
        return out

    def _report(self) -> list[Message]:
        latency = [StageLatency(1, 100_000, 200_000)]
        stages = {"column1": latency, "column2": latency, "full": latency}
        served = [ServedModel(self.model, "fake", stages, [])] if self.model else []
        return [
            Heartbeat(self.state, "serving", 4242, served),
            Credit(self.credit, {self.model: self.first_answer_ns}),
        ]


__all__ = ["Done", "FakeEngine", "refinement", "silent", "whole_ladder"]
