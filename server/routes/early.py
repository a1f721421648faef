"""Refusing at the earliest moment: when the headers of a request are complete, without a task or a body.

Knows the hot routes and the door; must not know connections. Beyond the ceiling of a front end, refusals are most of
its work, and what each of them costs is missing for those that could still be answered in time. It acts only while the
door has just refused somebody; whatever is not plain (a query string never seen, an unknown model) goes the long way.
"""

from __future__ import annotations

import logging

from server.connections import Headers, Response
from server.errors import Problem, Unavailable
from server.routes.hot import problem_response
from server.routes.request import Desk
from server.tally import Tally

access = logging.getLogger("server.access")


class EarlyRefusal:
    """What a connection asks before it makes a task of a request.

    Args:
        desk: of the hot routes.
        tally: counts what is refused here.
        routes: paths of the hot routes.
        access_log: whether each refusal is logged.
    """

    def __init__(self, desk: Desk, tally: Tally, routes: list[str], *, access_log: bool) -> None:
        self._desk = desk
        self._tally = tally
        self._routes = {route.encode(): route for route in routes}
        self._access_log = access_log

    def __call__(self, url: bytes, headers: Headers, received_ns: int, client: str) -> Response | bool:
        """Status, headers and body of a refusal; else whether the request was taken on here."""
        desk = self._desk
        if not desk.door.refusing(received_ns):
            return False
        read_ns = desk.clock()
        path, _, query_string = url.partition(b"?")
        route = self._routes.get(path)
        query = desk.parser.known(query_string) if route is not None else None
        if route is None or query is None:
            return False
        try:
            model = desk.catalog.resolve(query.model)
        except Problem:  # a damaged model is a 503 too, but not one of the door's
            return False
        try:
            desk.door.enter(model, received_ns, received_ns + query.budget_ns, client)
        except Unavailable as problem:
            return self._refuse(problem, route, model.key, headers, received_ns, read_ns)
        except Problem:
            return False
        return True

    def _refuse(
        self,
        problem: Unavailable,
        route: str,
        model: str,
        headers: Headers,
        received_ns: int,
        read_ns: int,
    ) -> Response:
        given = next((value for name, value in headers if name == b"x-request-id"), None)
        request_id = self._desk.ids.given_or_new(given)
        self._tally.problem(problem)
        self._tally.request(route, model, problem.status)
        if self._access_log:
            elapsed_ms = (self._desk.clock() - received_ns) / 1e6
            fields = {
                "request_id": request_id,
                "route": route,
                "status": problem.status,
                "elapsed_ms": elapsed_ms,
            }
            access.info("request", extra=fields)
        response = problem_response(problem, request_id)
        self._tally.refusal(problem, self._desk.clock() - read_ns)
        return response
