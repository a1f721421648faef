"""Receives a request's body: complete, within its size, in time.

Knows ASGI's receive and limits; must not know what the body means.
"""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Receive

from server.admission import Door
from server.errors import RequestTimeout, TooLarge


class ClientLeft(Exception):
    """The client closed the connection: there is nobody to answer."""


def refuse_too_large(content_length: bytes | None, limit: int) -> None:
    """Raises TooLarge if the client announces more than `limit` bytes."""
    if content_length is not None and content_length.isdigit() and int(content_length[:19]) > limit:
        raise _too_large(limit)


async def read_at_once(receive: Receive, limit: int) -> bytes:
    """A body that has wholly arrived: does not wait. Raises TooLarge or ClientLeft."""
    return await _collect(receive, limit, None)


async def read_in_time(receive: Receive, limit: int, seconds: float, door: Door) -> bytes:
    """A body that is still coming.

    Args:
        receive: of the request.
        limit: largest size in bytes.
        seconds: the time it has.
        door: counts the bytes held meanwhile, over all requests.

    Raises:
        RequestTimeout, TooLarge, Overloaded, ClientLeft.
    """
    taken = _Taken(door)
    try:
        async with asyncio.timeout(max(seconds, 0.0)):
            return await _collect(receive, limit, taken)
    except TimeoutError as error:
        raise RequestTimeout("The request's body was not complete in time.") from error
    finally:
        taken.give_back()


class _Taken:
    """The bytes that one request has taken of the door's allowance."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._bytes = 0

    def add(self, count: int) -> None:
        self._door.take_bytes(count)
        self._bytes += count

    def give_back(self) -> None:
        self._door.give_bytes(self._bytes)


async def _collect(receive: Receive, limit: int, taken: _Taken | None) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message: Any = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        if taken is not None:
            taken.add(len(chunk))
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"The body may be {limit} bytes long.")
