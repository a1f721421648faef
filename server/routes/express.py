"""The short way of the usual request: one small image to /classify, wholly here when its headers are read.

Knows the steps that HotRoute and Classify take and takes them in a few plain calls: no task, no coroutine, no ASGI. At
some hundred requests a second, where every step finds cold caches, these cost a front end as much again as all the
rest. Whatever is not usual (a query never seen, a form, a large or damaged image) goes the long way, untouched.

Images are decoded once all that could be read in this turn of the loop has been, the earliest deadline first: who is
refused hears of it before others' images are decoded, and one step done many times in a row finds its code in the
caches.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import NamedTuple

from model_repo.images import Header
from server.connections import Exchange, Response
from server.errors import Internal, Problem
from server.routes.classify import Classify
from server.routes.hot import CLIENT_LEFT, HotRoute
from server.routes.request import Desk, Request

log = logging.getLogger(__name__)


class _Checked(NamedTuple):
    """A request that the door has let in; its image is not decoded yet."""

    request: Request
    exchange: Exchange
    header: Header
    bell: _Callback


class Express:
    """What a connection offers each request that has wholly arrived.

    Args:
        desk: of the hot routes.
        hot: the frame of /classify, in which these requests are counted and logged too.
        classify: makes the responses.
    """

    def __init__(self, desk: Desk, hot: HotRoute, classify: Classify) -> None:
        self._desk = desk
        self._hot = hot
        self._classify = classify
        self._path = classify.route.encode()
        self._checked: list[_Checked] = []

    def __call__(self, exchange: Exchange) -> bool:
        """Whether it takes the request; if so it answers it: now with a refusal, or when its image's job has ended."""
        path, _, query_string = exchange.url.partition(b"?")
        if path != self._path:
            return False
        query = self._desk.parser.known(query_string)
        if query is None:
            return False
        try:
            header = self._desk.decoder.small(exchange.body)
        except Problem:
            return False
        if header is None:
            return False
        bell = _Callback()
        request = Request(
            self._desk,
            exchange.headers,
            exchange.received_ns,
            exchange.client,
            exchange.connection,
            bell,
        )
        if request.form:
            request.close()
            return False
        refusal = self._guarded(request, lambda: request.check(query, taken_on=exchange.taken_on))
        if refusal is not None:
            self._answer(request, exchange, refusal)
            exchange.body = b""  # the connection may keep the exchange for as long as it is idle
            return True
        if not self._checked:
            asyncio.get_running_loop().call_soon(self._begin_all)
        self._checked.append(_Checked(request, exchange, header, bell))
        return True

    def _begin_all(self) -> None:
        """All that this turn of the loop has read."""
        checked, self._checked = self._checked, []
        checked.sort(key=_deadline_ns)
        for request, exchange, header, bell in checked:
            if request.gone:
                self._finish(request, exchange)
                continue
            response = self._guarded(request, partial(self._begin, request, exchange, header))
            exchange.body = b""
            if response is None:
                bell.call = partial(self._finish, request, exchange)
            else:
                self._answer(request, exchange, response)

    def _begin(self, request: Request, exchange: Exchange, header: Header) -> Response | None:
        """Starts the image's job; the response if it has ended with that."""
        job = request.start_small(exchange.body, header)
        return self._classify.response(request) if job.ended else None

    def _finish(self, request: Request, exchange: Exchange) -> None:
        """The job has ended, or the client has left."""
        if request.gone:
            request.close()
            self._hot.count(request, CLIENT_LEFT)
            return
        response = self._guarded(request, lambda: self._classify.response(request))
        assert response is not None
        self._answer(request, exchange, response)

    def _guarded(self, request: Request, step: Callable[[], Response | None]) -> Response | None:
        """What the step returns, or the problem that it raises as a response."""
        try:
            return step()
        except Problem as problem:
            return self._hot.response_to(problem, request)
        except Exception:
            log.exception("a request failed", extra={"request_id": request.id})
            return self._hot.response_to(Internal(), request)

    def _answer(self, request: Request, exchange: Exchange, response: Response) -> None:
        request.close()
        exchange.connection.respond(*response)
        if response[0] == HTTPStatus.OK:
            self._classify.count(request)
        self._hot.count(request, response[0])


def _deadline_ns(checked: _Checked) -> int:
    return checked.request.deadline_ns


class _Callback:
    """A bell that calls, once it is told whom."""

    __slots__ = ("call",)

    def __init__(self) -> None:
        self.call: Callable[[], object] | None = None

    def ring(self) -> None:
        """Calls, the first time."""
        call, self.call = self.call, None
        if call is not None:
            call()
