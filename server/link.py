"""A front end's end of the link to the engine: messages of one loop turn leave together, and death is noticed.

Knows the channel and epochs; must not know what jobs mean: it tells a listener. Nothing blocks and no task runs: the
channel's descriptor is watched by the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from server.channel import Channel, Closed
from server.deadlines import Clock
from server.engine_view import EngineView
from server.messages import (
    Credit,
    Done,
    Envelope,
    Heartbeat,
    Message,
    ProtocolError,
    Refinement,
    decode,
    encode,
)

log = logging.getLogger(__name__)

_HELLO_EVERY_NS = 1_000_000_000
_HELLO_UNANSWERED_NS = 100_000_000


class Listener(Protocol):
    """Who is told what the engine says and that it came or went."""

    def hearing(self) -> AbstractContextManager[None]:
        """Around all that is heard at once."""

    def refinement(self, message: Refinement) -> None:
        """One more stage finished."""

    def done(self, message: Done) -> None:
        """Nothing more comes for a job."""

    def engine_lost(self) -> None:
        """All jobs at the engine are lost."""

    def engine_ready(self) -> None:
        """An engine takes jobs."""

    def models_changed(self) -> None:
        """The engine serves other models than before."""


class Link:
    """The connection of one front end to the engine that listens at `path`, whichever life of it that is."""

    def __init__(self, path: Path, view: EngineView, clock: Clock) -> None:
        self._path = path
        self._view = view
        self._clock = clock
        self._listener: Listener | None = None
        self._outbox: list[Message] = []
        self._flush_planned = False
        self._hello_ns = 0
        self._state = "ready"
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channel: Channel | None = None
        self._watching_writes = False

    def open(self, loop: asyncio.AbstractEventLoop, listener: Listener) -> None:
        """Connects, now or as soon as there is an engine, and again whenever it comes back."""
        self._loop = loop
        self._listener = listener
        self._connect()

    def close(self) -> None:
        """Sends what is planned and disconnects."""
        if self._loop is None:
            return
        self._flush()
        self._disconnect(linger_s=0.1)
        self._loop = None

    def send(self, message: Message) -> None:
        """Sends at the end of this turn of the loop, with all else of the turn."""
        self._outbox.append(message)
        if not self._flush_planned and self._loop is not None:
            self._flush_planned = True
            self._loop.call_soon(self._flush)

    def tick(self) -> None:
        """Called every few tens of milliseconds: looks for an engine, introduces this front end."""
        if self._channel is None:
            self._connect()
            return
        now = self._clock()
        interval = _HELLO_EVERY_NS if self._view.epoch else _HELLO_UNANSWERED_NS
        if now - self._hello_ns >= interval:
            self._say_hello(now)

    def press(self, pressed: bool) -> None:
        """Tells the engine whether this front end is short of processor time."""
        state = "pressed" if pressed else "ready"
        if state != self._state:
            self._state = state
            self._say_hello(self._clock())

    def _connect(self) -> None:
        assert self._loop is not None
        try:
            self._channel = Channel.connect(self._path)
        except OSError:  # nobody there; the next tick tries again
            return
        self._loop.add_reader(self._channel.fileno(), self._readable)
        self._say_hello(self._clock())

    def _disconnect(self, linger_s: float = 0.0) -> None:
        if self._channel is None:
            return
        assert self._loop is not None
        self._loop.remove_reader(self._channel.fileno())
        self._watch_writes(self._channel, wanted=False)
        self._channel.close(linger_s)
        self._channel = None

    def _say_hello(self, now: int) -> None:
        self._hello_ns = now
        self._write([Heartbeat(self._state)])

    def _flush(self) -> None:
        self._flush_planned = False
        if not self._outbox or self._view.epoch == 0:
            self._outbox.clear()  # meant for an engine that is gone
            return
        if self._channel is not None and self._channel.unsent:
            return  # the engine does not read as fast as is written: the rest leaves when it does
        messages, self._outbox = self._outbox, []
        self._write(messages)

    def _write(self, messages: list[Message]) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            channel.send(encode(self._view.epoch, messages))
        except Closed:
            return  # there may still be something to hear; after it the reader will find that it is gone
        if channel.unsent:
            self._watch_writes(channel, wanted=True)

    def _writable(self) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            channel.flush()
        except Closed:
            self._watch_writes(channel, wanted=False)
            return
        if not channel.unsent:
            self._watch_writes(channel, wanted=False)
            self._flush()

    def _watch_writes(self, channel: Channel, *, wanted: bool) -> None:
        assert self._loop is not None
        if wanted and not self._watching_writes:
            self._loop.add_writer(channel.fileno(), self._writable)
        elif not wanted and self._watching_writes:
            self._loop.remove_writer(channel.fileno())
        self._watching_writes = wanted

    def _readable(self) -> None:
        if self._channel is None:
            return
        try:
            received = self._channel.receive()
        except Closed:
            self._lose()
            return
        assert self._listener is not None
        with self._listener.hearing():
            for data in received:
                self._hear(data)

    def _hear(self, data: bytes) -> None:
        try:
            envelope = decode(data)
        except ProtocolError as error:
            log.error("the engine sent what this front end does not understand", extra={"error": str(error)})
            return
        self._take(envelope)

    def _lose(self) -> None:
        """The engine has closed its end, which the kernel does for one that dies; what it said before was heard."""
        self._disconnect()
        if self._view.epoch == 0:
            return
        log.warning("lost the engine", extra={"epoch": self._view.epoch, "engine_pid": self._view.pid})
        self._view.lost(self._clock())
        self._outbox.clear()
        assert self._listener is not None
        self._listener.engine_lost()

    def _take(self, envelope: Envelope) -> None:
        self._view.heard(envelope.epoch, self._clock())
        for message in envelope.messages:
            self._dispatch(message)

    def _dispatch(self, message: Message) -> None:
        listener = self._listener
        assert listener is not None
        kind = type(message)
        if kind is Refinement:
            listener.refinement(message)  # type: ignore[arg-type]
        elif kind is Done:
            listener.done(message)  # type: ignore[arg-type]
        elif isinstance(message, Credit):
            self._view.credit = message
        elif isinstance(message, Heartbeat):
            self._heartbeat(message, listener)

    def _heartbeat(self, message: Heartbeat, listener: Listener) -> None:
        became_ready = self._view.heartbeat(message, self._clock())
        if message.models:
            listener.models_changed()
        if became_ready:
            log.info("the engine is ready", extra={"epoch": self._view.epoch, "engine_pid": self._view.pid})
            listener.engine_ready()
