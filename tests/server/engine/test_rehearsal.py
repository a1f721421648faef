"""The engine's rehearsal: everything runs, and nothing of it stays."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from server.engine.backends.protocol import DeviceLost
from server.engine.device import Device
from server.engine.latency import LatencyTable
from server.engine.loading import LoadedModel, ladder_of
from server.engine.policy import PolicyConfig
from server.engine.rehearsal import JOBS, MODEL_NS, rehearse
from server.pulse import Pulse
from tests.models import publish_tiny_model
from tests.server.engine.test_engine import Stage, out_of_memory


def rehearsed(tmp_path: Path, stages: dict[int, Stage]) -> tuple[LoadedModel, float]:
    """The model afterwards, and how many seconds it took."""
    published = publish_tiny_model(tmp_path / "models")
    latency = LatencyTable({k: {1: 5e4} for k in stages}, 32)
    model = LoadedModel(published, dict(stages), ladder_of(published, sorted(stages)), latency, {})
    device = Device()
    began = time.monotonic()
    try:
        rehearse(
            tmp_path / "r.sock",
            {model.key: model},
            device,
            PolicyConfig(),
            time.monotonic_ns,
            Pulse(tmp_path / "pulse", 10**9),
        )
    finally:
        device.close()
    return model, time.monotonic() - began


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
