"""Requests leave no cycles behind, however they end: a collection holds up everybody, and under load comes often."""

from __future__ import annotations

import asyncio
import gc
import os
from pathlib import Path

import pytest
import uvloop
from prometheus_client import CollectorRegistry

from server.app import FrontEnd
from server.child import ChildContext
from server.messages import Done, Job, Message
from server.rehearsal import Prompter, _ask, _request
from server.settings import Settings

TIMES = 50
WARM = 10


def answering_with(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the engine that is not there end each job so; a job of no reason it answers."""
    write = Prompter._write

    def _write(self: Prompter, messages: list[Message]) -> None:
        if not reason:
            write(self, messages)
        elif self._listener is not None:
            loop = asyncio.get_running_loop()
            for message in messages:
                if isinstance(message, Job):
                    loop.call_soon(self._listener.done, Done(message.number, reason))

    monkeypatch.setattr(Prompter, "_write", _write)


async def left_behind(front: FrontEnd, path: str, *, times_each: int) -> int:
    """Objects that a collection finds after TIMES requests, so many on each connection."""
    with front._prompted():
        connection, request = front._connection(), _request(path, front.catalog.served[0])
        for _ in range(WARM):
            await _ask(connection, request, 1)
        gc.collect()
        gc.disable()
        try:
            for _ in range(TIMES // times_each):
                await _ask(connection, request, times_each)
            await asyncio.sleep(0)  # the last connection is told that it is closed
            return gc.collect()
        finally:
            gc.enable()


@pytest.mark.parametrize("times_each", [1, TIMES])
@pytest.mark.parametrize("path", ["/classify", "/classify/stream"])
@pytest.mark.parametrize("reason", ["", "rejected", "expired", "stage_failed"])
def test_a_request_leaves_no_cycle(
    reason: str,
    path: str,
    times_each: int,
    tmp_path: Path,
    tiny_models: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answering_with(reason, monkeypatch)
    context = ChildContext(Settings(models_dir=tiny_models), tmp_path, os.getpid(), tmp_path / "processes")
    front = FrontEnd(context, CollectorRegistry(), rehearsing=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(left_behind(front, path, times_each=times_each))
    assert found < TIMES
