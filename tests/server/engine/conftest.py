from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from server.channel import Channel, Closed
from server.child import ChildContext
from server.messages import Credit, Done, Envelope, Heartbeat, Job, Message, Refinement, decode, encode
from server.settings import Settings
from tests.models import publish_tiny_model

ENDED = {"deepest", "confident", "no_gain"}


class EngineProcess:
    """A real engine child of this test."""

    def __init__(self, tmp_path: Path, **settings: object) -> None:
        options = {
            "models_dir": tmp_path / "models",
            "state_dir": tmp_path / "state",
            "drain_s": 5.0,
            "backend": "onnxruntime",  # the numbers are compared with float32
            **settings,
        }
        self.runtime_dir = tmp_path / "run"
        self.runtime_dir.mkdir(exist_ok=True)
        self.context = ChildContext(
            Settings(**options), self.runtime_dir, os.getpid(), self.runtime_dir / "processes.json"
        )
        self.log = (tmp_path / "engine.log").open("ab")
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "ANYTIME_CHILD": self.context.encode()}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "server.engine.process"], env=environment, stderr=self.log
        )

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        return self.process.returncode


class FrontEnd:
    """Speaks to an engine as a front end does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.channel: Channel | None = None
        self.received: list[bytes] = []
        self.epoch = 0
        self.heard: list[tuple[int, Message]] = []
        self.refinements: dict[int, list[Refinement]] = {}
        self.ends: dict[int, str] = {}
        self.done: dict[int, Done] = {}
        self.credit: Credit | None = None
        self.models = {}
        self.state = ""
        self.detail = ""

    def connect(self, seconds: float = 10.0) -> Channel:
        """Connected, now or once there is an engine."""
        stop = time.monotonic() + seconds
        while self.channel is None:
            try:
                self.channel = Channel.connect(self.path)
            except OSError:
                assert time.monotonic() < stop, f"nobody listens at {self.path}"
                time.sleep(0.005)
        return self.channel

    def send(self, *messages: Message, epoch: int | None = None) -> None:
        self.send_bytes(encode(self.epoch if epoch is None else epoch, list(messages)))

    def send_bytes(self, data: bytes) -> None:
        """Whatever it is."""
        channel = self.connect()
        try:
            channel.send(data)
            while channel.unsent:
                select.select((), [channel], (), 1.0)
                channel.flush()
        except Closed:  # that life is over; the next gets it
            self.close()
            self.send_bytes(data)

    def hear(self, until, seconds: float = 10.0) -> None:
        """Take what comes until `until()` holds; fails after `seconds`."""
        stop = time.monotonic() + seconds
        while not until():
            left = stop - time.monotonic()
            assert left > 0, f"not heard in {seconds} s; the last state was {self.state!r}: {self.detail!r}"
            if self.poll(left):
                self.hear_one()

    def poll(self, seconds: float) -> bool:
        """Waits for an envelope; one of its own accord connects to the engine's next life."""
        if not self.received:
            channel = self.connect()
            if not select.select([channel], (), (), seconds)[0]:
                return False
            try:
                self.received += channel.receive()
            except Closed:
                self.close()
        return bool(self.received)

    def hear_one(self) -> None:
        """Take the envelope that is here."""
        self._take(decode(self.received.pop(0)))

    def close(self) -> None:
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    def greet(self, state: str = "ready", seconds: float = 20.0) -> None:
        """Introduce oneself, wait for that state and, if ready, for credit."""
        self.send(Heartbeat("ready"))
        self.hear(lambda: self.state == state and (state != "ready" or self.credit is not None), seconds)

    def _take(self, envelope: Envelope) -> None:
        self.epoch = envelope.epoch
        for message in envelope.messages:
            self.heard.append((envelope.epoch, message))
            match message:
                case Refinement():
                    self.refinements.setdefault(message.number, []).append(message)
                    if message.final:
                        self.ends[message.number] = message.final
                case Done():
                    self.ends[message.number] = message.stop_reason
                    self.done[message.number] = message
                case Credit():
                    self.credit = message
                case Heartbeat():
                    self.state, self.detail = message.state, message.detail
                    if message.models:
                        self.models = {served.model: served for served in message.models}


@pytest.fixture
def connect(tmp_path: Path) -> Iterator:
    """Makes front ends of the engine; all are closed after the test."""
    made: list[FrontEnd] = []

    def new() -> FrontEnd:
        made.append(FrontEnd(tmp_path / "run" / "engine.sock"))
        return made[-1]

    yield new
    for front_end in made:
        front_end.close()


@pytest.fixture
def start_engine(tmp_path: Path) -> Iterator:
    """Starts engines with settings; all are ended after the test."""
    started: list[EngineProcess] = []

    def start(**settings: object) -> EngineProcess:
        engine = EngineProcess(tmp_path, **settings)
        started.append(engine)
        return engine

    yield start
    for engine in started:
        engine.stop()
        engine.log.close()


@pytest.fixture
def front_end(connect) -> FrontEnd:
    return connect()


@pytest.fixture
def tiny(tmp_path: Path):
    return publish_tiny_model(tmp_path / "models")


def image(number: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)


def job(number: int, budget_ms: float = 1000.0, model: str = "tiny@1", **options) -> Job:
    wanted = {
        "min_confidence": 1.0,
        "top_k": 3,
        "every_stage": False,
        "pixels": image(number).tobytes(),
        **options,
    }
    return Job(number=number, model=model, deadline_ns=time.monotonic_ns() + int(budget_ms * 1e6), **wanted)
