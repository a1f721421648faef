"""A front end's end of the link, in a loop, against an engine's end of the test's own."""

from __future__ import annotations

import asyncio
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.channel import Channel
from server.engine_view import EngineView
from server.link import Link
from server.messages import (
    Cancel,
    Credit,
    Done,
    Envelope,
    Heartbeat,
    Job,
    Message,
    Refinement,
    decode,
    encode,
)


class Ears:
    """A listener that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.at_once: list[list[object]] = []

    @contextmanager
    def hearing(self) -> Iterator[None]:
        before = len(self.heard)
        yield
        self.at_once.append(self.heard[before:])

    def refinement(self, message: Refinement) -> None:
        self.heard.append(message)

    def done(self, message: Done) -> None:
        self.heard.append(message)

    def engine_lost(self) -> None:
        self.heard.append("lost")

    def engine_ready(self) -> None:
        self.heard.append("ready")

    def models_changed(self) -> None:
        self.heard.append("models")


class Pair:
    """A link and the other end."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "e.sock"
        self.view = EngineView()
        self.ears = Ears()
        self.link = Link(self.path, self.view, time.monotonic_ns)
        self.listener: socket.socket | None = None
        self.channel: Channel | None = None
        self.received: list[bytes] = []

    def bind(self) -> None:
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self.listener.bind(str(self.path))
        self.listener.listen()

    def die(self) -> None:
        for each in (self.channel, self.listener):
            if each is not None:
                each.close()
        self.channel = self.listener = None
        self.received.clear()

    async def end(self) -> Channel:
        """This end of the connection, once the link has made it."""
        assert self.listener is not None
        async with asyncio.timeout(10):
            while self.channel is None:
                try:
                    self.channel = Channel(self.listener.accept()[0])
                except BlockingIOError:
                    await self.turn()
        return self.channel

    async def turn(self) -> None:
        self.link.tick()
        await asyncio.sleep(0.005)

    async def receive(self) -> Envelope:
        """The next envelope that is no greeting."""
        while True:
            envelope = await self.greeting()
            if not isinstance(envelope.messages[0], Heartbeat):
                return envelope

    async def greeting(self) -> Envelope:
        """The next envelope."""
        channel = await self.end()
        async with asyncio.timeout(10):
            while not self.received:
                self.received += channel.receive()
                await asyncio.sleep(0.001)
        return decode(self.received.pop(0))

    async def say(self, epoch: int, *messages: Message) -> None:
        (await self.end()).send(encode(epoch, list(messages)))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await self.turn()

    async def ready(self, epoch: int) -> None:
        await self.say(epoch, Heartbeat("ready"))
        await self.until(lambda: self.view.epoch == epoch and self.view.ready)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="any") as path:
        yield Path(path)


def run(folder: Path, story: Callable[[Pair], Awaitable[None]]) -> None:
    async def whole() -> None:
        pair = Pair(folder)
        pair.bind()
        pair.link.open(asyncio.get_running_loop(), pair.ears)
        try:
            await story(pair)
        finally:
            pair.link.close()
            pair.die()

    asyncio.run(whole())


def test_it_introduces_itself_without_being_asked(folder: Path) -> None:
    async def story(pair: Pair) -> None:
        assert await pair.greeting() == Envelope(1, 0, [Heartbeat("ready")])

    run(folder, story)


def test_it_says_at_once_when_it_begins_and_ceases_to_be_pressed(folder: Path) -> None:
    async def story(pair: Pair) -> None:
        await pair.greeting()
        for pressed in (True, True, False):
            pair.link.press(pressed)
        assert await pair.greeting() == Envelope(1, 0, [Heartbeat("pressed")])
        assert await pair.greeting() == Envelope(1, 0, [Heartbeat("ready")])

    run(folder, story)


def test_messages_of_one_turn_travel_together_and_bear_the_engine_s_epoch(folder: Path) -> None:
    async def story(pair: Pair) -> None:
        await pair.greeting()
        await pair.ready(7)
        for number in range(5):
            pair.link.send(Cancel(number))
        assert await pair.receive() == Envelope(1, 7, [Cancel(number) for number in range(5)])

    run(folder, story)


def test_what_the_engine_says_reaches_the_listener_and_the_view(folder: Path) -> None:
    async def story(pair: Pair) -> None:
        await pair.greeting()
        news = Refinement(1, 0, [(2, 0.5)], (2, 0.5), 0, 0, None)
        await pair.say(7, Heartbeat("ready"), Credit(9, {"m@1": 5}), news, Done(1, "deadline"))
        await pair.until(lambda: len(pair.ears.heard) == 3)
        assert pair.ears.heard == ["ready", news, Done(1, "deadline")]
        assert pair.view.first_answer_ns("m@1") == 5

    run(folder, story)


def test_what_has_come_meanwhile_is_heard_at_once(folder: Path) -> None:
    async def story(pair: Pair) -> None:
        await pair.greeting()
        await pair.ready(7)
        end = await pair.end()
        for number in (1, 2):
            end.send(encode(7, [Done(number, "deadline"), Done(number + 2, "no_gain")]))
        await pair.until(lambda: len(pair.ears.heard) == 5)
        first, second = [Done(1, "deadline"), Done(3, "no_gain")], [Done(2, "deadline"), Done(4, "no_gain")]
        assert pair.ears.at_once[-1] == [*first, *second]

    run(folder, story)


def test_death_is_noticed_by_the_broken_connection_and_nothing_stale_is_sent_on(folder: Path) -> None:
    async def story(pair: Pair) -> None:
        await pair.greeting()
        await pair.ready(7)
        pair.die()
        await pair.until(lambda: pair.view.epoch == 0)
        assert pair.ears.heard == ["ready", "lost"]
        pair.link.send(Cancel(1))  # meant for the dead one
        await asyncio.sleep(0)
        pair.bind()
        greeting = await pair.greeting()
        assert greeting.epoch == 0
        await pair.ready(8)
        pair.link.send(Cancel(2))
        assert await pair.receive() == Envelope(1, 8, [Cancel(2)])
        assert pair.ears.heard == ["ready", "lost", "ready"]

    run(folder, story)


def test_what_the_engine_said_before_it_died_still_counts(folder: Path) -> None:
    async def story(pair: Pair) -> None:
        await pair.greeting()
        await pair.ready(7)
        await pair.say(7, Done(1, "deadline"))
        pair.die()
        pair.link.send(Cancel(2))  # whether it can be written or not
        await pair.until(lambda: pair.view.epoch == 0)
        assert pair.ears.heard == ["ready", Done(1, "deadline"), "lost"]

    run(folder, story)


def test_an_engine_that_does_not_read_gets_all_of_it_in_order_once_it_does(folder: Path) -> None:
    async def story(pair: Pair) -> None:
        await pair.greeting()
        await pair.ready(7)
        jobs = [Job(number, "m@1", 0, 1.0, 1, False, bytes(100_000)) for number in range(40)]
        for job in jobs:
            pair.link.send(job)
            await asyncio.sleep(0)
        for _ in range(5):
            await pair.turn()
        got: list[Message] = []
        while len(got) < len(jobs):
            got += (await pair.receive()).messages
        assert got == jobs

    run(folder, story)


def test_it_waits_for_an_engine_that_is_not_there_yet(folder: Path) -> None:
    async def story(pair: Pair) -> None:
        pair.die()
        for _ in range(5):
            await pair.turn()
        pair.bind()
        await pair.ready(7)
        assert pair.ears.heard == ["ready"]

    run(folder, story)


def test_nonsense_is_survived(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(pair: Pair) -> None:
        await pair.greeting()
        (await pair.end()).send(b"\xc1nonsense")
        await pair.ready(7)

    run(folder, story)
    assert "does not understand" in caplog.text
