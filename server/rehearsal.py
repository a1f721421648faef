"""A few requests through a whole front end before anybody else's, and one more whenever there was none for a while.

Knows requests as bytes, and what an engine says; must not know the parts in between. The first request of a process
takes some milliseconds longer than the hundredth: code that has not been run, memory that has not been touched. So does
the first after a pause, in which others have filled the processor's caches. Whoever asks for an answer within ten of
them and is the first would get none.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
from collections.abc import Callable, Iterable

import cv2
import numpy as np

from server.catalog import ModelView
from server.link import Link
from server.messages import Credit, Heartbeat, Job, Message, Refinement, ServedModel, decode, encode

log = logging.getLogger(__name__)

REQUESTS = 12  # of each model and kind: Python makes code faster after eight turns
_OPEN = 4  # one answer in so many does not say that it is the last
_DEADLINE_MS = 10
_LONGEST_S = 2.0
_EPOCH = 1
_BROKEN = (TimeoutError, OSError, EOFError, asyncio.LimitOverrunError)
_REQUEST = (
    "POST {path}?model={model}&deadline_ms={deadline_ms} HTTP/1.1\r\nHost: rehearsal\r\nAccept: */*\r\n"
    "Content-Type: image/png\r\nContent-Length: {length}\r\n\r\n"
)


class Prompter(Link):
    """A link without an engine: whatever `expect` names is served, each job is answered as soon as it is sent.

    Some answers may become better, so that it is the deadline that ends them.
    """

    def expect(self, models: Iterable[str]) -> None:
        """These (name@version) are served from now on."""
        self.beat()
        served = [ServedModel(model, "", {}, []) for model in models]
        self._view.heartbeat(Heartbeat("ready", models=served), self._clock())
        self._view.credit = Credit(REQUESTS, {})
        assert self._listener is not None
        self._listener.models_changed()

    def beat(self) -> None:
        """An engine that has not been heard for long would count as stalled."""
        self._view.heard(_EPOCH, self._clock())

    def _connect(self) -> None:
        """There is nobody."""

    def _write(self, messages: list[Message]) -> None:
        assert self._loop is not None
        for message in messages:
            if isinstance(message, Job):
                final = "deepest" if message.number % _OPEN else None
                top = [(place, 1 / message.top_k) for place in range(message.top_k)]
                answer = Refinement(message.number, 0, top, top[0], 0, 0, final)
                self._loop.call_soon(self._take, decode(encode(_EPOCH, [answer])))


async def rehearse(connection: Callable[[], asyncio.BaseProtocol], models: Iterable[ModelView]) -> None:
    """Asks for each model on connections of its own, some times on one and then on one for each request, as curl does.

    Args:
        connection: makes the protocol of one.
        models: that are served.
    """
    try:
        async with asyncio.timeout(_LONGEST_S):
            for model in models:
                await _ask(connection, _request("/classify", model), REQUESTS)
                await _ask(connection, _request("/classify/stream", model), REQUESTS)
                for _ in range(REQUESTS):
                    await _ask(connection, _request("/classify", model), 1)
    except _BROKEN as error:  # the first requests will be slow, and that is all
        log.warning("the rehearsal was broken off", extra={"reason": repr(error)})


class Exercise:
    """Requests of the front end's own, in pauses between those of others.

    Args:
        connection: makes the protocol of one.
        models: that are served.
        link: which answers them.
        pause_ns: after so long without a request there is one, and again.
    """

    def __init__(
        self,
        connection: Callable[[], asyncio.BaseProtocol],
        models: Iterable[ModelView],
        link: Prompter,
        pause_ns: int,
    ) -> None:
        self._connection = connection
        self._requests = itertools.cycle([_request("/classify", model) for model in models])
        self._link = link
        self._pause_ns = pause_ns
        self._last_ns = 0
        self._begun = 0
        self._task: asyncio.Task[None] | None = None

    def look(self, now_ns: int, begun: int, in_work: int) -> None:
        """Called every few milliseconds, and told how many requests of others there have been, and how many are here.

        One of its own has to be answered before there is another.
        """
        if in_work or begun != self._begun:
            self._begun, self._last_ns = begun, now_ns
        elif now_ns >= self._last_ns + self._pause_ns and (self._task is None or self._task.done()):
            self._last_ns = now_ns
            self._task = asyncio.create_task(self._ask(next(self._requests)))

    async def _ask(self, request: bytes) -> None:
        self._link.beat()
        with contextlib.suppress(*_BROKEN):
            async with asyncio.timeout(_LONGEST_S):
                await _ask(self._connection, request, 1)


def _request(path: str, model: ModelView) -> bytes:
    image = cv2.imencode(".png", np.zeros((model.input.height, model.input.width, 3), np.uint8))[1].tobytes()
    head = _REQUEST.format(path=path, model=model.key, deadline_ms=_DEADLINE_MS, length=len(image))
    return head.encode() + image


async def _ask(connection: Callable[[], asyncio.BaseProtocol], request: bytes, times: int) -> None:
    """Sends the request so many times, each after the answer to the one before."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(connection, theirs)
        try:
            reader, writer = await asyncio.open_connection(sock=ours)
            for _ in range(times):
                writer.write(request)
                await _answer(reader)
            writer.close()
        finally:
            transport.close()


async def _answer(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length:")[2].split(b"\r\n", 1)[0]
    if length:
        await reader.readexactly(int(length))
    else:  # in chunks, the last one empty
        await reader.readuntil(b"0\r\n\r\n")
