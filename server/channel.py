"""A connection between two processes of the service: whole messages, as bytes, over a Unix stream socket.

Knows frames (a length of four bytes, then so many bytes) and a socket that never blocks; must not know what the bytes
say, or a loop. Both ends read and write within the loops in which they wait for everything else. A messaging library
does that in a thread of its own at each end: two more wake-ups for each message, which on a shared core cost more than
all that the message is about.
"""

from __future__ import annotations

import socket
from collections import deque
from pathlib import Path

_READ = 262_144
_READS = 16  # at once; whoever sends without end must not keep its reader from all else
_BUFFER = 1 << 22  # asked of the kernel, which may give less
_LENGTH = 4
_LONGEST = 1 << 30


class Closed(ConnectionError):
    """The other end is gone, or what it sends has no sense."""


class Channel:
    """One end. Reading and writing never wait: `fileno` is to be polled for both.

    Args:
        connection: a connected Unix stream socket; owned from here on.

    Attributes:
        unsent: bytes that wait for room in the kernel's buffer: poll for writing while there are any.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._socket = connection
        self._buffer = memoryview(bytearray(_READ))
        self._begun = bytearray()  # of a message that has not wholly arrived
        self._waiting: deque[memoryview] = deque()
        self.unsent = 0

    @classmethod
    def connect(cls, path: Path) -> Channel:
        """Connects to whoever listens at `path`. Raises OSError if nobody does."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            connection.connect(str(path))
        except BaseException:
            connection.close()
            raise
        return cls(connection)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def send(self, message: bytes) -> None:
        """Sends a message, or keeps what the kernel has no room for. Raises Closed."""
        frame = len(message).to_bytes(_LENGTH, "little") + message
        sent = 0 if self._waiting else self._write(frame)
        if sent < len(frame):
            self._waiting.append(memoryview(frame)[sent:])
            self.unsent += len(frame) - sent

    def flush(self) -> None:
        """Sends as much of what is kept as the kernel has room for. Raises Closed."""
        while self._waiting:
            sent = self._write(self._waiting[0])
            self.unsent -= sent
            if sent < len(self._waiting[0]):
                self._waiting[0] = self._waiting[0][sent:]
                return
            self._waiting.popleft()

    def receive(self) -> list[bytes]:
        """The messages that are here, in order. Raises Closed when the other end is gone and all have been received."""
        messages: list[bytes] = []
        for _ in range(_READS):
            try:
                count = self._socket.recv_into(self._buffer)
            except BlockingIOError:
                break
            except OSError as error:
                count = 0
                if not messages:
                    raise Closed(str(error)) from error
            if not count:
                if not messages:
                    raise Closed("the other end has closed")
                break  # it stays readable, and the next call will say so
            self._take(count, messages)
            if count < _READ:
                break
        return messages

    def close(self, linger_s: float = 0.0) -> None:
        """Closes; for so long it waits for what is kept to leave."""
        if self._waiting and linger_s > 0:
            self._socket.settimeout(linger_s)
            try:
                for piece in self._waiting:
                    self._socket.sendall(piece)
            except OSError:  # gone, or it does not read: there is nobody to tell
                self._waiting.clear()
        self._socket.close()

    def _write(self, data: bytes | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise Closed(str(error)) from error

    def _take(self, count: int, messages: list[bytes]) -> None:
        source: memoryview | bytearray = self._buffer[:count]
        if self._begun:
            self._begun += source
            source, count = self._begun, len(self._begun)
        start = 0
        while count - start >= _LENGTH:
            length = int.from_bytes(source[start : start + _LENGTH], "little")
            if length > _LONGEST:
                raise Closed(f"a message of {length} bytes")
            end = start + _LENGTH + length
            if end > count:
                break
            messages.append(bytes(source[start + _LENGTH : end]))
            start = end
        if source is self._begun:
            del self._begun[:start]
        else:
            self._begun += source[start:]
