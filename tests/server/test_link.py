"""A front end's end of the link, in a loop, against a ROUTER of the test's own."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from server.engine_view import EngineView
from server.link import Link
from server.messages import Cancel, Credit, Done, Envelope, Heartbeat, Message, Refinement, decode, encode


class Ears:
    """A listener that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []

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
        self.endpoint = f"ipc://{folder / 'e.sock'}"
        self.context = zmq.asyncio.Context()
        self.view = EngineView()
        self.ears = Ears()
        self.front_context = zmq.Context()
        self.link = Link(self.endpoint, b"front-1", self.view, time.monotonic_ns, self.front_context)
        self.router: zmq.asyncio.Socket | None = None

    def bind(self) -> None:
        self.router = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.LINGER, 0)
        Path(self.endpoint.removeprefix("ipc://")).unlink(missing_ok=True)
        self.router.bind(self.endpoint)

    def die(self) -> None:
        assert self.router is not None
        self.router.close()

    async def receive(self) -> Envelope:
        """The next envelope that is no greeting."""
        assert self.router is not None
        while True:
            async with asyncio.timeout(10):
                identity, data = await self.router.recv_multipart()
            assert identity == b"front-1"
            envelope = decode(data)
            if not isinstance(envelope.messages[0], Heartbeat):
                return envelope

    async def greeting(self) -> Envelope:
        assert self.router is not None
        async with asyncio.timeout(10):
            _, data = await self.router.recv_multipart()
        return decode(data)

    async def say(self, epoch: int, *messages: Message) -> None:
        assert self.router is not None
        await self.router.send_multipart([b"front-1", encode(epoch, list(messages))])

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                self.link.tick()
                await asyncio.sleep(0.005)

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
            pair.context.term()
            pair.front_context.term()

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


def test_another_epoch_is_another_engine_and_the_old_one_s_words_no_longer_count(folder: Path) -> None:
    async def story(pair: Pair) -> None:
        await pair.greeting()
        await pair.ready(7)
        await pair.ready(8)
        await pair.say(7, Done(1, "deadline"))
        await pair.say(8, Done(2, "deadline"))
        await pair.until(lambda: len(pair.ears.heard) >= 4)
        assert pair.ears.heard == ["ready", "lost", "ready", Done(2, "deadline")]
        assert pair.view.epoch == 8

    run(folder, story)


def test_nonsense_is_survived(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def story(pair: Pair) -> None:
        await pair.greeting()
        assert pair.router is not None
        await pair.router.send_multipart([b"front-1", b"\xc1nonsense"])
        await pair.ready(7)

    run(folder, story)
    assert "does not understand" in caplog.text
