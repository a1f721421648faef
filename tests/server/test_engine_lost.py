"""What requests get when their engine dies, stalls, starts or is replaced, and when the front end is told to end."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import httpx
import pytest

from tests.server.conftest import Service
from tests.server.fake_engine import refinement, silent

Start = Callable[..., Service]


@pytest.fixture(scope="module")
def shared(start_service: Start) -> Service:
    return start_service()


@pytest.fixture
def service(shared: Service) -> Service:
    """The module's front end, with an engine of this test's own."""
    shared.restart_engine()
    shared.front.wait_until()
    return shared


@pytest.fixture
def fresh(start_service: Start) -> Service:
    """A front end that has not yet learnt how fast these engines come back."""
    service = start_service()
    service.front.wait_until()
    return service


def in_thread(call: Callable[[], httpx.Response]) -> Future[httpx.Response]:
    future: Future[httpx.Response] = Future()
    threading.Thread(target=lambda: future.set_result(call()), daemon=True).start()
    return future


def wait_while(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 15
    while condition():
        assert time.monotonic() < give_up, "waited too long"
        time.sleep(0.01)


def test_what_has_something_is_answered_at_once_when_the_engine_dies(service: Service, png: bytes) -> None:
    service.engine.behaviour = lambda job: [(0, refinement(job, 0, 0.5))]
    answer = in_thread(lambda: service.front.classify(png, "deadline_ms=30000"))
    wait_while(lambda: not service.engine.jobs)
    time.sleep(0.1)  # the refinement is on its way
    service.engine.stop()
    body = answer.result(10).json()
    assert (body["stop_reason"], body["complete"], body["stages_run"]) == ("engine_lost", False, ["column1"])


def test_what_has_nothing_and_no_time_is_refused_at_once(fresh: Service, png: bytes) -> None:
    fresh.engine.behaviour = silent
    answer = in_thread(lambda: fresh.front.classify(png, "deadline_ms=2500"))
    wait_while(lambda: not fresh.engine.jobs)
    fresh.engine.stop()
    response = answer.result(10)
    assert response.status_code == 503
    assert response.json()["title"] == "Engine lost"
    assert int(response.headers["Retry-After"]) >= 1
    late = fresh.front.classify(png, "deadline_ms=1000")
    assert (late.status_code, late.json()["title"]) == (503, "Engine lost")


def test_what_has_nothing_but_time_is_sent_again_to_the_next_engine(service: Service, png: bytes) -> None:
    service.engine.behaviour = silent
    answer = in_thread(lambda: service.front.classify(png, "deadline_ms=30000"))
    wait_while(lambda: not service.engine.jobs)
    (first,) = service.engine.jobs
    engine = service.restart_engine()
    assert answer.result(15).json()["stop_reason"] == "deepest"
    (again,) = engine.jobs
    assert (again.number, again.pixels, again.deadline_ns) == (first.number, first.pixels, first.deadline_ns)


def test_a_request_that_can_wait_is_held_while_there_is_no_engine(service: Service, png: bytes) -> None:
    service.engine.stop()
    service.front.wait_until(status=503)
    answer = in_thread(lambda: service.front.classify(png, "deadline_ms=30000"))
    time.sleep(0.2)
    assert not answer.done()
    service.restart_engine()
    assert answer.result(15).status_code == 200


def test_a_stalled_engine_is_waited_for_but_gets_no_tight_requests(fresh: Service, png: bytes) -> None:
    fresh.engine.behaviour = lambda job: [(1.5, refinement(job, 0, 0.5, "no_gain"))]
    answer = in_thread(lambda: fresh.front.classify(png, "deadline_ms=30000"))
    wait_while(lambda: not fresh.engine.jobs)
    fresh.engine.beating = False
    fresh.front.wait_until(status=503)
    assert fresh.front.client.get("/readyz").json()["reason"] == "stalled"
    assert fresh.front.classify(png, "deadline_ms=1000").status_code == 503
    assert answer.result(15).json()["stop_reason"] == "no_gain"
    fresh.engine.beating = True
    fresh.front.wait_until()


def test_two_hundred_requests_in_flight_all_end_when_the_engine_dies(fresh: Service, png: bytes) -> None:
    fresh.engine.behaviour = lambda job: [(0, refinement(job, 0, 0.5))] if job.number % 3 else []

    def ask(deadline_ms: int) -> socket.socket:
        connection = fresh.front.connect()
        head = b"POST /classify?deadline_ms=%d HTTP/1.0\r\nContent-Length: %d\r\n\r\n"
        connection.sendall(head % (deadline_ms, len(png)) + png)
        return connection

    def ask_until_taken(deadline_ms: int) -> socket.socket:
        """A crowded machine's front end has reason to refuse some of so many, and does so at once."""
        for _ in range(100):
            jobs = len(fresh.engine.jobs)
            connection = ask(deadline_ms)
            wait_while(lambda: len(fresh.engine.jobs) == jobs and not answered(connection))  # noqa: B023
            if len(fresh.engine.jobs) > jobs:
                return connection
            connection.close()
        raise AssertionError("refused a hundred times")

    patient = [ask_until_taken(30_000) for _ in range(50)]
    tight = [ask(2900) for _ in range(150)]
    wait_while(lambda: len(fresh.engine.jobs) + sum(map(answered, tight)) < len(patient) + len(tight))
    fresh.engine.stop()
    assert {status_of(connection) for connection in tight} == {200, 503}
    engine = fresh.restart_engine()
    assert [status_of(connection) for connection in patient] == [200] * 50
    assert engine.jobs
    fresh.front.wait_until()
    assert fresh.front.classify(png, "deadline_ms=5000").status_code == 200


def answered(connection: socket.socket) -> bool:
    return bool(select.select([connection], [], [], 0)[0])


def status_of(connection: socket.socket) -> int:
    """The status of the one response on a connection, once all of it is here."""
    with connection:
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return int(received[9:12])


def test_readiness_tells_what_the_engine_is_doing(start_service: Start, png: bytes) -> None:
    service = start_service(engine={"state": "starting", "model": ""})
    service.front.wait_until(status=503)
    wait_while(lambda: service.front.client.get("/readyz").json()["reason"] != "starting")
    assert service.front.client.get("/readyz").json()["detail"] == "serving"
    response = service.front.classify(png, "deadline_ms=500")
    assert (response.status_code, response.json()["title"]) == (503, "Not ready")
    service.engine.model = "tiny@1"
    service.engine.state = "ready"
    service.front.wait_until()
    assert service.front.classify(png).status_code == 200


def test_an_engine_without_models_leaves_the_service_unready(start_service: Start) -> None:
    service = start_service(engine={"model": ""})
    front = service.front.wait_until(status=503)
    wait_while(lambda: front.client.get("/readyz").json()["reason"] != "no_model")
    assert front.client.get("/readyz").status_code == 503


def test_sigterm_answers_what_is_in_flight_refuses_the_rest_and_exits_0(
    start_service: Start, png: bytes
) -> None:
    service = start_service()
    service.front.wait_until()
    service.engine.behaviour = lambda job: [(1.0, refinement(job, 0, 0.5, "no_gain"))]
    in_flight = in_thread(lambda: service.front.classify(png, "deadline_ms=20000"))
    wait_while(lambda: not service.engine.jobs)
    service.front.process.send_signal(signal.SIGTERM)
    service.front.wait_until(status=503)
    refused = service.front.classify(png, "deadline_ms=20000")
    assert (refused.status_code, refused.json()["title"]) == (503, "Draining")
    assert in_flight.result(10).status_code == 200
    assert service.front.process.wait(10) == 0


def test_a_front_end_ends_when_its_supervisor_is_killed(tmp_path: Path) -> None:
    # A stand-in for the supervisor starts a child that enters as children do, then is killed.
    child = (
        "import time; from server.child import enter; enter(); print('entered', flush=True); time.sleep(60)"
    )
    script = f"""
        import os, subprocess, sys, time
        from pathlib import Path
        from server.child import ENVIRONMENT_KEY, ChildContext
        from server.settings import Settings
        here = Path({str(tmp_path)!r})
        context = ChildContext(Settings(), here, os.getpid(), here / "p")
        child = subprocess.Popen([sys.executable, "-c", {child!r}], stdout=subprocess.PIPE,
            env={{**os.environ, ENVIRONMENT_KEY: context.encode()}})
        child.stdout.readline()
        print(child.pid, flush=True)
        time.sleep(60)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_while(lambda: alive(pid))


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has reaped yet does not."""
    try:
        os.kill(pid, 0)
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
