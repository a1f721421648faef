"""What surrounds every route that is not hot: a request id, a problem for every error, one count, one log line.

Knows the framework's exceptions; must not know routes. Pure ASGI, outside the whole framework, so that nothing can fail
unseen; the hot routes do all this for themselves.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import Internal, Problem, Unprocessable, from_status
from server.routes.hot import HotRoute, problem_response
from server.routes.request import RequestIds
from server.tally import Tally

log = logging.getLogger(__name__)

_ID = "anytime.request_id"


class Envelope:
    """The application as the server runs it: hot paths straight to their endpoints, the rest to the framework.

    Finding a hot route in the framework's table, through its middleware, would cost more than parsing the request.
    """

    def __init__(self, app: ASGIApp, hot: dict[str, HotRoute], ids: RequestIds, tally: Tally) -> None:
        self._app = app
        self._hot = hot
        self._ids = ids
        self._tally = tally

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        hot = self._hot.get(scope.get("path", ""))
        if hot is not None:
            await hot(scope, receive, send)
        elif scope["type"] == "http":
            await self._framed(scope, receive, send)

    async def _framed(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        request_id = scope[_ID] = self._ids.given_or_new(given)
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [field for field in message["headers"] if field[0] != b"x-request-id"]
                message["headers"] = [*headers, (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            log.exception("a request failed", extra={"request_id": request_id, "path": scope["path"]})
            if not status:
                await _send(send, Internal(), request_id)
                status = 500
        self._tally.request(_route(scope), "", status)


def install_handlers(app: FastAPI) -> None:
    """Has the framework's own errors answered with problem documents too."""
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Problem, _problem)


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return _response(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    details = {404: "There is nothing at this path.", 405: "This method is not allowed here."}
    allowed = (error.headers or {}).get("Allow", "")
    return _response(
        request, from_status(error.status_code, details.get(error.status_code, error.detail), allowed)
    )


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first: Any = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return _response(request, Unprocessable(f"{where}: {first['msg']}"))


def _response(request: Request, problem: Problem) -> Response:
    status, headers, body = problem_response(problem, request.scope.get(_ID, ""))
    response = Response(body, status)
    response.raw_headers = headers
    return response


async def _send(send: Send, problem: Problem, request_id: str) -> None:
    status, headers, body = problem_response(problem, request_id)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _route(scope: Scope) -> str:
    """The route's template; never the raw path, which anybody could make up without end."""
    return str(getattr(scope.get("route"), "path", "other"))
