"""The engine's end of the links to the front ends: a listening socket, and per front end a channel and an outbox.

Knows channels and epochs; must not know what jobs mean. Nothing is dropped silently: a front end that is gone is
reported, one that does not read (much is kept for it, all of it long late) loses the turn's messages, which is logged.
"""

from __future__ import annotations

import itertools
import logging
import select
import socket
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from server.channel import Channel, Closed
from server.messages import Credit, Envelope, Message, ProtocolError, decode, encode

logger = logging.getLogger(__name__)

HIGH_WATER = 16_000_000  # bytes that are kept for a front end that does not read
_BACKLOG = 128


@dataclass(slots=True)
class FrontEnd:
    """One front end.

    Attributes:
        identity: a name for one connection; no other has had it.
        channel: to it.
        inbox: received and not yet decoded.
        outbox: what leaves at the end of this turn.
        jobs: how many of its jobs are in work.
        credit: the last that was sent, and when.
        models_known: the version of the models' description it has.
        lost: messages that could not be delivered in a row.
        pressed: it is short of processor time.
    """

    identity: bytes
    channel: Channel
    inbox: deque[bytes] = field(default_factory=deque)
    outbox: list[Message] = field(default_factory=list)
    jobs: int = 0
    credit: Credit | None = None
    credit_ns: int = 0
    models_known: int = -1
    lost: int = 0
    pressed: bool = False


class FrontEnds:
    """All front ends that are connected to this life of the engine.

    Args:
        path: of the socket; a stale file of an earlier life is taken away.
        epoch: of this life.
    """

    def __init__(self, path: Path, epoch: int) -> None:
        self.epoch = epoch
        self.known: dict[bytes, FrontEnd] = {}
        self._gone: list[FrontEnd] = []
        self._ready: list[int | socket.socket | Channel] | None = None  # as `wait` has found it
        self._names = itertools.count(1)
        self._first = 0
        path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind(str(path))
        self._listener.listen(_BACKLOG)

    def wait(self, other: int, seconds: float) -> bool:
        """Waits until something may be received or sent, the descriptor `other` is readable, or the time is over.

        False in the last case.
        """
        if any(front_end.inbox for front_end in self.known.values()):
            return True
        full = [each.channel for each in self.known.values() if each.channel.unsent]
        # select() rather than poll(): it counts microseconds, and a loop that spins through the last part of a
        # millisecond takes the core from the launch it waits for.
        self._ready, writable, _ = select.select([other, *self._sources()], full, (), seconds)
        return bool(self._ready or writable)

    def receive(self) -> Iterator[tuple[FrontEnd, Envelope]]:
        """All envelopes that are here; never waits. Who stops listening gets the rest with the next call."""
        ready = self._ready if self._ready is not None else select.select(self._sources(), (), (), 0)[0]
        self._ready = None
        if self._listener in ready:
            ready = [*ready, *self._accept()]
        # Another first each time: the one who sends without end must not keep the others from being heard.
        order = deque(self.known.values())
        order.rotate(self._first)
        self._first += 1
        for front_end in order:
            if not front_end.inbox and front_end.channel in ready:
                self._read(front_end)
            while front_end.inbox:
                data = front_end.inbox.popleft()
                try:
                    envelope = decode(data)
                except ProtocolError as error:
                    fields = {"front_end": front_end.identity.decode(), "reason": str(error)}
                    logger.warning("not a message", extra=fields)
                    continue
                yield front_end, envelope

    def flush(self) -> list[FrontEnd]:
        """Send every outbox as one envelope each; returns the front ends that are gone since the last call."""
        for front_end in list(self.known.values()):
            if front_end.outbox or front_end.channel.unsent:
                self._send(front_end)
        gone, self._gone = self._gone, []
        return gone

    def close(self, linger_s: float = 0.0) -> None:
        """Close all sockets; what is kept for each front end gets so long to leave."""
        self._listener.close()
        for front_end in self.known.values():
            front_end.channel.close(linger_s)

    def _sources(self) -> list[socket.socket | Channel]:
        return [self._listener, *[front_end.channel for front_end in self.known.values()]]

    def _accept(self) -> list[Channel]:
        accepted: list[Channel] = []
        while True:
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return accepted
            name, channel = b"%d" % next(self._names), Channel(connection)
            self.known[name] = FrontEnd(name, channel)
            accepted.append(channel)
            logger.info("front end connected", extra={"front_end": name.decode()})

    def _read(self, front_end: FrontEnd) -> None:
        try:
            front_end.inbox.extend(front_end.channel.receive())
        except Closed:
            self._leave(front_end)

    def _send(self, front_end: FrontEnd) -> None:
        messages, front_end.outbox = front_end.outbox, []
        try:
            front_end.channel.flush()
            if front_end.channel.unsent > HIGH_WATER:
                self._count_loss(front_end, len(messages))
                return
            if messages:
                front_end.channel.send(encode(self.epoch, messages))
        except Closed:
            self._leave(front_end)
            return
        front_end.lost = 0

    def _leave(self, front_end: FrontEnd) -> None:
        front_end.channel.close()
        del self.known[front_end.identity]
        self._gone.append(front_end)
        logger.info(
            "front end gone", extra={"front_end": front_end.identity.decode(), "jobs": front_end.jobs}
        )

    def _count_loss(self, front_end: FrontEnd, messages: int) -> None:
        if not front_end.lost:
            logger.error("front end does not read", extra={"front_end": front_end.identity.decode()})
        front_end.lost += messages
