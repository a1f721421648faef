"""Whatever a server does, every request ends in exactly one outcome and is timed from its intended send."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest

from loadtest.answers import interpret
from loadtest.client import Sender
from loadtest.plan import Plan, Target, back_to_back, make_plan
from loadtest.records import NEVER, Outcome, Run
from loadtest.servers import free_port
from loadtest.summary import in_time, right, service_ms
from tests.loadtest.fake_server import FakeServer, fake_server
from tests.loadtest.synthetic import noise_images

IMAGES = noise_images()


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with fake_server() as fake:
        yield fake


def plan_for(port: int, behave: str, count: int = 20, **options: object) -> Plan:
    target = Target("127.0.0.1", port, "/classify", {"behave": behave})
    times = np.arange(count, dtype=np.int64) * 2_000_000
    settings = {"deadline_ms": 60.0, "grace_s": 0.3, "warm": 2} | options
    return make_plan(target, IMAGES, times, count * 0.002, **settings)  # type: ignore[arg-type]


def send(server: FakeServer, behave: str, count: int = 20, **options: object) -> Run:
    return interpret(Sender(plan_for(server.port, behave, count, **options)).run())


@pytest.mark.parametrize(
    ("behave", "outcome", "status"),
    [
        ("ok", Outcome.ANSWERED, 200),
        ("trickle", Outcome.ANSWERED, 200),
        ("goodbye", Outcome.ANSWERED, 200),
        ("until_close", Outcome.ANSWERED, 200),
        ("stream", Outcome.ANSWERED, 200),
        ("late", Outcome.ANSWERED, 200),
        ("refuse", Outcome.REFUSED, 503),
        ("unanswered", Outcome.UNANSWERED, 504),
        ("error", Outcome.ERROR, 500),
        ("not_an_answer", Outcome.ERROR, 200),
        ("stream_without_end", Outcome.ERROR, 200),
        ("stream_error", Outcome.ERROR, 200),
        ("not_http", Outcome.ERROR, 0),
        ("silent", Outcome.TIMED_OUT, 0),
        ("hang_up", Outcome.BROKEN, 0),
        ("cut", Outcome.BROKEN, 0),
    ],
)
def test_each_ending_is_called_by_its_name(
    server: FakeServer, behave: str, outcome: Outcome, status: int
) -> None:
    records = send(server, behave).records
    assert (records["outcome"] == outcome).all()
    assert (records["status"] == status).all()
    assert (records["picked_ns"] >= records["intended_ns"]).all()


def test_answers_are_read_and_compared_with_the_true_class(server: FakeServer) -> None:
    run = send(server, "shallow,ok")
    assert right(run.records).all()
    assert set(run.stages) == {"column1", "joined2", "full"}
    full = run.records["stage"] == run.stages.index("full")
    assert full.sum() == 10
    assert (run.records["complete"] == full).all()
    assert (run.records["elapsed_ms"] == 1.5).all()


def test_late_answers_are_answers_but_not_in_time(server: FakeServer) -> None:
    records = send(server, "late").records
    assert not in_time(records).any()
    assert (records["done_ns"] - records["intended_ns"] > 100e6).all()


def test_latency_counts_from_the_intended_send_even_where_no_connection_was_free(server: FakeServer) -> None:
    run = send(server, "slow", count=10, connections=1, warm=1, deadline_ms=1000, grace_s=2.0)
    taken = (run.records["done_ns"] - run.records["intended_ns"]) / 1e6
    # Ten requests of 30 ms over one connection: the last, due after 18 ms, ends after 300.
    assert taken[-1] > 250
    assert (service_ms(run.records) < taken[-1]).all()
    assert run.facts["waited_for_a_connection"] == 9
    assert run.facts["connections_opened"] == 1
    # Waiting for a connection is the server's doing, not a late sender's.
    assert ((run.records["picked_ns"] - run.records["intended_ns"]) / 1e6 < 100).all()


def test_connections_are_kept_alive_and_grow_on_demand(server: FakeServer) -> None:
    assert send(server, "ok", count=30).facts["connections_opened"] <= 10
    assert send(server, "late", count=30).facts["connections_opened"] == 30


def test_the_mix_of_a_misbehaving_server_is_counted_exactly(server: FakeServer) -> None:
    outcome = send(server, "ok,refuse,hang_up,silent,error", count=50).records["outcome"]
    for kind in (Outcome.ANSWERED, Outcome.REFUSED, Outcome.BROKEN, Outcome.TIMED_OUT, Outcome.ERROR):
        assert (outcome == kind).sum() == 10


def test_a_server_that_is_not_there_breaks_every_request() -> None:
    records = Sender(plan_for(free_port(), "ok")).run().records
    assert (records["outcome"] == Outcome.BROKEN).all()
    assert (records["done_ns"] == NEVER).all()


def test_a_silent_server_cannot_hold_the_run_beyond_the_patience(server: FakeServer) -> None:
    begun = time.monotonic()
    records = send(server, "silent", count=20, connections=3, warm=0).records
    assert (records["outcome"] == Outcome.TIMED_OUT).all()
    # 40 ms of arrivals, 60 ms of budget, 300 ms of grace; the server would hold them for 30 s.
    assert time.monotonic() - begun < 5


def test_bodies_larger_than_a_socket_buffer_arrive_whole(server: FakeServer) -> None:
    large = noise_images(2)
    payloads = tuple(b"\x00" * 3_000_000 + payload for payload in large.payloads)
    images = type(large)(large.names, payloads, large.media_types, large.labels, large.classes)
    target = Target("127.0.0.1", server.port, "/classify", {"behave": "ok"})
    times = np.zeros(6, dtype=np.int64)
    run = interpret(Sender(make_plan(target, images, times, 1.0, deadline_ms=5000)).run())
    assert (run.records["outcome"] == Outcome.ANSWERED).all()
    assert right(run.records).all()


def test_back_to_back_keeps_to_its_concurrency(server: FakeServer) -> None:
    target = Target("127.0.0.1", server.port, "/classify", {"behave": "slow"})
    order = np.arange(12, dtype=np.int32)
    plan = back_to_back(target, IMAGES, order, deadline_ms=1000, concurrency=3, patience_s=20)
    records = interpret(Sender(plan).run()).records
    assert (records["outcome"] == Outcome.ANSWERED).all()
    begun, ended = records["sent_ns"], records["done_ns"]
    at_once = [((begun <= t) & (ended > t)).sum() for t in begun]
    assert max(at_once) == 3


def test_each_request_carries_its_own_budget(server: FakeServer) -> None:
    budgets = np.array([30.0, 200.0, 30.0, 200.0])
    run = send(server, "late", count=4, deadline_ms=budgets)
    assert run.records["budget_ns"].tolist() == [30_000_000, 200_000_000, 30_000_000, 200_000_000]
    assert in_time(run.records).tolist() == [False, True, False, True]


def test_nothing_offered_is_a_run_too(server: FakeServer) -> None:
    assert len(send(server, "ok", count=0).records) == 0
