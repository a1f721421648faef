"""The engine's loop in this process: real sockets, stages of the test's making."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from server.busy import BUSY_NS, Busy, Crowding
from server.engine.counting import Counting
from server.engine.device import Device
from server.engine.engine import Engine
from server.engine.frontends import FrontEnds
from server.engine.latency import LatencyTable
from server.engine.loading import LoadedModel, ladder_of
from server.engine.policy import PolicyConfig
from server.engine.reports import Reports
from server.messages import Cancel, Heartbeat
from server.metrics import EngineMetrics
from server.pulse import Pulse
from tests.models import publish_tiny_model
from tests.server.engine.conftest import FrontEnd, job

EPOCH = 77


class Stage:
    """Gives logits as it is told; remembers its batches."""

    def __init__(self, act: Callable[[np.ndarray], np.ndarray] | None = None) -> None:
        self.act = act
        self.batches: list[int] = []
        self.closed = False

    def run(self, pixels: np.ndarray) -> np.ndarray:
        self.batches.append(len(pixels))
        return self.act(pixels) if self.act else np.tile(np.float32([1, 0.5] + [0] * 8), (len(pixels), 1))

    def runs_as(self, count: int) -> tuple[int, ...]:
        return (count,)

    def close(self) -> None:
        self.closed = True


class Bench:
    """An engine with three stages, and a front end that speaks to it between turns."""

    def __init__(
        self,
        tmp_path: Path,
        stages: dict[int, Stage],
        cost_ms: float = 0.05,
        *,
        shares_cores: bool = False,
        keep_warm: Callable[[], None] | None = None,
        pause_ns: int = 0,
    ) -> None:
        published = publish_tiny_model(tmp_path / "models")
        self.front_ends = FrontEnds(tmp_path / "e.sock", EPOCH)
        self.registry = CollectorRegistry()
        counting = Counting(EngineMetrics(self.registry))
        self.reports = Reports(self.front_ends, 512, counting)
        latency = LatencyTable({k: {1: cost_ms * 1e6} for k in stages}, 32)
        model = LoadedModel(published, dict(stages), ladder_of(published, sorted(stages)), latency, {})
        self.device = Device()
        self.engine = Engine(
            self.front_ends,
            self.device,
            {model.key: model},
            self.reports,
            counting,
            PolicyConfig(),
            time.monotonic_ns,
            Pulse(tmp_path / "pulse", 1),
            Crowding(tmp_path / "busy", 1, spare=0) if shares_cores else None,
            keep_warm,
            pause_ns,
        )
        self.reports.serve({model.key: model}, "")
        self.front_end = FrontEnd(tmp_path / "e.sock")
        self.front_end.epoch = EPOCH

    def turn_until(self, condition: Callable[[], object], seconds: float = 5.0) -> None:
        stop = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < stop
            self.engine.turn()
            while self.front_end.poll(0.001):
                self.front_end.hear_one()

    def sample(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)

    def close(self) -> None:
        self.device.close()
        self.front_end.close()
        self.front_ends.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(stages: dict[int, Stage] | None = None, **options: Any) -> Bench:
        made.append(Bench(tmp_path, stages or {k: Stage() for k in range(3)}, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def out_of_memory(_pixels: np.ndarray) -> np.ndarray:
    raise RuntimeError("out of memory\nwith a long story")


def not_a_number(pixels: np.ndarray) -> np.ndarray:
    return np.full((len(pixels), 10), np.nan, np.float32)


@pytest.mark.parametrize("shares_cores", [True, False])
def test_a_pressed_front_end_stops_refinements_only_on_the_cores_that_it_needs(bench, shares_cores):
    it = bench(shares_cores=shares_cores)
    it.front_end.send(Heartbeat("pressed"), job(1, every_stage=True))
    it.turn_until(lambda: it.front_end.ends)
    assert it.front_end.ends[1] == ("overload" if shares_cores else "deepest")
    it.front_end.send(Heartbeat("ready"), job(2, every_stage=True))
    it.turn_until(lambda: 2 in it.front_end.ends)
    assert it.front_end.ends[2] == "deepest"


@pytest.mark.parametrize("shares_cores", [True, False])
def test_refinements_wait_while_a_front_end_has_no_pause_on_the_cores_that_it_needs(
    bench, tmp_path, shares_cores
):
    it = bench(shares_cores=shares_cores)
    loop = Busy(tmp_path / "busy", 0)
    loop.begins(time.monotonic_ns() - 10 * BUSY_NS)
    loop.goes_on(time.monotonic_ns() + 60 * 10**9)  # however long a stall of this machine is
    it.front_end.send(job(1, every_stage=True))
    it.turn_until(lambda: it.front_end.refinements)
    for _ in range(20):
        it.engine.turn()
    while it.front_end.poll(0.01):
        it.front_end.hear_one()
    assert (1 in it.front_end.ends) == (not shares_cores)
    loop.ends(time.monotonic_ns())
    it.turn_until(lambda: it.front_end.ends)
    assert it.front_end.ends[1] == "deepest"


def test_only_an_idle_engine_keeps_itself_warm_and_then_again_and_again(bench):
    pause_s, called = 0.02, []
    it = bench(keep_warm=lambda: called.append(time.monotonic()), pause_ns=int(pause_s * 1e9))
    end, jobs = time.monotonic() + 20 * pause_s, 0
    loop = threading.Thread(target=it.engine.run)
    loop.start()
    sent = [time.monotonic()]
    while time.monotonic() < end:  # jobs that end within one turn of the loop
        jobs += 1
        it.front_end.send(job(jobs))
        sent.append(time.monotonic())
        time.sleep(pause_s / 10)
    stalls = sum(later - earlier for earlier, later in pairwise(sent) if later - earlier > pause_s / 2)
    assert len(called) <= 1 + stalls / pause_s
    called.clear()
    time.sleep(10 * pause_s)
    it.engine.drain(0)
    loop.join()
    assert len(called) > 1
    assert min(later - earlier for earlier, later in pairwise(called)) >= pause_s


def test_an_engine_with_a_launch_that_nobody_waits_for_any_more_is_not_idle(bench):
    began, go_on, called = threading.Event(), threading.Event(), []

    def slowly(pixels):
        began.set()
        assert go_on.wait(10)
        return Stage().run(pixels)

    it = bench({0: Stage(slowly)}, cost_ms=50, keep_warm=lambda: called.append(1), pause_ns=1)
    it.front_end.send(job(1))
    loop = threading.Thread(target=it.engine.run)
    loop.start()
    assert began.wait(10)
    it.front_end.send(Cancel(1))
    called.clear()
    time.sleep(0.3)
    during = len(called)
    go_on.set()
    time.sleep(0.3)
    it.engine.drain(0)
    loop.join()
    assert during == 0
    assert called


@pytest.mark.parametrize("act", [out_of_memory, not_a_number])
def test_a_stage_that_fails_while_serving_leaves_the_ladder_and_the_jobs_go_on(bench, act):
    broken = Stage(act)
    it = bench({0: Stage(), 1: broken, 2: Stage()})
    it.front_end.send(*[job(number, every_stage=True) for number in range(3)])
    it.turn_until(lambda: len(it.front_end.ends) == 3)
    for number in range(3):
        assert [r.stage for r in it.front_end.refinements[number]] == [0, 2]
    assert broken.closed
    assert len(broken.batches) == 1
    it.turn_until(lambda: it.front_end.models and it.front_end.models["tiny@1"].failed == ["column2"])
    assert list(it.front_end.models["tiny@1"].stages) == ["column1", "full"]
    assert it.sample("anytime_stage_failures_total", model="tiny@1", stage="column2") == 1


def test_when_all_stages_fail_each_job_is_told(bench):
    it = bench({k: Stage(out_of_memory) for k in range(3)})
    it.front_end.send(job(1), job(2))
    it.turn_until(lambda: len(it.front_end.ends) == 2)
    it.front_end.send(job(3))
    it.turn_until(lambda: 3 in it.front_end.ends)
    assert set(it.front_end.ends.values()) == {"stage_failed"}
    assert not it.front_end.refinements


def test_during_a_long_launch_it_goes_on_refusing_and_cancelling(bench):
    go = threading.Event()

    def slow(pixels: np.ndarray) -> np.ndarray:
        assert go.wait(5)
        return np.zeros((len(pixels), 10), np.float32)

    it = bench({0: Stage(slow), 1: Stage(), 2: Stage()}, cost_ms=20)
    it.front_end.send(job(1), job(2, budget_ms=2000))
    it.turn_until(lambda: it.device.busy)
    it.front_end.send(job(3, budget_ms=1), Cancel(2))
    it.turn_until(lambda: 3 in it.front_end.ends)
    assert it.front_end.ends[3] == "rejected"
    assert it.front_end.done[3].feasible_ns > 10_000_000
    assert it.device.busy
    go.set()
    it.turn_until(lambda: 1 in it.front_end.ends)
    assert 2 not in it.front_end.refinements
    assert it.sample("anytime_engine_jobs_total", model="tiny@1", stop_reason="cancelled") == 1


def test_device_time_for_answers_that_nobody_got_is_counted(bench):
    go = threading.Event()

    def slow(pixels: np.ndarray) -> np.ndarray:
        assert go.wait(5)
        return np.zeros((len(pixels), 10), np.float32)

    it = bench({0: Stage(slow), 1: Stage(), 2: Stage()}, cost_ms=20)
    it.front_end.send(job(1))
    it.turn_until(lambda: it.device.busy)
    it.front_end.send(Cancel(1))
    it.turn_until(lambda: it.sample("anytime_engine_jobs_total", model="tiny@1", stop_reason="cancelled"))
    go.set()
    it.turn_until(lambda: not it.device.busy)
    assert it.sample("anytime_late_work_seconds_total", model="tiny@1") > 0
    assert 1 not in it.front_end.refinements


def test_what_a_launch_is_made_of_is_counted_once(bench):
    it = bench()
    it.front_end.send(*[job(number) for number in range(6)])
    it.turn_until(lambda: len(it.front_end.ends) == 6)
    refinements = sum(len(r) for r in it.front_end.refinements.values())
    images = sum(
        it.sample("anytime_batch_size_sum", model="tiny@1", stage=s) or 0
        for s in ("column1", "column2", "full")
    )
    assert images == refinements
    assert it.sample("anytime_queue_seconds_count", model="tiny@1") == 6
    assert it.sample("anytime_launches_total", model="tiny@1", stage="column1") == it.sample(
        "anytime_batch_size_count", model="tiny@1", stage="column1"
    )


def test_a_flood_of_messages_does_not_keep_launches_from_running(bench):
    stage = Stage()
    it = bench({0: stage, 1: Stage(), 2: Stage()})
    it.front_end.send(job(0))
    for number in range(1, 3000):
        it.front_end.send(Cancel(10_000 + number), epoch=EPOCH)
    it.turn_until(lambda: stage.batches)
    (front_end,) = it.front_ends.known.values()
    assert front_end.inbox, "not all has been received when the first launch runs"


def test_a_job_that_asks_is_told_every_decision_with_the_refinements_that_came_of_it(bench) -> None:
    here = bench()
    here.front_end.send(job(1, explain=True, every_stage=True), job(2))
    here.turn_until(lambda: {1, 2} <= set(here.front_end.ends))
    refinements = here.front_end.refinements[1]
    for refinement in refinements:
        (*_, last) = refinement.decisions
        assert last.included
        assert last.considered[last.chosen].stage == ("column1", "column2", "full")[refinement.stage]
        assert last.why
    assert all(refinement.decisions is None for refinement in here.front_end.refinements[2])


def test_what_is_believed_of_latencies_is_in_the_metrics_and_the_description(bench) -> None:
    here = bench()
    here.front_end.send(job(1))
    here.turn_until(lambda: 1 in here.front_end.ends and "tiny@1" in here.front_end.models)
    for stage in ("column1", "column2", "full"):
        assert here.sample("anytime_promised_seconds", model="tiny@1", stage=stage, batch="32") > 0
    assert here.sample("anytime_latency_factor", model="tiny@1") > 0
    assert here.sample("anytime_latency_tail_seconds", model="tiny@1") >= 0
    assert here.sample("anytime_first_answer_seconds", model="tiny@1") > 0
    served = here.front_end.models["tiny@1"]
    assert served.factor > 0
    assert served.tail_ns >= 0
