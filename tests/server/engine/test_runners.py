"""From a published model to runners, with runtimes that are slow, wrong, broken or absent; and with the real ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from model_repo.repository import PublishedModel
from server.engine import backends
from server.engine.backends.auto import Runtimes, installed
from server.engine.backends.protocol import StageUnusable
from server.engine.loading import Loader
from server.engine.runners import RunnerMaker
from tests.models import publish_tiny_model

MAX_BATCH = 4
NOW = [0]  # nanoseconds; only launches move this clock


class FakeStage:
    def __init__(self, owner: FakeRuntime, place: int) -> None:
        self.owner, self.place, self.closed = owner, place, False

    def run(self, pixels: np.ndarray) -> np.ndarray:
        if self.owner.breaks_at == len(pixels):
            raise RuntimeError("no memory\nsecond line")
        NOW[0] += int(self.owner.ms.get(len(pixels), 1.0) * 1e6)
        logits = np.zeros((len(pixels), 10), np.float32)
        logits[:, 0] = self.owner.shift
        return logits

    def runs_as(self, count: int) -> tuple[int, ...]:
        return (count,)

    def close(self) -> None:
        self.closed = True


class FakeRuntime:
    """Takes as long as it is told, for each batch size; class 0 gets `shift`."""

    device = "none"

    def __init__(self, name: str, ms: dict[int, float], *, shift: float = 0.0, breaks_at: int = 0) -> None:
        self.name, self.ms, self.shift, self.breaks_at = name, ms, shift, breaks_at
        self.loaded: list[FakeStage] = []

    def load_stage(self, _model: PublishedModel, place: int, _max_batch: int) -> FakeStage:
        self.loaded.append(FakeStage(self, place))
        return self.loaded[-1]

    def describe(self) -> dict[str, str]:
        return {}


SMALL = {1: 0.5, 2: 2.0, 4: 8.0}
LARGE = {1: 2.0, 2: 2.0, 4: 2.0}
SLOW = {1: 8.0, 2: 9.0, 4: 10.0}


def runtimes_of(*fakes: FakeRuntime) -> Runtimes:
    def opener(fake: FakeRuntime):
        return lambda: fake

    return Runtimes({f.name: opener(f) for f in fakes}, {f.name: {"version": "1"} for f in fakes})


def maker(tmp_path: Path, runtimes: Runtimes) -> RunnerMaker:
    return RunnerMaker(runtimes, tmp_path / "state", MAX_BATCH, lambda _: None, lambda: NOW[0])


@pytest.fixture
def model(tmp_path: Path) -> PublishedModel:
    return publish_tiny_model(tmp_path / "models", stages=2)


def test_each_cell_gets_its_fastest_runtime(tmp_path, model):
    small, large = FakeRuntime("small", SMALL), FakeRuntime("large", LARGE)
    made = maker(tmp_path, runtimes_of(small, large)).make(model, [0, 1], keep=True)
    assert made.profile.runtimes[0][1] == "small"
    assert made.profile.runtimes[0][4] == "large"
    assert made.runtimes == "large+small"
    assert not any(stage.closed for stage in small.loaded + large.loaded)


def test_a_runtime_that_wins_nowhere_gives_its_memory_back(tmp_path, model):
    slow, quick = FakeRuntime("slow", SLOW), FakeRuntime("quick", LARGE)
    made = maker(tmp_path, runtimes_of(slow, quick)).make(model, [0, 1], keep=True)
    assert made.runtimes == "quick"
    assert all(stage.closed for stage in slow.loaded)


def test_a_restart_loads_only_what_was_chosen(tmp_path, model):
    maker(tmp_path, runtimes_of(FakeRuntime("slow", SLOW), FakeRuntime("quick", LARGE))).make(
        model, [0, 1], keep=True
    )
    slow, quick = FakeRuntime("slow", SLOW), FakeRuntime("quick", LARGE)
    again = runtimes_of(slow, quick)
    made = maker(tmp_path, again).make(model, [0, 1], keep=True)
    assert made.runtimes == "quick"
    assert not slow.loaded
    assert len(quick.loaded) == 2


def test_another_version_of_a_runtime_that_was_not_chosen_has_all_measured_again(tmp_path, model):
    first = runtimes_of(FakeRuntime("slow", SLOW), FakeRuntime("quick", LARGE))
    maker(tmp_path, first).make(model, [0, 1], keep=True)
    better, quick = FakeRuntime("slow", {1: 0.1, 2: 0.1, 4: 0.1}), FakeRuntime("quick", LARGE)
    newer = Runtimes(
        {"slow": lambda: better, "quick": lambda: quick},
        {"slow": {"version": "2"}, "quick": {"version": "1"}},
    )
    assert maker(tmp_path, newer).make(model, [0, 1], keep=True).runtimes == "slow"


def test_a_runtime_with_other_answers_is_left_out_and_named(tmp_path, model, caplog):
    right, wrong = FakeRuntime("right", SLOW), FakeRuntime("wrong", LARGE, shift=5.0)
    made = maker(tmp_path, runtimes_of(right, wrong)).make(model, [0, 1], keep=True)
    assert made.runtimes == "right"
    assert all(stage.closed for stage in wrong.loaded)
    assert any(record.runtime == "wrong" for record in caplog.records if record.msg == "runtime left out")


def test_a_runtime_that_fails_at_a_full_batch_is_left_out(tmp_path, model):
    sound, breaking = FakeRuntime("sound", SLOW), FakeRuntime("breaking", LARGE, breaks_at=MAX_BATCH)
    made = maker(tmp_path, runtimes_of(sound, breaking)).make(model, [0, 1], keep=True)
    assert made.runtimes == "sound"
    assert not made.failed


def test_a_runtime_that_fails_in_a_way_of_its_own_while_it_loads_is_left_out_and_named(
    tmp_path, model, caplog
):
    def lacks_a_part(*_stage: object) -> FakeStage:
        raise ModuleNotFoundError("No module named 'onnx'")

    lacking, sound = FakeRuntime("lacking", LARGE), FakeRuntime("sound", SLOW)
    lacking.load_stage = lacks_a_part
    assert maker(tmp_path, runtimes_of(lacking, sound)).make(model, [0, 1], keep=True).runtimes == "sound"
    left_out = next(record for record in caplog.records if record.msg == "runtime left out")
    assert left_out.reason == "lacking cannot load it: No module named 'onnx'"


def test_a_model_that_breaks_while_it_is_timed_is_not_served_and_the_engine_goes_on(tmp_path, model):
    breaking = FakeRuntime("breaking", LARGE, breaks_at=2)  # neither one image nor a full batch
    loaded = Loader(runtimes_of(breaking), tmp_path / "state", MAX_BATCH, 0, lambda _: None).load_all(
        tmp_path / "models"
    )
    assert not loaded.models
    assert loaded.unserved == ["model tiny@1: RuntimeError: no memory\nsecond line"]


def test_a_stage_that_no_runtime_can_run_says_why(tmp_path, model):
    breaking = FakeRuntime("breaking", LARGE, breaks_at=1)
    with pytest.raises(StageUnusable, match="a batch of 1 fails: no memory"):
        maker(tmp_path, runtimes_of(breaking)).make(model, [0, 1], keep=True)


def test_a_runtime_that_cannot_be_loaded_is_left_out_and_nothing_is_kept(tmp_path, model):
    def broken() -> FakeRuntime:
        raise ImportError("libcpu.so: cannot open")

    sound = FakeRuntime("sound", LARGE)
    both = Runtimes({"sound": lambda: sound, "broken": broken}, {"sound": {}, "broken": {}})
    assert maker(tmp_path, both).make(model, [0, 1], keep=True).runtimes == "sound"
    assert not list((tmp_path / "state").rglob("*.json"))


def test_a_choice_that_no_longer_runs_is_made_anew(tmp_path, model):
    maker(tmp_path, runtimes_of(FakeRuntime("slow", SLOW), FakeRuntime("quick", LARGE))).make(
        model, [0, 1], keep=True
    )
    slow, quick = FakeRuntime("slow", SLOW), FakeRuntime("quick", LARGE, breaks_at=MAX_BATCH)
    assert maker(tmp_path, runtimes_of(slow, quick)).make(model, [0, 1], keep=True).runtimes == "slow"


def test_one_rung_is_served_from_the_ladders_profile_and_does_not_replace_it(tmp_path, model):
    runtimes = runtimes_of(FakeRuntime("quick", LARGE))
    whole = maker(tmp_path, runtimes).make(model, [0, 1], keep=True)
    one = maker(tmp_path, runtimes).make(model, [1], keep=False)
    assert set(one.by_place) == {1}
    assert one.profile.cells[1] == whole.profile.cells[1]
    assert maker(tmp_path, runtimes).make(model, [0, 1], keep=True).profile == whole.profile


def test_a_damaged_stage_is_left_out_on_the_second_start_too(tmp_path):
    model = publish_tiny_model(tmp_path / "models", name="half", unloadable=["full"])
    for _ in range(2):
        made = maker(tmp_path, backends.runtimes("auto", 1, shared_cores=True)).make(
            model, [0, 1, 2], keep=True
        )
        assert sorted(made.by_place) == [0, 1]
        assert list(made.failed) == ["full"]


def test_auto_gives_the_answers_of_the_installed_runtimes(tmp_path, model):
    made = maker(tmp_path, backends.runtimes("auto", 1, shared_cores=True)).make(model, [0, 1], keep=True)
    assert set(made.runtimes.split("+")) <= set(installed())
    pixels = np.random.default_rng(3).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    for place, runner in made.by_place.items():
        exact = backends.create("onnxruntime", 1, shared_cores=True).load_stage(model, place, MAX_BATCH)
        np.testing.assert_allclose(runner.run(pixels), exact.run(pixels), atol=0.1)
        exact.close()
    kept = json.loads(next((tmp_path / "state" / "latency").iterdir()).read_text())
    assert set(kept["runtimes"]) == {"0", "1"}


def test_auto_chooses_from_what_is_installed(monkeypatch):
    assert backends.runtimes("auto", 1, shared_cores=True).names == ("onnxruntime", "openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert backends.runtimes("auto", 1, shared_cores=True).names == ("onnxruntime",)


def test_what_auto_chose_from_is_told_without_loading_a_runtime():
    described = backends.runtimes("auto", 2, shared_cores=False).describe()
    assert described["openvino.version"]
    assert described["onnxruntime.threads"] == "2"
