"""A few requests through a whole front end before anybody else's.

Knows requests as bytes, and what an engine says; must not know the parts in between. The first request of a process
takes some milliseconds longer than the hundredth: code that has not been run, memory that has not been touched. Whoever
asks for an answer within ten of them and is the first would get none.
"""

from __future__ import annotations

import asyncio
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
        now_ns, served = self._clock(), [ServedModel(model, "", {}, []) for model in models]
        self._view.heard(_EPOCH, now_ns)
        self._view.heartbeat(Heartbeat("ready", models=served), now_ns)
        self._view.credit = Credit(REQUESTS, {})
        assert self._listener is not None
        self._listener.models_changed()

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
    except (
        TimeoutError,
        OSError,
        EOFError,
        asyncio.LimitOverrunError,
    ) as error:  # the first requests will be slow, and that is all
        log.warning("the rehearsal was broken off", extra={"reason": repr(error)})


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
