"""A front end's rehearsal: whole requests of both kinds, and nothing of them stays."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from prometheus_client import CollectorRegistry

from server import rehearsal
from server.app import FrontEnd
from server.child import ChildContext
from server.connections import Connection
from server.rehearsal import REQUESTS
from server.settings import Settings
from tests.server.conftest import Service


def rehearse(folder: Path, models_dir: Path, **settings: Any) -> None:
    context = ChildContext(
        Settings(models_dir=models_dir, **settings), folder, os.getpid(), folder / "processes"
    )
    front = FrontEnd(context, CollectorRegistry(), rehearsing=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(front.rehearse())


def test_requests_are_answered(tmp_path: Path, tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    statuses: Counter[int] = Counter()
    respond = Connection.respond

    def responding(self: Connection, status: int, *rest: Any) -> bool:
        statuses[status] += 1
        return respond(self, status, *rest)

    monkeypatch.setattr(Connection, "respond", responding)
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


def test_a_service_counts_and_logs_nothing_of_it(start_service: Callable[..., Service]) -> None:
    service = start_service(access_log=True)
    service.front.wait_until()
    lines = service.front.client.get("/metrics").text.splitlines()
    counted = [line for line in lines if not line.startswith("#") and "/readyz" not in line]
    assert any("/classify" in line for line in counted)
    requests = [
        line for line in counted if line.startswith(("anytime_requests", "anytime_answers", "anytime_decode"))
    ]
    assert [line for line in requests if not line.endswith(" 0.0")] == []
    assert '"route"' not in service.front.log.read_text()
    assert not service.engine.jobs
