"""A front end's rehearsal: whole requests of both kinds, and nothing of them stays."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from prometheus_client import CollectorRegistry

from server import engine_view, rehearsal
from server.app import FrontEnd
from server.child import ChildContext
from server.connections import Connection
from server.rehearsal import REQUESTS
from server.settings import Settings
from tests.server.conftest import Service


def front_end(folder: Path, models_dir: Path, **settings: Any) -> FrontEnd:
    context = ChildContext(
        Settings(models_dir=models_dir, **settings), folder, os.getpid(), folder / "processes"
    )
    return FrontEnd(context, CollectorRegistry(), rehearsing=True)


def rehearse(folder: Path, models_dir: Path, **settings: Any) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(front_end(folder, models_dir, **settings).rehearse())


@pytest.fixture
def statuses(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each status has been answered in this process."""
    counted: Counter[int] = Counter()
    respond = Connection.respond

    def responding(self: Connection, status: int, *rest: Any) -> bool:
        counted[status] += 1
        return respond(self, status, *rest)

    monkeypatch.setattr(Connection, "respond", responding)
    return counted


def test_requests_are_answered(tmp_path: Path, tiny_models: Path, statuses: Counter[int]) -> None:
    rehearse(tmp_path, tiny_models)
    assert statuses[200] > REQUESTS  # of 2 REQUESTS; the first may be too late


@pytest.mark.parametrize("settings", [{"max_body_bytes": 1}, {"max_deadline_ms": 1}, {"max_connections": 1}])
def test_settings_under_which_no_request_can_be_answered_do_not_break_it(
    settings: dict[str, Any], tmp_path: Path, tiny_models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        rehearse(tmp_path, tiny_models, **settings)
    assert not caplog.records


def test_without_a_model_there_is_nothing_to_rehearse(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        rehearse(tmp_path, tmp_path)
    assert not caplog.records


def test_one_that_takes_too_long_is_broken_off(
    tmp_path: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rehearsal, "_LONGEST_S", 0.0)
    rehearse(tmp_path, tiny_models)
    assert "rehearsal was broken off" in caplog.text


MS = 1_000_000


def exercised(front: FrontEnd, looks: list[tuple[int, int, int]]) -> None:
    """Has it look at such moments, 50 ms apart for the clock of the test."""

    async def look() -> None:
        with front.exercising() as exercise:
            assert exercise is not None
            for each in looks:
                exercise.look(*each)
                await asyncio.sleep(0.05)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(look())


def test_in_pauses_there_are_requests_and_they_are_answered_however_long_after_the_last(
    tmp_path: Path, tiny_models: Path, statuses: Counter[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_view, "SILENCE_NS", 25 * MS)  # half of what is between two looks
    exercised(front_end(tmp_path, tiny_models), [(k * 100 * MS, 0, 0) for k in range(1, 11)])
    assert sum(statuses.values()) == 10
    assert statuses[200] > 5  # the first may be too late


@pytest.mark.parametrize(
    ("looks", "requests"),
    [
        ([(k * 100 * MS, k, 0) for k in range(1, 9)], 0),  # others have come and gone
        ([(k * 100 * MS, 0, 1) for k in range(1, 9)], 0),  # one takes long
        ([(k * 50 * MS, 0, 0) for k in range(2, 10)], 4),
        ([(100 * MS, 0, 0), (199 * MS, 0, 0), (210 * MS, 1, 0), (300 * MS, 1, 0), (310 * MS, 1, 0)], 2),
    ],
)
def test_only_pauses_are_used(
    looks: list[tuple[int, int, int]],
    requests: int,
    tmp_path: Path,
    tiny_models: Path,
    statuses: Counter[int],
) -> None:
    exercised(front_end(tmp_path, tiny_models, keep_warm_ms=100), looks)
    assert sum(statuses.values()) == requests


def test_without_a_model_there_is_nothing_to_exercise(tmp_path: Path) -> None:
    async def begin() -> None:
        with front_end(tmp_path, tmp_path).exercising() as exercise:
            assert exercise is None

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(begin())


def test_a_service_counts_and_logs_nothing_of_it(start_service: Callable[..., Service]) -> None:
    service = start_service(access_log=True, keep_warm_ms=20)
    service.front.wait_until()
    time.sleep(0.5)
    lines = service.front.client.get("/metrics").text.splitlines()
    counted = [line for line in lines if not line.startswith("#") and "/readyz" not in line]
    assert any("/classify" in line for line in counted)
    requests = [
        line for line in counted if line.startswith(("anytime_requests", "anytime_answers", "anytime_decode"))
    ]
    assert [line for line in requests if not line.endswith(" 0.0")] == []
    assert '"route"' not in service.front.log.read_text()
    assert not service.engine.jobs
