"""Reading HTTP/1.1 responses piece by piece, and writing requests ahead of time.

Knows content-length, chunked and until-close bodies, and nothing of what a body means. Not a general client:
no redirects, no compression, no pipelining.
"""

from typing import NamedTuple

_HEAD_END = b"\r\n\r\n"
_MAX_HEAD = 65_536
_BODYLESS = (204, 304)


class MalformedResponse(Exception):
    """The peer sent something that is not an HTTP/1.1 response."""


class Response(NamedTuple):
    """A whole response; `keep_alive` says whether its connection may carry another request."""

    status: int
    body: bytes
    keep_alive: bool


def _field(head: bytes, name: bytes) -> bytes | None:
    """Value of a header in a lower-cased head, or None."""
    start = head.find(b"\r\n" + name + b":")
    if start < 0:
        return None
    start += len(name) + 3
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()


def _number(text: bytes, base: int) -> int:
    # int() alone would take "+5", "1_0" and spaces.
    if not text or not all(c in b"0123456789abcdefABCDEF" for c in text):
        raise MalformedResponse(f"not a length: {text[:32]!r}")
    try:
        return int(text, base)
    except ValueError as error:
        raise MalformedResponse(f"not a length: {text[:32]!r}") from error


class ResponseReader:
    """Reads one response after another from the bytes of one connection."""

    def __init__(self) -> None:
        self._buffer = b""
        self._reset()

    def _reset(self) -> None:
        self._status = 0
        self._keep_alive = True
        self._length: int | None = None  # None: chunked or until close
        self._chunked = False
        self._chunks: list[bytes] = []
        self._last_chunk_seen = False

    @property
    def idle(self) -> bool:
        """True where no byte of an unfinished response has been read."""
        return not self._buffer and not self._status

    def feed(self, data: bytes) -> Response | None:
        """Takes what was received; gives the response once its last byte is in. Raises MalformedResponse."""
        self._buffer = self._buffer + data if self._buffer else data
        while not self._status:
            if not self._read_head():
                return None
        if self._chunked:
            return self._read_chunks()
        if self._length is None or len(self._buffer) < self._length:
            return None
        return self._finish(self._take(self._length))

    def end(self) -> Response | None:
        """The peer closed: gives the response if closing is what ends it, else None (it is cut short)."""
        if self._status and not self._chunked and self._length is None:
            return self._finish(self._take(len(self._buffer)))
        return None

    def _take(self, count: int) -> bytes:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _finish(self, body: bytes) -> Response:
        response = Response(self._status, body, self._keep_alive and not self._buffer)
        self._reset()
        return response

    def _read_head(self) -> bool:
        """Reads a head if it is whole; passes over interim (1xx) ones."""
        end = self._buffer.find(_HEAD_END)
        if end < 0:
            if len(self._buffer) > _MAX_HEAD:
                raise MalformedResponse("the head does not end")
            return False
        head = self._take(end + 4)[:end].lower()
        if not head.startswith(b"http/1.") or not head[9:12].isdigit():
            raise MalformedResponse(f"not a status line: {head[:32]!r}")
        status = int(head[9:12])
        if status >= 200:
            self._begin_body(status, head)
        return True

    def _begin_body(self, status: int, head: bytes) -> None:
        self._status = status
        connection = _field(head, b"connection") or b""
        self._keep_alive = b"close" not in connection and not head.startswith(b"http/1.0")
        coding = _field(head, b"transfer-encoding")
        if status in _BODYLESS:
            self._length = 0
        elif coding is not None:
            if coding != b"chunked":
                raise MalformedResponse(f"unknown transfer coding {coding[:32]!r}")
            self._chunked = True
        elif (length := _field(head, b"content-length")) is not None:
            self._length = _number(length, 10)
        else:
            self._keep_alive = False

    def _read_chunks(self) -> Response | None:
        while not self._last_chunk_seen:
            line_end = self._buffer.find(b"\r\n")
            if line_end < 0:
                return None
            size = _number(self._buffer[:line_end].split(b";", 1)[0].strip(), 16)
            if size == 0:
                # Keep the line's CRLF: without trailers the body ends with CRLF CRLF.
                self._take(line_end)
                self._last_chunk_seen = True
            elif len(self._buffer) < line_end + 2 + size + 2:
                return None
            else:
                self._read_chunk(line_end + 2, size)
        return self._read_trailers()

    def _read_chunk(self, start: int, size: int) -> None:
        if self._buffer[start + size : start + size + 2] != b"\r\n":
            raise MalformedResponse("a chunk does not end where its size says")
        self._chunks.append(self._buffer[start : start + size])
        self._take(start + size + 2)

    def _read_trailers(self) -> Response | None:
        end = self._buffer.find(_HEAD_END)
        if end < 0:
            return None
        self._take(end + 4)
        return self._finish(b"".join(self._chunks))


def request_head(target: str, host: str, method: str = "POST") -> bytes:
    """First part of a request: everything that does not depend on the image."""
    if any(ord(c) <= 32 or ord(c) > 126 for c in target + host):
        raise ValueError(f"not a request target: {target!r}")
    return f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nAccept: */*\r\n".encode("ascii")


def request_tail(media_type: str, body: bytes) -> bytes:
    """Second part of a request: the headers that describe the body, and the body."""
    return f"Content-Type: {media_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode("ascii") + body
