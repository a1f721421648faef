"""What a client sees of failures that nobody foresaw: an opaque 500 with an id, and the log has the rest."""

from __future__ import annotations

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Receive, Scope, Send

from server.errors import Problem
from server.jobs import Bell
from server.lag import Lag
from server.metrics import FrontEndMetrics
from server.routes.envelope import Envelope
from server.routes.hot import HotRoute, Reply
from server.routes.query import QueryParser
from server.routes.request import Desk, Request, RequestIds
from server.tally import Tally
from tests.server.parts import Parts


class Failing:
    """A responder that fails, at once or after it has begun."""

    route = "/classify"

    def __init__(self, *, late: bool) -> None:
        self._late = late

    async def respond(self, request: Request, bell: Bell, reply: Reply) -> None:
        if self._late:
            await reply.start(200, [])
        raise RuntimeError("the secret reason")

    async def break_off(self, request: Request, problem: Problem, reply: Reply) -> None:
        await reply.body(problem.body(request.id))


def desk(registry: CollectorRegistry) -> tuple[Desk, Tally]:
    parts = Parts()
    parts.engine_is_ready()
    metrics = FrontEndMetrics(registry)
    made: Any = Desk(
        catalog=SimpleNamespace(resolve=lambda _: parts.model),  # type: ignore[arg-type]
        door=parts.door,
        jobs=parts.jobs,
        decoder=None,  # type: ignore[arg-type]
        lag=parts.lag,
        metrics=metrics,
        parser=QueryParser(1000.0, 60_000.0),
        ids=RequestIds(),
        max_body_bytes=1,
        body_timeout_s=1,
        max_files=1,
        clock=lambda: parts.clock.now,
    )
    return made, Tally(metrics, Lag(0))


def call(app: ASGIApp, path: str) -> list[dict[str, Any]]:
    """What the application sends."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    scope: Scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": []}
    asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
    return sent


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("the secret reason")


def application(*, late: bool = False, registry: CollectorRegistry | None = None) -> Envelope:
    made, tally = desk(registry or CollectorRegistry())
    hot = HotRoute(made, tally, Failing(late=late), access_log=True)
    return Envelope(broken, {"/classify": hot}, made.ids, tally)


@pytest.mark.parametrize("path", ["/classify", "/anything"])
def test_an_unknown_failure_is_an_opaque_500_and_the_log_has_the_rest(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    start, body = call(application(), path)
    document = json.loads(body["body"])
    assert (start["status"], document["status"]) == (500, 500)
    assert "secret" not in body["body"].decode()
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.request_id == document["request_id"]  # type: ignore[attr-defined]
    assert "the secret reason" in caplog.text


def test_after_the_first_byte_a_failure_ends_the_response() -> None:
    start, body = call(application(late=True), "/classify")
    assert start["status"] == 200
    assert json.loads(body["body"])["status"] == 500
    assert not body["more_body"]


def test_failures_are_counted_once() -> None:
    registry = CollectorRegistry()
    call(application(registry=registry), "/classify")
    labels = {"route": "/classify", "model": "tiny@1", "status": "500"}
    assert registry.get_sample_value("anytime_requests_total", labels) == 1


def test_the_access_log_has_a_line_per_request(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "server.access"):
        call(application(), "/classify")
    (line,) = [record for record in caplog.records if record.name == "server.access"]
    assert (line.status, line.route) == (500, "/classify")  # type: ignore[attr-defined]
