"""The engine's end of the links to the front ends: one ROUTER socket, an outbox per front end, who is there.

Knows sockets, identities and epochs; must not know what jobs mean. Nothing is dropped silently: a ROUTER would drop
what it cannot deliver, so ROUTER_MANDATORY makes it say so. A front end that is gone is reported, one that does not
read (its queue is full, and all in it is long late) loses the turn's messages, which is logged and counted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from server.messages import Credit, Envelope, Message, ProtocolError, decode, encode

logger = logging.getLogger(__name__)

HIGH_WATER = 10_000


@dataclass(slots=True)
class FrontEnd:
    """One front end.

    Attributes:
        identity: its name on the socket; another life of it has another.
        outbox: what leaves at the end of this turn.
        jobs: how many of its jobs are in work.
        credit: the last that was sent, and when.
        models_known: the version of the models' description it has.
        lost: messages that could not be delivered in a row.
        pressed: it refuses for want of processor time.
    """

    identity: bytes
    outbox: list[Message] = field(default_factory=list)
    jobs: int = 0
    credit: Credit | None = None
    credit_ns: int = 0
    models_known: int = -1
    lost: int = 0
    pressed: bool = False


class FrontEnds:
    """All front ends that have spoken to this life of the engine.

    Args:
        endpoint: ipc://…; a stale socket file of an earlier life is taken away.
        epoch: of this life.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, epoch: int) -> None:
        self.epoch = epoch
        self.known: dict[bytes, FrontEnd] = {}
        if endpoint.startswith("ipc://"):
            Path(endpoint.removeprefix("ipc://")).unlink(missing_ok=True)
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a front end that reconnects takes its place again
        self.socket.setsockopt(zmq.SNDHWM, HIGH_WATER)
        self.socket.setsockopt(zmq.RCVHWM, HIGH_WATER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(endpoint)

    def fileno(self) -> int:
        """Becomes readable when something may have come, once: ask `waiting` before waiting for it."""
        return int(self.socket.getsockopt(zmq.FD))

    def waiting(self) -> bool:
        """Whether something is here to be received."""
        return bool(int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    def receive(self) -> Iterator[tuple[FrontEnd, Envelope]]:
        """All envelopes that are here; never waits. Whoever sends is known from then on."""
        while self.waiting():
            frames = self.socket.recv_multipart(zmq.NOBLOCK)
            front_end = self.known.get(frames[0])
            if front_end is None:
                front_end = self.known[frames[0]] = FrontEnd(frames[0])
                logger.info("front end connected", extra={"front_end": frames[0].hex()})
            try:
                yield front_end, decode(frames[-1])
            except ProtocolError as error:
                logger.warning("not a message", extra={"front_end": frames[0].hex(), "reason": str(error)})

    def flush(self) -> list[FrontEnd]:
        """Send every outbox as one envelope each; returns the front ends that turn out to be gone."""
        return [
            front_end
            for front_end in list(self.known.values())
            if front_end.outbox and not self._send(front_end)
        ]

    def close(self, linger_ms: int = 0) -> None:
        """Close the socket; what is still under way gets that long."""
        self.socket.close(linger=linger_ms)

    def _send(self, front_end: FrontEnd) -> bool:
        messages, front_end.outbox = front_end.outbox, []
        try:
            self.socket.send_multipart(
                (front_end.identity, encode(self.epoch, messages)), zmq.NOBLOCK, copy=True
            )
        except zmq.Again:
            self._count_loss(front_end, len(messages))
            return True
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            del self.known[front_end.identity]
            logger.info(
                "front end gone", extra={"front_end": front_end.identity.hex(), "jobs": front_end.jobs}
            )
            return False
        front_end.lost = 0
        return True

    def _count_loss(self, front_end: FrontEnd, messages: int) -> None:
        if not front_end.lost:
            logger.error("front end does not read", extra={"front_end": front_end.identity.hex()})
        front_end.lost += messages
