"""What clients get while the device, the engine or a stage is broken: against the running service, over HTTP.

Its device is made of sleep (faulty_backend.py): rungs of 2, 6 and 20 ms.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.models import publish_tiny_model
from tests.server.faulty_service import FaultyService, Reply, pipelined


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    publish_tiny_model(folder, name="tiny")
    publish_tiny_model(folder, name="single", stages=1)
    return folder


@pytest.fixture(scope="module")
def running(models_dir: Path) -> Iterator[FaultyService]:
    """A service that the tests of this module share; none of them kills anything of it."""
    service = FaultyService(models_dir, "--default-model", "tiny")
    yield service
    service.close()


@pytest.fixture
def service(running: FaultyService) -> FaultyService:
    running.faults.set()
    running.wait_for(lambda: full_answer(running))
    return running


@pytest.fixture
def start(models_dir: Path) -> Iterator[Callable[..., FaultyService]]:
    """Starts services that a test may break for good."""
    started: list[FaultyService] = []

    def new(*options: str) -> FaultyService:
        started.append(FaultyService(models_dir, "--default-model", "tiny", *options))
        return started[-1]

    yield new
    for each in started:
        each.close()


def full_answer(service: FaultyService, model: str = "tiny") -> bool:
    status, answer = service.classify(2000, f"&model={model}")
    return status == 200 and answer["stop_reason"] == "deepest"


def ask_for(service: FaultyService, seconds: float, deadline_ms: float) -> list[Reply]:
    """What four clients that ask again and again are told."""
    until = time.monotonic() + seconds
    replies: list[Reply] = []

    def ask() -> None:
        while time.monotonic() < until:
            replies.append(service.classify(deadline_ms))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies


def statuses(replies: list[Reply]) -> Counter[int]:
    return Counter(status for status, _ in replies)


def in_background(call: Callable[[], Reply]) -> Callable[[], Reply]:
    """The call, begun; what is returned waits for its end."""
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return lambda: future.result(60)


def test_a_device_that_is_ten_times_slower_for_two_seconds_gives_up_depth_and_recovers(
    service: FaultyService,
) -> None:
    before = ask_for(service, 1, 100)
    assert statuses(before)[200] > 0
    service.faults.set(slow=10)
    slow = ask_for(service, 2, 100)
    assert set(statuses(slow)) <= {200, 503, 504}
    # Those that were under way when it began may have nothing; whoever comes later is answered or refused.
    assert statuses(slow)[504] <= max(8, len(slow) // 5)
    service.faults.set()
    service.wait_for(lambda: full_answer(service))
    after = ask_for(service, 1, 200)
    assert statuses(after)[200] > 0
    assert service.said("the engine hangs, killing it") == [], "slow is not hung"


def test_a_launch_that_hangs_leaves_clients_with_what_they_have_and_the_engine_is_replaced(
    start: Callable[..., FaultyService],
) -> None:
    service = start()
    assert full_answer(service)
    engine = service.engine_pid()
    service.faults.set(hang="full")
    answer = in_background(lambda: service.classify(1000))
    status, body = answer()
    assert (status, body["stop_reason"], body["complete"]) == (200, "deadline", False)
    assert body["stages_run"], "the shallow rungs had run"
    service.wait_for(lambda: service.said("the engine hangs, killing it"))
    (line,) = service.said("the engine hangs, killing it")
    assert (line["reason"], line["stage"]) == ("hung", "tiny@1 full")
    service.wait_for_another_engine(engine)
    assert full_answer(service), "once may be the machine's fault: the stage is tried again"
    assert 'anytime_engine_restarts_total{reason="hung",stage="tiny@1 full"} 1.0' in service.metrics()


def test_a_stage_that_hangs_twice_is_left_out_and_a_hang_with_nothing_yet_is_a_504_or_a_503(
    start: Callable[..., FaultyService],
) -> None:
    service = start("--hang-s", "0.5")
    for times in (1, 2):
        engine = service.engine_pid()
        service.faults.set(hang="column1")
        status, _ = service.classify(300)
        assert status in {503, 504}
        service.wait_for_another_engine(engine)
        assert len(service.said("the engine hangs, killing it")) == times
    assert service.stage_states() == {"column1": "failed", "column2": "serving", "full": "serving"}
    status, body = service.classify(5000)
    assert (status, body["stages_run"][-1]) == (200, "full")
    assert "column1" not in body["stages_run"]


def test_a_stopped_engine_is_killed_and_requests_that_can_wait_get_their_answer(
    start: Callable[..., FaultyService],
) -> None:
    service = start("--hang-s", "0.5")
    assert full_answer(service)
    engine = service.engine_pid()
    os.kill(engine, signal.SIGSTOP)
    answer = in_background(lambda: service.classify(60_000))
    assert answer()[0] == 200
    assert service.engine_pid() != engine
    assert 'anytime_engine_restarts_total{reason="silent",stage=""} 1.0' in service.metrics()


def test_a_stage_that_fails_leaves_the_ladder_until_the_engine_is_started_again(
    start: Callable[..., FaultyService],
) -> None:
    service = start()
    assert full_answer(service)
    service.faults.set(fail="column2")
    events = service.stream()
    assert events.count("event: refinement") == 2
    assert '"stages_run":["column1","full"]' in events
    assert service.stage_states() == {"column1": "serving", "column2": "failed", "full": "serving"}
    assert 'anytime_stage_failures_total{model="tiny@1",stage="column2"} 1.0' in service.metrics()
    service.faults.set()
    assert "column2" not in service.classify(5000)[1]["stages_run"], "it is not tried again meanwhile"
    engine = service.engine_pid()
    os.kill(engine, signal.SIGKILL)
    service.wait_for_another_engine(engine)
    assert set(service.stage_states().values()) == {"serving"}
    assert 'anytime_engine_restarts_total{reason="died",stage=""} 1.0' in service.metrics()


def test_when_every_stage_has_failed_requests_are_told_so_and_the_other_model_is_served(
    start: Callable[..., FaultyService],
) -> None:
    service = start()
    service.faults.set(fail="full")
    assert service.classify(5000, "&model=single")[0] == 500
    status, body = service.classify(5000, "&model=single")
    assert (status, body["title"]) == (500, "All stages failed")
    status, body = service.classify(5000)
    assert (status, body["stages_run"]) == (200, ["column1", "column2"])


def test_a_model_of_one_stage_is_answered_by_it_or_not_at_all(service: FaultyService) -> None:
    assert full_answer(service, "single")
    status, body = service.classify(5000, "&model=single&min_confidence=0.01")
    assert (status, body["stages_run"], body["complete"]) == (200, ["full"], True)
    status, body = service.classify(1, "&model=single")
    assert (status, body["title"]) == (503, "Deadline cannot be met")


def test_twenty_thousand_tiny_deadlines_are_all_refused_and_cost_no_memory(service: FaultyService) -> None:
    (front_end,) = service.get("/readyz")[1]["processes"]["frontends"]
    processes = [psutil.Process(front_end), psutil.Process(service.engine_pid())]
    budgets = [0.01 + 0.99 * (n % 100) / 100 for n in range(100)]
    assert set(statuses(pipelined(service.port, budgets))) <= {503, 504, 408}
    before = sum(process.memory_info().rss for process in processes)
    told: Counter[int] = Counter()
    for _ in range(200):
        told += statuses(pipelined(service.port, budgets))
    assert sum(told.values()) == 20_000
    assert set(told) <= {503, 504, 408}
    assert sum(process.memory_info().rss for process in processes) - before < 50e6
    assert full_answer(service)


def test_one_millisecond_and_ten_seconds_side_by_side_do_not_hurt_each_other(service: FaultyService) -> None:
    with ThreadPoolExecutor(12) as pool:
        patient = [pool.submit(pipelined, service.port, [10_000] * 15) for _ in range(6)]
        hasty = [pool.submit(pipelined, service.port, [1, 0.5, 1, 2] * 50) for _ in range(6)]
        answers = [reply for future in patient for reply in future.result(60)]
        refusals = [reply for future in hasty for reply in future.result(60)]
    assert statuses(answers) == {200: 90}
    assert all(body["elapsed_ms"] < 10_000 for _, body in answers)
    assert set(statuses(refusals)) <= {503, 504, 408}
    assert full_answer(service)


def test_with_debug_an_answer_tells_what_was_considered_and_why(service: FaultyService) -> None:
    status, body = service.classify(5000, "&debug=1")
    assert (status, body["stop_reason"]) == (200, "deepest")
    decisions = body["debug"]["decisions"]
    launched = [d["considered"][d["chosen"]]["stage"] for d in decisions if d["included"]]
    assert launched == body["stages_run"]
    assert all(decision["why"] for decision in decisions)
    assert "debug" not in service.classify(5000)[1]
