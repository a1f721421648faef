"""How long a connection may stay in each phase of its life, without a timer per connection.

Knows phases and their limits; must not know bytes or HTTP. Connections enter a phase in order of time, so one
periodic sweep looks only at those whose time is up.

HEADERS lasts from connecting, or from the first byte of a next request, until the headers are complete; BUSY while a
request is being answered; DISCARD when it was answered before its body had come: the rest is read and dropped,
else the client would see a reset instead of the answer; IDLE while it is kept alive; CLOSING when the client has
been told to go. Whatever the phase, a client that does not read what is written to it is cut off after the time
it would have had for its headers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from itertools import takewhile
from typing import Protocol

SWEEP_NS = 100_000_000

_CLOSING_NS = 1_000_000_000


class Phase(Enum):
    """What a connection is doing."""

    HEADERS = "headers"
    BUSY = "busy"
    DISCARD = "discard"
    IDLE = "idle"
    CLOSING = "closing"

    __hash__ = object.__hash__  # in C; the one of Enum is a call of its own


class Watched(Protocol):
    """A connection, as far as the doorman cares."""

    phase: Phase

    def time_is_up(self) -> None:
        """The phase has lasted too long."""

    def cut_off(self) -> None:
        """The client does not read what is written to it."""


class Doorman:
    """Limits of all connections of one process, and who is waited for since when.

    Args:
        new_id: makes request ids for problems of requests that never were.
        clock: nanoseconds.
    """

    def __init__(
        self,
        *,
        max_connections: int,
        header_timeout_s: float,
        keep_alive_s: float,
        new_id: Callable[[], str],
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.max_connections = max_connections
        self.new_id = new_id
        self.clock = clock
        header_ns = int(header_timeout_s * 1e9)
        self._limits = {
            Phase.HEADERS: header_ns,
            Phase.DISCARD: header_ns,
            Phase.IDLE: int(keep_alive_s * 1e9),
            Phase.CLOSING: _CLOSING_NS,
        }
        # Insertion order is order of time, so a sweep looks only at those whose time is up.
        self._since: dict[Phase, dict[Watched, int]] = {phase: {} for phase in self._limits}
        self._not_reading: dict[Watched, int] = {}

    def watch(self, connection: Watched, phase: Phase) -> None:
        """From now on `connection` is in `phase`."""
        before = self._since.get(connection.phase)
        if before is not None:
            before.pop(connection, None)
        connection.phase = phase
        after = self._since.get(phase)
        if after is not None:
            after[connection] = self.clock()

    def not_reading(self, connection: Watched) -> None:
        """The client does not read its answer as fast as it is written."""
        self._not_reading[connection] = self.clock()

    def reading(self, connection: Watched) -> None:
        """It has caught up."""
        self._not_reading.pop(connection, None)

    def forget(self, connection: Watched) -> None:
        """The connection is gone."""
        self.watch(connection, Phase.BUSY)
        self.reading(connection)

    def count(self, phase: Phase) -> int:
        """Connections being waited for in a phase."""
        return len(self._since[phase])

    def sweep(self) -> None:
        """Sends away those whose time is up."""
        for phase, since in self._since.items():
            for connection in self._overdue(since, self._limits[phase]):
                connection.time_is_up()
        for connection in self._overdue(self._not_reading, self._limits[Phase.DISCARD]):
            connection.cut_off()

    def _overdue(self, since: dict[Watched, int], limit_ns: int) -> list[Watched]:
        start_ns = self.clock() - limit_ns
        overdue = list(takewhile(lambda connection: since[connection] <= start_ns, since))
        for connection in overdue:
            del since[connection]
        return overdue
