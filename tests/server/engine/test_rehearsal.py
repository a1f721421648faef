"""The engine's rehearsal: everything runs, and nothing of it stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.engine.backends.protocol import DeviceLost
from server.engine.device import Device
from server.engine.latency import LatencyTable
from server.engine.loading import LoadedModel, ladder_of
from server.engine.policy import PolicyConfig
from server.engine.rehearsal import JOBS, MODEL_NS, Rehearsal, apart, without_memory
from server.pulse import Pulse
from tests.models import publish_tiny_model
from tests.server.engine.test_engine import Stage, out_of_memory


class Theatre:
    """A model, and what a rehearsal of it needs."""

    def __init__(self, tmp_path: Path, stages: dict[int, Stage], profiled_ns: float = 5e4) -> None:
        published = publish_tiny_model(tmp_path / "models")
        latency = LatencyTable({k: {1: profiled_ns} for k in stages}, 32)
        self.model = LoadedModel(published, dict(stages), ladder_of(published, sorted(stages)), latency, {})
        self.device = Device()
        self.socket = tmp_path / "r.sock"
        self.pulse = Pulse(tmp_path / "pulse", 10**9)

    @contextmanager
    def rehearsal(
        self, copied: Callable[[dict[str, LoadedModel]], dict[str, LoadedModel]]
    ) -> Iterator[Rehearsal]:
        models = copied({self.model.key: self.model})
        rehearsal = Rehearsal(self.socket, models, self.device, PolicyConfig(), time.monotonic_ns, self.pulse)
        try:
            yield rehearsal
        finally:
            rehearsal.close()
            self.device.close()


def rehearsed(tmp_path: Path, stages: dict[int, Stage]) -> tuple[LoadedModel, float]:
    """The model afterwards, and how many seconds it took."""
    theatre = Theatre(tmp_path, stages)
    began = time.monotonic()
    with theatre.rehearsal(without_memory) as rehearsal:
        rehearsal.all()
    return theatre.model, time.monotonic() - began


def test_every_stage_runs_often_and_nothing_is_learnt_of_it(tmp_path: Path) -> None:
    def slowly(pixels):
        time.sleep(0.001)  # twenty times what the table says
        return Stage().run(pixels)

    stages = {k: Stage(slowly) for k in range(3)}
    model, _ = rehearsed(tmp_path, stages)
    assert all(len(stage.batches) >= JOBS // 2 for stage in stages.values())
    untouched = LatencyTable({k: {1: 5e4} for k in stages}, 32)
    assert (model.latency.factor, model.latency.tail_ns) == (untouched.factor, untouched.tail_ns)
    assert not (tmp_path / "r.sock").exists()


def test_a_stage_that_fails_is_out_of_use_before_anybody_asks_for_it(tmp_path: Path) -> None:
    stages = {0: Stage(), 1: Stage(out_of_memory), 2: Stage()}
    model, _ = rehearsed(tmp_path, stages)
    assert sorted(model.runners) == [0, 2]
    assert model.failed == {"column2": "out of memory"}
    assert stages[1].closed


def test_a_model_whose_stages_all_fail_ends_it(tmp_path: Path) -> None:
    model, seconds = rehearsed(tmp_path, {k: Stage(out_of_memory) for k in range(3)})
    assert not model.runners
    assert seconds < 5


def test_a_slow_model_is_not_run_again_and_again(tmp_path: Path) -> None:
    def very_slowly(pixels):
        time.sleep(0.2)
        return Stage().run(pixels)

    stages = {k: Stage(very_slowly) for k in range(3)}
    rehearsed(tmp_path, stages)
    launches = sum(len(stage.batches) for stage in stages.values())
    assert 3 <= launches <= 3 * (MODEL_NS / 0.2e9 + 1)


def test_a_lost_device_is_told(tmp_path: Path) -> None:
    def lose(_pixels):
        raise DeviceLost("gone")

    with pytest.raises(DeviceLost):
        rehearsed(tmp_path, {k: Stage(lose) for k in range(3)})
    assert not (tmp_path / "r.sock").exists()


def test_one_more_job_is_a_first_rung_and_nothing_is_learnt_of_it(tmp_path: Path) -> None:
    stages = {k: Stage() for k in range(3)}
    theatre = Theatre(tmp_path, stages)
    with theatre.rehearsal(apart) as rehearsal:
        for _ in range(5):
            rehearsal.one(longest_ns=1e6)
    assert [stages[k].batches for k in range(3)] == [[1] * 5, [], []]
    assert theatre.model.latency.factor == LatencyTable({0: {1: 5e4}}, 32).factor


def test_a_model_that_would_be_in_the_way_for_long_has_none(tmp_path: Path) -> None:
    stages = {k: Stage() for k in range(3)}
    with Theatre(tmp_path, stages, profiled_ns=2e6).rehearsal(apart) as rehearsal:
        rehearsal.one(longest_ns=1e6)
    assert not stages[0].batches


def test_a_stage_that_fails_in_one_more_job_is_left_to_the_engine_itself(tmp_path: Path) -> None:
    """Which goes on with the others when it finds out."""
    stages = {0: Stage(out_of_memory), 1: Stage(), 2: Stage()}
    theatre = Theatre(tmp_path, stages)
    with theatre.rehearsal(apart) as rehearsal:
        for _ in range(3):
            rehearsal.one(longest_ns=1e6)
    assert len(stages[0].batches) == 1
    assert len(stages[1].batches) == 3
    assert sorted(theatre.model.runners) == theatre.model.ladder.usable == [0, 1, 2]
    assert not theatre.model.failed
