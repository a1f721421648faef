"""HTTP connections: when a request's headers were complete, who left, and who takes too long.

Knows bytes and the phases of a connection; must not know routes or images. It adds to uvicorn's protocol what that
lacks: a limit on the time and size of headers, a cap on connections with an answer, problem documents for bytes
that are no HTTP, a whole response in one write, and a call when a client leaves, so that no task has to watch for
it. How long each phase may last is the doorman's to know.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from server.arrivals import Arrivals
from server.doorman import Doorman, Phase
from server.errors import CONTENT_TYPE, BadRequest, HeadersTooLarge, Overloaded, Problem, RequestTimeout
from server.outgoing import Outgoing

Headers = list[tuple[bytes, bytes]]

Response = tuple[int, Headers, bytes]
Refuse = Callable[[bytes, Headers, int, str], Response | bool]
"""Asked at the end of each request's headers: its url, headers, time and client. A whole response is a refusal; else
whether the request has been taken on already."""

Take = Callable[["Exchange"], bool]
"""Asked when a request has wholly arrived in the piece that ended its headers: whether it is answered there."""

RECEIVED_NS = "anytime.received_ns"
CONNECTION = "anytime.connection"
TAKEN_ON = "anytime.taken_on"

_MAX_HEADER_BYTES = 65_536
_MAX_PIPELINED = 100
_MAX_REFUSED = 512


class _Refused:
    """Stands for a request that was answered as soon as its headers were complete."""

    response_started = response_complete = True
    disconnected = more_body = False
    keep_alive = True
    message_event = asyncio.Event()


class Exchange:
    """A plain request that has wholly arrived, and its one response. Uvicorn's protocol takes it for its own cycle.

    Attributes:
        connection: it came by; `respond` there.
        url, headers: as uvicorn's protocol has them.
        received_ns: when the headers were complete.
        client: its address.
        taken_on: the door knows it already.
        body: its bytes.
    """

    more_body = waiting_for_100_continue = False
    message_event = asyncio.Event()  # nobody waits for it

    def __init__(self, connection: Connection, received_ns: int, *, taken_on: bool) -> None:
        self.connection = connection
        self.url: bytes = connection.url
        self.headers: Headers = connection.headers
        self.received_ns = received_ns
        self.client: str = connection.client[0] if connection.client else ""
        self.taken_on = taken_on
        self.body = b""
        self.response_started = self.response_complete = self.disconnected = False
        self.keep_alive = True

    def on_response(self) -> None:
        """The response has been written."""
        self.connection.on_response_complete()


class Connection(HttpToolsProtocol):
    """One connection. Routes find it in their scope."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        doorman: Doorman,
        arrivals: Arrivals,
        outgoing: Outgoing,
        refuse: Refuse | None = None,
        take: Take | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.doorman = doorman
        self._arrivals = arrivals
        self._outgoing = outgoing
        self._refuse = refuse
        self._take = take
        self._coming: Exchange | None = None  # its headers are complete; its body may be in the same piece
        self.phase = Phase.BUSY
        self.on_lost: Callable[[], None] | None = None
        self._active: RequestResponseCycle | Exchange | None = (
            None  # uvicorn's `cycle` is the last one *received*
        )
        self._header_bytes = 0
        self._in_headers = False
        self._headers_ended = False  # some headers, in the piece that was fed last
        self._in_body = False
        self._upgrade_declined = False
        self._body_left = 0

    @property
    def body_complete(self) -> bool:
        """Whether the body of the request being answered has wholly arrived."""
        return self._active is not None and not self._active.more_body

    def respond(self, status: int, headers: Headers, body: bytes) -> bool:
        """Writes a whole response at once, or with others that are just becoming ready.

        ASGI's two messages would cost two system calls, two packets and checks of headers that are known to be
        sound. False where it is not that simple (the client does not read, or has left): use ASGI's way then.
        """
        cycle = self._active
        if cycle is None or cycle.response_started or cycle.disconnected or self.flow.write_paused:
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.message_event.set()
        if cycle.keep_alive:
            self._outgoing.write(self.transport, _head(status, headers) + body)
        else:
            headers.append((b"connection", b"close"))
            self.transport.write(_head(status, headers) + body)
            self.transport.close()
        cycle.on_response()
        return True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Admits the client, or tells it that there are too many."""
        super().connection_made(transport)
        self.doorman.watch(self, Phase.HEADERS)
        if len(self.connections) > self.doorman.max_connections:
            if self.doorman.count(Phase.CLOSING) >= _MAX_REFUSED:
                transport.abort()
                return
            self._send_away(Overloaded("Too many connections are open.", retry_after_ms=1000))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tells the request that is being answered, if any."""
        self.doorman.forget(self)
        super().connection_lost(exc)
        self._give_up_request()
        # They know this connection as it knows them: garbage that only a collection finds.
        self.cycle = self._active = self._coming = self.scope = None  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, and looks after what takes too long or is too large."""
        self._arrivals.read()
        if self.phase is Phase.CLOSING:
            return
        if self._upgrade_declined:
            self._take_body(data)
            return
        before, self._headers_ended = self.phase, False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._coming = None
            self._not_http()
            return
        if self._coming is not None:
            self._go_the_long_way()
        if self.phase is Phase.IDLE and self._in_headers:
            self.doorman.watch(self, Phase.HEADERS)
        # A piece that holds something of the request before says nothing of the length of these headers.
        fresh = before in {Phase.HEADERS, Phase.IDLE} and not self._headers_ended
        if self.phase is Phase.HEADERS and fresh:
            self._header_bytes += len(data)
            if self._header_bytes > _MAX_HEADER_BYTES:
                self._send_away(HeadersTooLarge(f"Headers may be {_MAX_HEADER_BYTES} bytes long in all."))

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._in_headers = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The moment at which a request's time begins."""
        received_ns = self._arrivals.since_ns
        self._in_headers = False
        self._headers_ended = True
        self._in_body = True
        self._header_bytes = 0
        taken_on = False
        plain = self._plain()
        if plain and self._refuse is not None:
            client = self.client[0] if self.client else ""
            response = self._refuse(self.url, self.headers, received_ns, client)
            if not isinstance(response, bool):
                self._turn_away(response)
                return
            taken_on = response
        if self.phase is not Phase.BUSY:
            self.doorman.watch(self, Phase.BUSY)
        if len(self.pipeline) >= _MAX_PIPELINED:
            self.transport.abort()
        coming = Exchange(self, received_ns, taken_on=taken_on)
        if plain and self._take is not None:
            self._coming = coming
        else:
            self._to_application(coming)

    def on_body(self, body: bytes) -> None:
        """A part of a request's body."""
        if self._coming is not None:
            self._coming.body += body
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        self._in_body = False
        exchange = self._coming
        if exchange is not None:
            assert self._take is not None
            self._coming = None
            before = self.cycle, self._active
            self.cycle = self._active = exchange  # type: ignore[assignment]
            if self._take(exchange):
                return
            self.cycle, self._active = before
            self._to_application(exchange)
        super().on_message_complete()
        if self.phase is Phase.DISCARD:
            self.doorman.watch(self, Phase.IDLE)

    def on_response_complete(self) -> None:
        """As uvicorn's, without its timer per connection."""
        self.server_state.total_requests += 1
        self.on_lost = None
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        else:
            self.doorman.watch(self, self._next_phase())

    def pause_writing(self) -> None:
        """More is waiting to be read by the client than the transport likes to hold."""
        super().pause_writing()
        self.doorman.not_reading(self)

    def resume_writing(self) -> None:
        """The client has read most of it."""
        super().resume_writing()
        self.doorman.reading(self)

    def cut_off(self) -> None:
        """The doorman's call: the client does not read its answer."""
        self.transport.abort()

    def time_is_up(self) -> None:
        """The doorman's call: the client took too long for the phase it is in."""
        if self.phase is Phase.HEADERS:
            self._send_away(RequestTimeout("The request's headers were not complete in time."))
        elif self.phase is Phase.IDLE and not self.transport.get_write_buffer_size():
            self.transport.close()
        else:
            self.transport.abort()

    def _plain(self) -> bool:
        """Whether the request whose headers are complete is a POST on a connection that stays, and nothing else."""
        parser = self.parser
        last: RequestResponseCycle | None = self.cycle
        return (
            (last is None or last.response_complete)
            and not parser.should_upgrade()
            and parser.should_keep_alive()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and parser.get_method() == b"POST"
            and parser.get_http_version() != "1.0"  # its connection is not kept alive, whatever it asks for
        )

    def _turn_away(self, response: Response) -> None:
        """Answers a request that the door has no room for, before its body has come."""
        status, headers, body = response
        self.cycle = _REFUSED
        self._active = None
        self.server_state.total_requests += 1
        self.transport.write(_head(status, headers) + body)
        # The body is still to come, and is dropped; its end makes the connection idle.
        self.doorman.watch(self, Phase.DISCARD)

    def _go_the_long_way(self) -> None:
        """More of the body is still to come than was in the piece that ended the headers."""
        coming, self._coming = self._coming, None
        assert coming is not None
        self._to_application(coming)

    def _to_application(self, request: Exchange) -> None:
        """Hands a request to uvicorn, as far as it has arrived."""
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope[RECEIVED_NS] = request.received_ns
        scope[CONNECTION] = self
        scope[TAKEN_ON] = request.taken_on
        super().on_headers_complete()
        if request.body:
            super().on_body(request.body)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    def _decline_upgrade(self, rest: bytes) -> None:
        """Answers as plain HTTP. The parser ends where another protocol might begin, before the body.

        Java's HTTP client, for one, offers HTTP/2 on each new connection, POSTs included.
        """
        self._upgrade_declined = True
        self.cycle.keep_alive = False
        lengths = [value for name, value in self.cycle.scope["headers"] if name == b"content-length"]
        self._body_left = int(lengths[0]) if lengths else 0
        if self._body_left:
            self.cycle.more_body = self._in_body = True
            self._take_body(rest)

    def _take_body(self, data: bytes) -> None:
        data = data[: self._body_left]
        self._body_left -= len(data)
        self._in_body = self._body_left > 0
        if not self.cycle.response_complete:
            self.cycle.more_body = self._in_body
            self.on_body(data)

    def _next_phase(self) -> Phase:
        if self._in_headers:
            return Phase.HEADERS
        return Phase.DISCARD if self._in_body else Phase.IDLE

    def _not_http(self) -> None:
        active = self._active
        if active is not None and active.response_started and not active.response_complete:
            self.transport.close()  # in the middle of an answer nothing can be said
        else:
            self._send_away(BadRequest("The bytes received are no valid HTTP request."))

    def _give_up_request(self) -> None:
        """To the application it is as if the client had left."""
        if self._active is not None and not self._active.response_complete:
            self._active.disconnected = True
            self._active.message_event.set()
        self.pipeline.clear()
        lost, self.on_lost = self.on_lost, None
        if lost is not None:
            lost()

    def _send_away(self, problem: Problem) -> None:
        """Writes the problem and half-closes; a full close now could reset the client before it has read."""
        if self.transport.is_closing():
            return
        self._give_up_request()
        self.transport.write(response_bytes(problem, self.doorman.new_id()))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.doorman.watch(self, Phase.CLOSING)


_REFUSED: Any = _Refused()


def response_bytes(problem: Problem, request_id: str) -> bytes:
    """A whole HTTP/1.1 response that closes the connection, for requests that never reach a route."""
    body = problem.body(request_id)
    headers = [
        (b"content-type", CONTENT_TYPE),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
        (b"connection", b"close"),
        *problem.headers(),
    ]
    return _head(problem.status, headers) + body


def _head(status: int, headers: Headers) -> bytes:
    fields = b"".join([b"%b: %b\r\n" % field for field in headers])
    return b"%b%b\r\n" % (STATUS_LINE[status], fields)


def protocol(
    doorman: Doorman, arrivals: Arrivals, outgoing: Outgoing, refuse: Refuse, take: Take
) -> Callable[..., Connection]:
    """What uvicorn calls for each connection."""
    return partial(
        Connection, doorman=doorman, arrivals=arrivals, outgoing=outgoing, refuse=refuse, take=take
    )
