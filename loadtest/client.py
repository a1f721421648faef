"""The open-loop sender: one thread, non-blocking sockets, epoll and a timerfd; it never spins.

Requests leave at the times of the plan whatever the server does, over keep-alive connections that grow on
demand up to a bound. It stamps times and keeps the bytes; what the bytes mean is read after the run
(answers.py), so that reading costs the sender nothing. Rejected: asyncio and aiohttp (more CPU a request
and timers of whole milliseconds), several threads (the GIL's switch interval is the very lateness one wants
to measure).
"""

import gc
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from loadtest.journal import Journal
from loadtest.plan import Plan
from loadtest.records import NEVER, Outcome, Run
from loadtest.timer import AbsoluteTimer
from loadtest.wire import MalformedResponse, Response, ResponseReader

_READ = select.EPOLLIN
_READ_AND_WRITE = select.EPOLLIN | select.EPOLLOUT
_RECEIVE = 65_536
_NOBODY = -1
# Between making the due times and the first arrival: time to arm the timer.
_LEAD_NS = 5_000_000
_VERDICTS = {200: Outcome.ANSWERED, 503: Outcome.REFUSED, 504: Outcome.UNANSWERED}


class _Connection:
    """One socket, the request it carries (or _NOBODY) and what of that is still to be sent."""

    __slots__ = ("fd", "pending", "reader", "request", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.reader = ResponseReader()
        self.request = _NOBODY
        self.pending: bytes | memoryview = b""


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A collection in the middle of a run would be the sender's lateness."""
    was_on = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()


class Sender:
    """Runs one plan once; `run()` returns its rows, in which what the answers say is still blank."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._journal = Journal(len(plan))
        self._image = plan.images.tolist()
        self._head = plan.head_of.tolist()
        self._due: list[int] = []
        self._expiry: list[int] = []
        self._next = 0  # first request not yet picked
        self._oldest = 0  # no request before this one is unfinished
        self._unfinished = len(plan)
        self._backlog: deque[int] = deque()  # picked, but no connection was free
        self._free: list[_Connection] = []
        self._open: dict[int, _Connection] = {}
        self._carrier: dict[int, _Connection] = {}
        self._opened = 0
        self._waited = 0
        self._armed = NEVER
        self._address = (socket.gethostbyname(plan.target.host), plan.target.port)
        self._epoll = select.epoll()
        self._timer = AbsoluteTimer()
        self._epoll.register(self._timer.fd, _READ)

    def run(self) -> Run:
        """Sends everything and returns once every request has ended: at the latest with the last one's
        patience.
        """
        try:
            with no_garbage_collection():
                for _ in range(min(self._plan.warm, self._plan.connections)):
                    if (connection := self._connect()) is not None:
                        self._free.append(connection)
                start = time.monotonic_ns() + _LEAD_NS
                self._set_times(start)
                cpu = time.thread_time_ns()
                self._loop()
                cpu = time.thread_time_ns() - cpu
        finally:
            self._close()
        return self._report(start, cpu)

    def _set_times(self, start: int) -> None:
        # The same patience for all, so that it ends in the order of the arrivals and one pointer finds
        # the next.
        patience = int(self._plan.budgets_ns.max(initial=0)) + round(self._plan.grace_s * 1e9)
        self._due = (self._plan.arrivals_ns + start).tolist()
        self._expiry = [due + patience for due in self._due]

    def _loop(self) -> None:
        poll, timer = self._epoll.poll, self._timer
        self._arm()
        while self._unfinished:
            for fd, mask in poll():
                if fd == timer.fd:
                    timer.acknowledge()
                    self._armed = NEVER
                else:
                    self._on_socket(fd, mask)
            self._pick_due()
            self._expire()
            self._arm()

    def _arm(self) -> None:
        """Sets the timer to the next arrival or the next end of patience, unless it is so set already."""
        when = self._due[self._next] if self._next < len(self._due) else NEVER
        if self._oldest < self._next:
            when = min(when, self._expiry[self._oldest])
        if when not in (NEVER, self._armed):
            self._timer.set(when)
            self._armed = when

    def _pick_due(self) -> None:
        due, picked, count = self._due, self._journal.picked, len(self._due)
        while self._next < count:
            now = time.monotonic_ns()
            if due[self._next] > now:
                return
            request = self._next
            self._next += 1
            picked[request] = now
            if not self._dispatch(request):
                self._waited += 1
                self._backlog.append(request)

    def _dispatch(self, request: int) -> bool:
        """Sends the request over a free or a new connection; False where it must wait for one."""
        while self._free:
            connection = self._free.pop()
            if self._open.get(connection.fd) is connection:
                self._send(connection, request)
                return True
        if len(self._open) >= self._plan.connections:
            return False
        fresh = self._connect()
        if fresh is None:
            self._finish(request, Outcome.BROKEN)
        else:
            self._send(fresh, request)
        return True

    def _connect(self) -> _Connection | None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect(self._address)
        except BlockingIOError:
            pass  # still connecting: the first send waits for EPOLLOUT
        except OSError:
            sock.close()
            return None
        connection = _Connection(sock)
        self._epoll.register(connection.fd, _READ)
        self._open[connection.fd] = connection
        self._opened += 1
        return connection

    def _send(self, connection: _Connection, request: int) -> None:
        connection.request = request
        self._carrier[request] = connection
        connection.pending = self._plan.heads[self._head[request]] + self._plan.tails[self._image[request]]
        self._journal.sent[request] = time.monotonic_ns()
        self._flush(connection)
        if connection.pending:
            self._epoll.modify(connection.fd, _READ_AND_WRITE)

    def _flush(self, connection: _Connection) -> None:
        try:
            count = connection.sock.send(connection.pending)
        except BlockingIOError:
            return
        except OSError:
            connection.pending = b""  # what the server said before it closed, or that it closed, is read next
            return
        if count == len(connection.pending):
            connection.pending = b""
        else:
            connection.pending = memoryview(connection.pending)[count:]

    def _on_socket(self, fd: int, mask: int) -> None:
        connection = self._open.get(fd)
        if connection is None:
            return  # closed earlier in the same turn
        if mask & select.EPOLLOUT:
            self._flush(connection)
            if not connection.pending:
                self._epoll.modify(fd, _READ)
        if mask & ~select.EPOLLOUT:
            self._receive(connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(_RECEIVE)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        now = time.monotonic_ns()
        request = connection.request
        if request == _NOBODY:
            return self._drop(connection)  # an idle connection closes, or says what nobody asked for
        if data and self._journal.first_byte[request] == NEVER:
            self._journal.first_byte[request] = now
        try:
            response = connection.reader.feed(data) if data else connection.reader.end()
        except MalformedResponse:
            return self._end(connection, Outcome.ERROR)
        if response is not None:
            return self._complete(connection, response, now, closed=not data)
        if not data:
            return self._end(connection, Outcome.BROKEN)
        return None

    def _complete(self, connection: _Connection, response: Response, now: int, *, closed: bool) -> None:
        request, journal = connection.request, self._journal
        journal.done[request] = now
        journal.status[request] = response.status
        journal.bodies[request] = response.body
        outcome = _VERDICTS.get(response.status, Outcome.ERROR)
        if closed or not response.keep_alive or connection.pending:
            return self._end(connection, outcome)
        connection.request = _NOBODY
        del self._carrier[request]
        self._finish(request, outcome)
        self._free.append(connection)
        return self._relieve()

    def _end(self, connection: _Connection, outcome: Outcome) -> None:
        """The request has ended and its connection with it."""
        request = connection.request
        del self._carrier[request]
        self._drop(connection)
        self._finish(request, outcome)
        self._relieve()

    def _relieve(self) -> None:
        """A connection is free or may be opened: those that wait take it, the longest waiting first."""
        while self._backlog:
            request = self._backlog[0]
            if self._journal.outcome[request] == Outcome.PENDING and not self._dispatch(request):
                return
            self._backlog.popleft()

    def _drop(self, connection: _Connection) -> None:
        del self._open[connection.fd]
        connection.sock.close()  # which takes it out of the epoll

    def _finish(self, request: int, outcome: Outcome) -> None:
        self._journal.outcome[request] = outcome
        self._unfinished -= 1

    def _expire(self) -> None:
        """Gives up, in order, every request whose patience has ended."""
        now, outcome = time.monotonic_ns(), self._journal.outcome
        while self._oldest < self._next:
            if outcome[self._oldest] == Outcome.PENDING:
                if self._expiry[self._oldest] > now:
                    return
                self._give_up(self._oldest)
            self._oldest += 1

    def _give_up(self, request: int) -> None:
        connection = self._carrier.get(request)
        if connection is None:
            self._finish(request, Outcome.TIMED_OUT)  # it waits in the backlog, which passes over it
        else:
            self._end(connection, Outcome.TIMED_OUT)

    def _close(self) -> None:
        for connection in self._open.values():
            connection.sock.close()
        self._open.clear()
        self._epoll.close()
        self._timer.close()

    def _report(self, start: int, cpu_ns: int) -> Run:
        count = len(self._plan)
        facts = {
            "client_cpu_us_per_request": cpu_ns / 1000 / max(count, 1),
            "connections_opened": self._opened,
            "waited_for_a_connection": self._waited,
        }
        records = self._journal.to_records(self._plan, start)
        return Run(records, self._plan.seconds, start, facts=facts, bodies=tuple(self._journal.bodies))
