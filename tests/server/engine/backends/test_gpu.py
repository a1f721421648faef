"""What `auto` does where a GPU shows: which runtime runs a stage, and what is said of those that do not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from model_repo.repository import PublishedModel
from server.engine import backends, process
from server.engine.backends import gpu
from server.engine.backends.auto import Runtimes
from server.engine.backends.protocol import BackendUnusable, DeviceLost, StageUnusable
from server.engine.loading import Loaded
from server.engine.runners import RunnerMaker
from server.settings import Settings
from tests.models import publish_tiny_model

MAX_BATCH = 2


class FakeRuntime:
    """Every stage the same; class 0 gets `shift`; what is in `wrong` is raised when that place is loaded."""

    device = "none"

    def __init__(self, name: str, shift: float = 0.0, wrong: dict[int, Exception] | None = None) -> None:
        self.name, self.shift, self.wrong = name, shift, wrong or {}
        self.loaded: list[int] = []
        self.closed = 0

    def load_stage(self, _model: PublishedModel, place: int, _max_batch: int) -> SimpleNamespace:
        if place in self.wrong:
            raise self.wrong[place]
        self.loaded.append(place)

        def run(pixels: np.ndarray) -> np.ndarray:
            logits = np.zeros((len(pixels), 10), np.float32)
            logits[:, 0] = self.shift
            return logits

        def close() -> None:
            self.closed += 1

        return SimpleNamespace(run=run, runs_as=lambda count: (count,), close=close)

    def describe(self) -> dict[str, str]:
        return {"runtime": self.name}


def tiers(preferred: list[FakeRuntime], *rest: FakeRuntime) -> Runtimes:
    def opener(fake: FakeRuntime) -> Callable[[], FakeRuntime]:
        return lambda: fake

    every = [*preferred, *rest]
    return Runtimes(
        {fake.name: opener(fake) for fake in every},
        {fake.name: fake.describe() for fake in every},
        preferred=[fake.name for fake in preferred],
    )


def maker(folder: Path, runtimes: Runtimes) -> RunnerMaker:
    return RunnerMaker(runtimes, folder / "state", MAX_BATCH, lambda _: None)


@pytest.fixture
def model(tmp_path: Path) -> PublishedModel:
    return publish_tiny_model(tmp_path / "models", stages=2)


def test_the_first_preferred_runtime_that_works_runs_every_stage(
    tmp_path: Path, model: PublishedModel
) -> None:
    first, second, cpu = FakeRuntime("tensorrt"), FakeRuntime("torch-cuda"), FakeRuntime("onnxruntime")
    made = maker(tmp_path, tiers([first, second], cpu))
    assert made.make(model, [0, 1], keep=True).runtimes == "tensorrt"
    assert made.passed_over == {}
    assert not second.loaded
    assert cpu.closed == len(cpu.loaded) == 2  # they were only judges


def test_a_kept_profile_brings_the_preferred_runtime_back(tmp_path: Path, model: PublishedModel) -> None:
    for _ in range(2):
        first = FakeRuntime("tensorrt")
        made = maker(tmp_path, tiers([first], FakeRuntime("onnxruntime"))).make(model, [0, 1], keep=True)
        assert made.runtimes == "tensorrt"
    assert len(list((tmp_path / "state" / "latency").iterdir())) == 1


def test_a_stage_that_one_runtime_cannot_run_goes_to_the_next_and_the_reason_is_told(
    tmp_path: Path, model: PublishedModel, caplog: pytest.LogCaptureFixture
) -> None:
    first = FakeRuntime("tensorrt", wrong={1: StageUnusable("no execution context: out of memory")})
    second = FakeRuntime("torch-cuda")
    made = maker(tmp_path, tiers([first, second], FakeRuntime("onnxruntime")))
    with caplog.at_level(logging.WARNING):
        found = made.make(model, [0, 1], keep=True)
    assert found.runtimes == "tensorrt+torch-cuda"
    assert made.passed_over == {"tensorrt": "tiny@1 full: no execution context: out of memory"}
    left_out = next(record for record in caplog.records if record.message == "runtime left out")
    assert (left_out.runtime, left_out.stage) == ("tensorrt", "full")
    assert not (tmp_path / "state").exists()  # tomorrow there may be memory


def test_where_no_gpu_runtime_works_the_cpu_serves_and_every_reason_is_told(
    tmp_path: Path, model: PublishedModel
) -> None:
    def broken() -> FakeRuntime:
        raise BackendUnusable("the driver shows no GPU")

    runtimes = Runtimes(
        {"tensorrt": broken, "torch-cuda": broken, "onnxruntime": lambda: FakeRuntime("onnxruntime")},
        {name: {} for name in ("tensorrt", "torch-cuda", "onnxruntime")},
        preferred=("tensorrt", "torch-cuda"),
    )
    made = maker(tmp_path, runtimes)
    assert made.make(model, [0, 1], keep=True).runtimes == "onnxruntime"
    assert list(made.passed_over) == ["tensorrt", "torch-cuda"]
    assert all("the driver shows no GPU" in reason for reason in made.passed_over.values())


def test_a_gpu_runtime_with_other_answers_than_the_cpu_is_passed_over(
    tmp_path: Path, model: PublishedModel
) -> None:
    wrong = FakeRuntime("tensorrt", shift=2.0)
    made = maker(tmp_path, tiers([wrong], FakeRuntime("onnxruntime")))
    assert made.make(model, [0, 1], keep=True).runtimes == "onnxruntime"
    assert "differs from onnxruntime's by 0.3" in made.passed_over["tensorrt"]
    assert wrong.closed == 2


def test_without_a_gpu_none_of_its_runtimes_is_looked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert gpu.usable_here([tmp_path / "nvidiactl"]) == {}
    assert caplog.records[-1].reason == "no NVIDIA GPU shows on this machine"


def test_where_a_gpu_shows_each_runtime_that_is_not_fit_is_logged_with_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"tensorrt_rtx": "1.7.1.116", "torch": "2.13.0+cpu"}
    monkeypatch.setattr(gpu.importlib.util, "find_spec", there.get)
    monkeypatch.setattr(gpu.metadata, "version", there.__getitem__)
    (tmp_path / "nvidiactl").touch()
    with caplog.at_level(logging.INFO):
        assert gpu.usable_here([tmp_path / "nvidiactl"]) == {"tensorrt-rtx": "1.7.1.116"}
    reasons = {record.runtime: record.reason for record in caplog.records}
    assert reasons == {
        "tensorrt": "tensorrt is not installed",
        "torch-cuda": "torch 2.13.0+cpu is built without CUDA",
    }


def test_auto_on_a_gpu_prefers_its_runtimes_and_keeps_the_cpu_behind_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "usable_here", lambda: {"tensorrt": "11.4.0.106", "torch-cuda": "2.13.0"})
    monkeypatch.setattr(gpu, "gpu_name", lambda: "NVIDIA Test sm00")
    found = backends.runtimes("auto", 1, shared_cores=True)
    assert found.tiers[:2] == (("tensorrt",), ("torch-cuda",))
    assert "onnxruntime" in found.tiers[2]
    assert found.describe()["tensorrt.gpu"] == "NVIDIA Test sm00"
    assert len(backends.runtimes("auto", 1, shared_cores=True, use_gpu=False).tiers) == 1


class Losing(FakeRuntime):
    """Loses its device when a stage is loaded."""

    def __init__(self) -> None:
        super().__init__("tensorrt", wrong={0: DeviceLost("the driver went away")})


def load(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> Loaded:
    """What the engine process makes of a GPU that is lost while stages are loaded, or of that error."""

    def runtimes(_name: str, *_arguments: object, use_gpu: bool, **_named: object) -> Runtimes:
        if error:
            raise error
        return tiers([Losing()] if use_gpu else [], FakeRuntime("onnxruntime"))

    monkeypatch.setattr(backends, "runtimes", runtimes)
    settings = Settings(models_dir=folder / "models", state_dir=folder / "state", backend=name, max_batch=2)
    reports = SimpleNamespace(say=lambda _detail, _now_ns: None)
    return process._load(SimpleNamespace(settings=settings, hangs=(), ended=""), reports)


def test_a_gpu_that_is_lost_while_loading_leaves_auto_to_the_cpu(
    tmp_path: Path, model: PublishedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(tmp_path, "auto", monkeypatch)
    assert loaded.models["tiny@1"].runtimes == "onnxruntime"
    assert "the driver went away" in process._detail(loaded)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (None, "backend tensorrt lost its device: the driver went away"),
        (
            BackendUnusable("the driver shows no GPU"),
            "backend tensorrt cannot be used: the driver shows no GPU",
        ),
        (ImportError("No module named 'tensorrt'"), "backend tensorrt is not installed: No module named"),
    ],
)
def test_a_backend_asked_for_by_name_that_cannot_work_is_told_and_nothing_else_is_tried(
    error: Exception | None, said: str, tmp_path: Path, model: PublishedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load(tmp_path, "tensorrt", monkeypatch, error)
    assert not loaded.models
    assert said in process._detail(loaded)


@pytest.mark.skipif(gpu.DEVICE_NODES[0].exists(), reason="needs a machine without an NVIDIA GPU")
def test_an_engine_process_whose_backend_cannot_work_lives_on_and_front_ends_hear_why(
    start_engine: Callable[..., SimpleNamespace], front_end: SimpleNamespace, model: PublishedModel
) -> None:
    engine = start_engine(backend="tensorrt-rtx")
    front_end.greet("starting")
    front_end.hear(lambda: "backend tensorrt-rtx" in front_end.detail, 20)
    assert "cannot be used: cuda" in front_end.detail or "is not installed" in front_end.detail
    assert engine.process.poll() is None
