"""The frame around a hot route: one request in, one response out, whatever happens; counted and logged once.

Knows problems as responses and what must be cleaned up; must not know what the route says when all is well. Raw ASGI: a
FastAPI handler would cost more than everything that is done here.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Protocol

from starlette.types import Receive, Scope, Send

from server.connections import CONNECTION, RECEIVED_NS, TAKEN_ON, Connection, Headers, Response
from server.errors import CONTENT_TYPE, Internal, MethodNotAllowed, Problem
from server.jobs import Bell
from server.routes.body import ClientLeft
from server.routes.request import Desk, Request
from server.tally import Tally

log = logging.getLogger(__name__)
access = logging.getLogger("server.access")

CLIENT_LEFT = 499  # as nginx counts them; nobody receives it


@dataclass(slots=True)
class Reply:
    """How far the response has come."""

    send: Send
    connection: Connection | None = None
    status: int = 0

    @property
    def started(self) -> bool:
        """Whether the status has left."""
        return self.status != 0

    async def start(self, status: int, headers: Headers) -> None:
        """Sends status and headers."""
        self.status = status
        await self.send({"type": "http.response.start", "status": status, "headers": headers})

    async def body(self, data: bytes, *, more: bool = False) -> None:
        """Sends a part of the body, or the last of it."""
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def whole(self, status: int, headers: Headers, data: bytes) -> None:
        """Sends everything."""
        if self.connection is not None and self.connection.respond(status, headers, data):
            self.status = status
            return
        await self.start(status, headers)
        await self.body(data)


class Responder(Protocol):
    """What a hot route does with a request whose problems are somebody else's."""

    route: str

    async def respond(self, request: Request, bell: Bell, reply: Reply) -> None:
        """Answers a request whose files have been read; the bell rings when there is news of its jobs.

        Raises:
            Problem: only before the status has left.
            ClientLeft: it has.
        """

    async def break_off(self, request: Request, problem: Problem, reply: Reply) -> None:
        """Ends a response whose status has left."""


class HotRoute:
    """ASGI endpoint of one responder."""

    def __init__(self, desk: Desk, tally: Tally, responder: Responder, *, access_log: bool) -> None:
        self._desk = desk
        self._tally = tally
        self._responder = responder
        self._access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        connection = scope.get(CONNECTION)
        client = scope.get("client")
        bell = Bell(asyncio.get_running_loop())
        request = Request(
            self._desk,
            scope["headers"],
            scope.get(RECEIVED_NS) or self._desk.clock(),
            client[0] if client else "",
            connection,
            bell,
        )
        reply = Reply(send, connection if scope["method"] == "POST" else None)
        status = 0
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed("Only POST is allowed here.", "POST")
            taken_on = scope.get(TAKEN_ON, False)
            await request.read(scope["query_string"], receive, taken_on=taken_on)
            await self._responder.respond(request, bell, reply)
        except ClientLeft:
            status = CLIENT_LEFT
        except Problem as problem:
            await self._tell(request, problem, reply)
        except Exception:
            log.exception("a request failed", extra={"request_id": request.id})
            await self._tell(request, Internal(), reply)
        finally:
            request.close()
        self.count(request, status or reply.status)

    def response_to(self, problem: Problem, request: Request) -> Response:
        """A problem as a response, counted."""
        self._tally.problem(problem)
        response = problem_response(problem, request.id)
        self._tally.refusal(problem, self._desk.clock() - request.read_ns)
        return response

    async def _tell(self, request: Request, problem: Problem, reply: Reply) -> None:
        if reply.started:
            self._tally.problem(problem)
            await self._responder.break_off(request, problem, reply)
        else:
            await reply.whole(*self.response_to(problem, request))

    def count(self, request: Request, status: int) -> None:
        """The request is over."""
        model = getattr(request, "model", None)  # unset where the parameters were wrong
        self._tally.request(self._responder.route, model.key if model is not None else "", status)
        if self._access_log:
            elapsed_ms = (self._desk.clock() - request.received_ns) / 1e6
            access.info(
                "request",
                extra={
                    "request_id": request.id,
                    "route": self._responder.route,
                    "status": status,
                    "elapsed_ms": elapsed_ms,
                },
            )


def problem_response(problem: Problem, request_id: str) -> Response:
    """Status, headers and body of a problem."""
    body = problem.body(request_id)
    headers = [
        (b"content-type", CONTENT_TYPE),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
        *problem.headers(),
    ]
    return problem.status, headers, body
