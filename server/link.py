"""A front end's end of the link to the engine: messages of one loop turn leave together, and death is noticed.

Knows the ZMQ socket, its monitor and epochs; must not know what jobs mean: it tells a listener. Nothing blocks and no
task runs: the sockets' descriptors are readers of the event loop.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

import zmq
from zmq.utils.monitor import parse_monitor_message

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

_SEND_HIGH_WATER = 256
_RECONNECT_MS, _RECONNECT_MAX_MS = 20, 200
_HELLO_EVERY_NS = 1_000_000_000
_HELLO_UNANSWERED_NS = 100_000_000


class Listener(Protocol):
    """Who is told what the engine says and that it came or went."""

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
    """The connection of one front end. `identity` must never be used by another life of a front end."""

    def __init__(
        self,
        endpoint: str,
        identity: bytes,
        view: EngineView,
        clock: Clock,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        self._view = view
        self._clock = clock
        self._listener: Listener | None = None
        self._outbox: list[Message] = []
        self._flush_planned = False
        self._hello_ns = 0
        self._state = "ready"
        self._dead_epoch = 0
        self._context = context or zmq.Context.instance()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, identity)
        self._socket.setsockopt(zmq.IMMEDIATE, 1)  # nothing is queued for an engine that is not there
        self._socket.setsockopt(zmq.SNDHWM, _SEND_HIGH_WATER)
        self._socket.setsockopt(zmq.RCVHWM, 0)  # else the engine's ROUTER would drop; jobs bound what comes
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
        self._monitor = self._socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
        )
        self._endpoint = endpoint

    def open(self, loop: asyncio.AbstractEventLoop, listener: Listener) -> None:
        """Connects, now and again whenever the engine comes back."""
        self._loop = loop
        self._listener = listener
        loop.add_reader(_descriptor(self._socket), self._readable)
        loop.add_reader(_descriptor(self._monitor), self._watch)
        self._socket.connect(self._endpoint)
        # The descriptors signal edges: look once at what came before they were watched.
        loop.call_soon(self._readable)
        loop.call_soon(self._watch)

    def close(self) -> None:
        """Sends what is planned and disconnects."""
        if self._loop is None:
            return
        self._flush()
        self._loop.remove_reader(_descriptor(self._socket))
        self._loop.remove_reader(_descriptor(self._monitor))
        self._loop = None
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=100)

    def send(self, message: Message) -> None:
        """Sends at the end of this turn of the loop, with all else of the turn."""
        self._outbox.append(message)
        if not self._flush_planned and self._loop is not None:
            self._flush_planned = True
            self._loop.call_soon(self._flush)

    def tick(self) -> None:
        """Called every few tens of milliseconds: introduces this front end, tries again to send what is left."""
        now = self._clock()
        interval = _HELLO_EVERY_NS if self._view.epoch else _HELLO_UNANSWERED_NS
        if now - self._hello_ns >= interval:
            self._say_hello(now)
        if self._outbox:
            self._flush()
        self._readable()
        self._watch()

    def press(self, pressed: bool) -> None:
        """Tells the engine whether this front end refuses for want of processor time."""
        state = "pressed" if pressed else "ready"
        if state != self._state:
            self._state = state
            self._say_hello(self._clock())

    def _say_hello(self, now: int) -> None:
        self._hello_ns = now
        hello = encode(self._view.epoch, [Heartbeat(self._state)])
        try:
            self._socket.send(hello, zmq.NOBLOCK)
        except zmq.Again:  # nobody there; the next tick tries again
            return

    def _flush(self) -> None:
        self._flush_planned = False
        if not self._outbox or self._view.epoch == 0:
            self._outbox.clear()  # meant for an engine that is gone
            return
        try:
            self._socket.send(encode(self._view.epoch, self._outbox), zmq.NOBLOCK)
        except zmq.Again:  # as much under way as is allowed: the next tick tries again
            return
        self._outbox = []
        # Sending may swallow the edge that tells of something to read.
        self._readable()

    def _readable(self) -> None:
        socket = self._socket
        while self._loop is not None and _has_message(socket):
            data = socket.recv(zmq.NOBLOCK)
            try:
                envelope = decode(data)
            except ProtocolError as error:
                log.error(
                    "the engine sent what this front end does not understand", extra={"error": str(error)}
                )
                continue
            self._take(envelope)

    def _watch(self) -> None:
        monitor = self._monitor
        while self._loop is not None and _has_message(monitor):
            event = parse_monitor_message(monitor.recv_multipart(zmq.NOBLOCK))["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._say_hello(self._clock())
            elif event == zmq.EVENT_DISCONNECTED:
                self._readable()  # what it said before it died still counts
                self._lose()

    def _lose(self) -> None:
        if self._view.epoch == 0:
            return
        log.warning("lost the engine", extra={"epoch": self._view.epoch, "engine_pid": self._view.pid})
        self._dead_epoch = self._view.epoch
        self._view.lost(self._clock())
        self._outbox.clear()
        assert self._listener is not None
        self._listener.engine_lost()

    def _take(self, envelope: Envelope) -> None:
        if envelope.epoch == self._dead_epoch:
            return
        if envelope.epoch != self._view.epoch:
            self._lose()
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


def _descriptor(socket: zmq.Socket[bytes]) -> int:
    return int(socket.getsockopt(zmq.FD))


def _has_message(socket: zmq.Socket[bytes]) -> bool:
    return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)
