"""Requests that a connection refuses when their headers are complete, on a transport of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from server.arrivals import Arrivals
from server.busy import Busy
from server.connections import Connection, Exchange, Headers
from server.doorman import Doorman, Phase
from server.outgoing import Outgoing


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

    def pause_reading(self) -> None:
        """What comes is left in the socket."""

    resume_reading = pause_reading

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
def connection(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> Connection:
    doorman = Doorman(max_connections=10, header_timeout_s=5, keep_alive_s=5, new_id=lambda: "1")
    arrivals = Arrivals(loop.call_soon, doorman.clock, Busy(tmp_path / "busy", 0))
    config = uvicorn.Config(says_nothing, lifespan="off", interface="asgi3", log_config=None)
    connection = Connection(
        config,
        ServerState(),
        {},
        loop,
        doorman=doorman,
        arrivals=arrivals,
        outgoing=Outgoing(),
        refuse=refuse_all,
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


# Plain requests that are here as a whole


class Taker:
    """Takes what it is asked for, if it is to; remembers it."""

    def __init__(self, *, takes: bool = True) -> None:
        self.takes = takes
        self.exchanges: list[Exchange] = []

    def __call__(self, exchange: Exchange) -> bool:
        self.exchanges.append(exchange)
        return self.takes


class Application:
    """Reads the whole body and answers with it."""

    async def __call__(self, _scope: object, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        fields = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": body})


def taking(
    loop: asyncio.AbstractEventLoop, taker: Taker, tmp_path: Path, outgoing: Outgoing | None = None
) -> Connection:
    doorman = Doorman(max_connections=10, header_timeout_s=5, keep_alive_s=5, new_id=lambda: "1")
    arrivals = Arrivals(loop.call_soon, doorman.clock, Busy(tmp_path / "busy", 0))
    config = uvicorn.Config(Application(), lifespan="off", interface="asgi3", log_config=None)
    made = Connection(
        config,
        ServerState(),
        {},
        loop,
        doorman=doorman,
        arrivals=arrivals,
        outgoing=outgoing or Outgoing(),
        take=taker,
    )
    made.connection_made(Transport())  # type: ignore[arg-type]
    return made


def turns(loop: asyncio.AbstractEventLoop) -> None:
    for _ in range(20):
        loop.run_until_complete(asyncio.sleep(0))


def test_a_request_in_one_piece_is_offered_with_its_body_and_answered_in_its_own_time(
    loop: asyncio.AbstractEventLoop,
    tmp_path: Path,
) -> None:
    taker = Taker()
    connection = taking(loop, taker, tmp_path)
    connection.data_received(request(b"image", fields="X-Request-ID: 7\r\n"))
    (exchange,) = taker.exchanges
    assert (exchange.url, exchange.body, exchange.client) == (b"/classify", b"image", "127.0.0.1")
    assert (b"x-request-id", b"7") in exchange.headers
    assert phase(connection) is Phase.BUSY
    assert connection.respond(200, [(b"content-length", b"2")], b"ok")
    assert written(connection).endswith(b"\r\n\r\nok")
    assert phase(connection) is Phase.IDLE
    connection.data_received(request(b"next"))
    assert [each.body for each in taker.exchanges] == [b"image", b"next"]


def test_an_answer_may_leave_together_with_others(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> None:
    outgoing = Outgoing()
    taker = Taker()
    connections = [taking(loop, taker, tmp_path, outgoing) for _ in range(2)]
    for connection in connections:
        connection.data_received(request(b"image"))
    with outgoing.together():
        assert all(each.respond(200, [(b"content-length", b"2")], b"ok") for each in connections)
        assert [written(connection) for connection in connections] == [b"", b""]
    assert all(written(connection).endswith(b"\r\n\r\nok") for connection in connections)
    assert [phase(connection) for connection in connections] == [Phase.IDLE] * 2


def test_the_last_answer_of_a_connection_leaves_at_once(
    loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    outgoing = Outgoing()
    taker = Taker()
    connection = taking(loop, taker, tmp_path, outgoing)
    connection.data_received(request(b"image"))
    taker.exchanges[0].keep_alive = False
    with outgoing.together():
        connection.respond(200, [(b"content-length", b"2")], b"ok")
        assert written(connection).endswith(b"connection: close\r\n\r\nok")
        assert connection.transport.is_closing()


@pytest.mark.parametrize("missing", [1, 9, 10])
def test_one_whose_body_comes_later_goes_the_long_way(
    loop: asyncio.AbstractEventLoop, tmp_path: Path, missing: int
) -> None:
    taker = Taker()
    connection = taking(loop, taker, tmp_path)
    whole = request(b"0123456789")
    connection.data_received(whole[:-missing])
    turns(loop)
    connection.data_received(whole[-missing:])
    turns(loop)
    assert not taker.exchanges
    assert written(connection).endswith(b"\r\n\r\n0123456789")
    assert phase(connection) is Phase.IDLE


@pytest.mark.parametrize("cut", [1, 30, 56])
def test_one_whose_headers_came_in_pieces_is_offered(
    loop: asyncio.AbstractEventLoop, tmp_path: Path, cut: int
) -> None:
    taker = Taker()
    connection = taking(loop, taker, tmp_path)
    whole = request(b"0123456789")
    connection.data_received(whole[:cut])
    turns(loop)
    connection.data_received(whole[cut:])
    assert [each.body for each in taker.exchanges] == [b"0123456789"]


def test_what_is_not_taken_goes_the_long_way_with_all_of_it(
    loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    taker = Taker(takes=False)
    connection = taking(loop, taker, tmp_path)
    connection.data_received(request(b"image") + request(b"second"))
    turns(loop)
    assert taker.exchanges
    assert written(connection).count(b"HTTP/1.1 200 OK") == 2
    assert written(connection).endswith(b"\r\n\r\nsecond")


def test_a_pipelined_request_waits_for_the_answer_before_it(
    loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    taker = Taker()
    connection = taking(loop, taker, tmp_path)
    connection.data_received(request(b"first") + request(b"second"))
    turns(loop)
    assert [each.body for each in taker.exchanges] == [b"first"]
    assert written(connection) == b""
    connection.respond(200, [(b"content-length", b"3")], b"one")
    turns(loop)
    assert written(connection).index(b"one") < written(connection).index(b"second")


def test_who_leaves_meanwhile_is_told_of_and_gets_nothing(
    loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    taker = Taker()
    connection = taking(loop, taker, tmp_path)
    left: list[int] = []
    connection.data_received(request(b"image"))
    connection.on_lost = lambda: left.append(1)
    connection.connection_lost(None)
    assert left == [1]
    assert taker.exchanges[0].disconnected
    assert not connection.respond(200, [], b"late")
    assert written(connection) == b""


def test_at_a_shutdown_the_answer_is_the_connection_s_last(
    loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    connection = taking(loop, Taker(), tmp_path)
    connection.data_received(request(b"image"))
    connection.shutdown()
    assert not connection.transport.is_closing()
    connection.respond(200, [(b"content-length", b"2")], b"ok")
    assert b"connection: close" in written(connection)
    assert connection.transport.is_closing()


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /classify HTTP/1.1\r\nHost: x\r\n\r\n",
        request(b"x", "1.0"),
        request(b"x", fields="Connection: close\r\n"),
        request(b"x", fields="Expect: 100-continue\r\n"),
    ],
)
def test_what_is_not_plain_is_not_offered(
    loop: asyncio.AbstractEventLoop, tmp_path: Path, raw: bytes
) -> None:
    taker = Taker()
    connection = taking(loop, taker, tmp_path)
    connection.data_received(raw)
    turns(loop)
    assert not taker.exchanges
    assert b"200 OK" in written(connection)


def test_nonsense_after_the_headers_is_told_and_offered_to_nobody(
    loop: asyncio.AbstractEventLoop, tmp_path: Path
) -> None:
    taker = Taker()
    connection = taking(loop, taker, tmp_path)
    head = b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.data_received(head + b"zz\r\n")
    turns(loop)
    assert not taker.exchanges
    assert b"HTTP/1.1 400 " in written(connection)
