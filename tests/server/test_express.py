"""The short way and the long way of one and the same request: clients and metrics cannot tell them apart.

A query string that has never been seen goes the long way; seen once, the short way. httpx sends headers and body apart,
so the requests are written here, in one piece.
"""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from server.messages import Done
from tests.server.conftest import Service, image_bytes
from tests.server.fake_engine import Behaviour, refinement, silent, whole_ladder
from tests.server.test_front_end import counter, wait_while

Start = Callable[..., Service]

CHANGING = {"request_id", "elapsed_ms", "smallest_feasible_deadline_ms"}


@pytest.fixture(scope="module")
def service(start_service: Start) -> Service:
    service = start_service()
    service.front.wait_until()
    return service


def post(service: Service, query: str, body: bytes, media: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Status, headers and JSON of a POST that leaves in one write."""
    with service.front.connect() as connection:
        connection.sendall(request(query, body, media))
        return response(connection)


def request(query: str, body: bytes, media: str = "image/webp") -> bytes:
    head = (
        f"POST /classify?{query} HTTP/1.1\r\nHost: test\r\nContent-Type: {media}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def response(connection: socket.socket) -> tuple[int, dict[str, str], dict[str, Any]]:
    with connection.makefile("rb") as reader:
        status = int(reader.readline().split()[1])
        fields: dict[str, str] = {}
        while (line := reader.readline().strip()) != b"":
            name, _, value = line.decode().partition(": ")
            fields[name] = value
        return status, fields, json.loads(reader.read(int(fields["content-length"])))


@contextmanager
def standing_still(service: Service) -> Iterator[None]:
    """Whatever is sent meanwhile is read in one turn of the front end's loop."""
    service.front.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        service.front.process.send_signal(signal.SIGCONT)


def lasting(document: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in CHANGING}


WEBP = image_bytes("WEBP")
CASES: dict[str, tuple[str, bytes, str, Behaviour, int]] = {
    "answered": ("deadline_ms=4001", WEBP, "image/webp", whole_ladder, 200),
    "explained": ("deadline_ms=4002&debug=1", WEBP, "image/webp", whole_ladder, 200),
    "in time with what there is": (
        "deadline_ms=151",
        WEBP,
        "image/webp",
        lambda job: [(0, refinement(job, 0, 0.5))],
        200,
    ),
    "nothing in time": ("deadline_ms=152", WEBP, "image/webp", silent, 504),
    "refused by the engine": (
        "deadline_ms=4003",
        WEBP,
        "image/webp",
        lambda job: [(0, Done(job.number, "rejected", 5_000_000))],
        503,
    ),
    "no stage left": (
        "deadline_ms=4004",
        WEBP,
        "image/webp",
        lambda job: [(0, Done(job.number, "stage_failed"))],
        500,
    ),
    "no image": ("deadline_ms=4005", b"nonsense", "image/png", whole_ladder, 422),
    "damaged": ("deadline_ms=4006", WEBP[: len(WEBP) // 2], "image/webp", whole_ladder, 422),
    "another type": ("deadline_ms=4007", WEBP, "text/html", whole_ladder, 415),
    "too many classes": ("deadline_ms=4008&top_k=1000", WEBP, "image/webp", whole_ladder, 422),
    "unknown model": ("deadline_ms=4009&model=nobody", WEBP, "image/webp", whole_ladder, 404),
    "many pixels in few bytes": (
        "deadline_ms=4010",
        image_bytes("PNG", 400, 400),
        "image/png",
        whole_ladder,
        200,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_both_ways_give_the_same_and_count_once(service: Service, case: str) -> None:
    query, body, media, behaviour, status = CASES[case]
    service.engine.behaviour = behaviour
    model = "" if case == "unknown model" else "tiny@1"
    requests = f'anytime_requests_total{{model="{model}",route="/classify",status="{status}"}}'
    before, images = counter(service, requests), counter(service, "anytime_answers_total")
    refusals = counter(service, "anytime_refusal_seconds_count")
    long = post(service, query, body, media)
    short = post(service, query, body, media)
    assert long[0] == short[0] == status
    assert lasting(long[2]) == lasting(short[2])
    assert set(long[1]) == set(short[1])
    assert long[2]["request_id"] != short[2]["request_id"] == short[1]["x-request-id"]
    assert counter(service, requests) == before + 2
    assert counter(service, "anytime_answers_total") == images + (2 if status == 200 else 0)
    assert counter(service, "anytime_refusal_seconds_count") == refusals + (2 if status == 503 else 0)
    wait_while(lambda: counter(service, "anytime_jobs_in_flight") > 0)  # told of every 100 ms


def test_a_client_that_leaves_is_counted_and_its_job_cancelled(service: Service) -> None:
    service.engine.behaviour = silent
    post(service, "deadline_ms=100", WEBP, "image/webp")  # from now on it is known
    left, status = counter(service, "anytime_clients_left_total"), 'route="/classify",status="499"'
    gone = f'anytime_requests_total{{model="tiny@1",{status}}}'
    before = counter(service, gone)
    service.engine.cancelled.clear()
    jobs = len(service.engine.jobs)
    connection = service.front.connect()
    connection.sendall(request("deadline_ms=100", WEBP))
    wait_while(lambda: len(service.engine.jobs) == jobs)
    connection.close()
    wait_while(lambda: counter(service, gone) == before)
    assert counter(service, "anytime_clients_left_total") == left + 1
    wait_while(lambda: not service.engine.cancelled)


def test_what_is_read_together_is_decoded_in_the_order_of_its_deadlines(service: Service) -> None:
    service.engine.behaviour = whole_ladder
    queries = [f"deadline_ms={milliseconds}" for milliseconds in (5003, 4503, 4003, 5503)]
    connections = [service.front.connect() for _ in queries]
    for connection, query in zip(connections, queries, strict=True):
        for _ in range(2):  # from now on it is known, and the connection is one that has been read from
            connection.sendall(request(query, WEBP))
            assert response(connection)[0] == 200
    before = len(service.engine.jobs)
    with standing_still(service):
        for connection, query in zip(connections, queries, strict=True):
            connection.sendall(request(query, WEBP))
    assert [response(connection)[0] for connection in connections] == [200] * len(queries)
    deadlines = [job.deadline_ns for job in service.engine.jobs[before:]]
    assert len(deadlines) == len(queries)
    assert deadlines == sorted(deadlines)
    for connection in connections:
        connection.close()


def test_a_client_that_has_left_before_its_image_was_decoded_is_counted_once(service: Service) -> None:
    service.engine.behaviour = silent
    query = "deadline_ms=101"
    post(service, query, WEBP, "image/webp")
    gone = 'anytime_requests_total{model="tiny@1",route="/classify",status="499"}'
    before, left = counter(service, gone), counter(service, "anytime_clients_left_total")
    connection = service.front.connect()
    connection.sendall(request("deadline_ms=5003", b"nonsense"))
    assert response(connection)[0] == 422
    with standing_still(service):
        connection.sendall(request(query, WEBP))
        connection.close()
    wait_while(lambda: counter(service, gone) == before)
    assert counter(service, gone) == before + 1
    assert counter(service, "anytime_clients_left_total") == left + 1
    wait_while(lambda: counter(service, "anytime_jobs_in_flight") > 0)
