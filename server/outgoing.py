"""Responses that become ready together leave together.

Knows transports and bytes; must not know HTTP. When a launch has ended, a dozen clients get their answers. Written as
soon as each is ready, every one finds its receiver asleep again and has to wake it, on another core, which costs as
much as the rest of the system call; one right after the other they do not, and find the kernel's code in the caches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

MOST = 32
"""No more are kept: the first of them waits for the last."""


class Outgoing:
    """The whole responses of one front end."""

    def __init__(self) -> None:
        self._together = False
        self._ready: list[tuple[asyncio.Transport, bytes]] = []

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is written meanwhile may be kept until the end."""
        self._together = True
        try:
            yield
        finally:
            self._together = False
            self._leave()

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Writes it now, or with others within a few tenths of a millisecond: it may be counted as written."""
        if not self._together:
            transport.write(data)
            return
        self._ready.append((transport, data))
        if len(self._ready) >= MOST:
            self._leave()

    def _leave(self) -> None:
        ready, self._ready = self._ready, []
        for transport, data in ready:
            transport.write(data)
