"""A run whose sender was late is void: it is repeated, the repeats are counted, and it never passes for sound."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from loadtest import trial
from loadtest.client import Sender
from loadtest.plan import Plan, Target, make_plan
from loadtest.records import Run
from loadtest.summary import summarise
from loadtest.trial import Bench, carry_out, measure
from tests.loadtest.fake_server import FakeServer, fake_server
from tests.loadtest.synthetic import noise_images


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with fake_server() as fake:
        yield fake


@pytest.fixture
def plan(server: FakeServer) -> Plan:
    times = np.arange(10, dtype=np.int64) * 1_000_000
    return make_plan(Target("127.0.0.1", server.port), noise_images(), times, 0.01, deadline_ms=500)


class LateSender:
    """A real sender whose first `late` runs are made to look as if it had overslept."""

    def __init__(self, late: int) -> None:
        self.runs = 0
        self.late = late

    def __call__(self, plan: Plan) -> LateSender:
        self.plan = plan
        return self

    def run(self) -> Run:
        self.runs += 1
        run = Sender(self.plan).run()
        lateness = 5_000_000 if self.runs <= self.late else 0
        run.records["picked_ns"] = run.records["intended_ns"] + lateness
        return run


def test_a_void_run_is_repeated_and_counted(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = LateSender(2)
    monkeypatch.setattr(trial, "Sender", sender)
    run = measure(plan, Bench())
    assert sender.runs == 3
    assert run.facts["repeats"] == 2
    assert run.facts["sender_kept_time"]


def test_a_run_that_stays_void_says_so(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    sender = LateSender(99)
    monkeypatch.setattr(trial, "Sender", sender)
    run = measure(plan, Bench(), max_repeats=2)
    assert sender.runs == 3
    assert not run.facts["sender_kept_time"]
    assert not summarise(run).sender_kept_time


def test_a_metered_run_on_a_core_of_its_own_notes_what_it_obtained(plan: Plan) -> None:
    run = carry_out(plan, Bench(0, (0,)))
    assert run.stalls_ns is not None
    assert run.stalls_ns.shape[1] == 2
    assert run.facts["sender"].startswith("cpu 0, ")
    assert isinstance(run.facts["meters_trustworthy"], bool)
