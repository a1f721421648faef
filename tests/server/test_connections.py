"""Requests that a connection refuses when their headers are complete, on a transport of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from server.arrivals import Arrivals
from server.connections import Connection, Headers
from server.doorman import Doorman, Phase


class Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Whose address it is."""
        return ("127.0.0.1", 1234) if name == "peername" else default

    def write(self, data: bytes) -> None:
        """To the client."""
        self.written += data

    def close(self) -> None:
        """No more is sent."""
        self.closing = True

    abort = close

    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self.closing

    def can_write_eof(self) -> bool:
        """As TCP."""
        return True

    def write_eof(self) -> None:
        """Half a close."""


def refuse_all(_url: bytes, _headers: Headers, _received_ns: int, _client: str) -> tuple[int, Headers, bytes]:
    return 503, [(b"content-length", b"0")], b""


async def says_nothing(_scope: object, _receive: object, _send: object) -> None:
    """The application; what it leaves unsaid uvicorn says."""


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    for task in asyncio.all_tasks(loop):  # a request on the long way
        loop.run_until_complete(task)
    loop.close()


@pytest.fixture
def connection(loop: asyncio.AbstractEventLoop) -> Connection:
    doorman = Doorman(max_connections=10, header_timeout_s=5, keep_alive_s=5, new_id=lambda: "1")
    arrivals = Arrivals(loop.call_soon, doorman.clock)
    config = uvicorn.Config(says_nothing, lifespan="off", interface="asgi3", log_config=None)
    connection = Connection(
        config, ServerState(), {}, loop, doorman=doorman, arrivals=arrivals, refuse=refuse_all
    )
    connection.connection_made(Transport())  # type: ignore[arg-type]
    return connection


def written(connection: Connection) -> bytes:
    transport: Any = connection.transport
    return bytes(transport.written)


def phase(connection: Connection) -> Phase:
    return connection.phase


def request(body: bytes, version: str = "1.1", fields: str = "") -> bytes:
    head = f"POST /classify HTTP/{version}\r\nHost: test\r\n{fields}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_refused_requests_and_the_start_of_a_next_may_come_in_one_piece_of_any_length(
    connection: Connection,
) -> None:
    many = request(b"x" * 5000) * 20
    connection.data_received(many + many[:20])
    assert phase(connection) is Phase.HEADERS
    connection.data_received(many[20:])
    assert written(connection).count(b"HTTP/1.1 503 ") == 40
    assert b" 431 " not in written(connection)
    assert phase(connection) is Phase.IDLE


def test_headers_without_end_are_too_large_even_after_a_refusal(connection: Connection) -> None:
    connection.data_received(request(b"x") + b"POST /classify HTTP/1.1\r\n")
    for _ in range(20):
        connection.data_received(b"X-Filler: " + b"x" * 5000 + b"\r\n")
    assert b"HTTP/1.1 431 " in written(connection)
    assert phase(connection) is Phase.CLOSING


def test_a_client_of_http_1_0_goes_the_long_way_for_its_connection_does_not_live_on(
    connection: Connection,
) -> None:
    connection.data_received(request(b"x", "1.0", "Connection: keep-alive\r\n"))
    assert written(connection) == b""
    assert phase(connection) is Phase.BUSY
