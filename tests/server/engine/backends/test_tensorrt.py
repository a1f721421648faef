"""TensorRT's launches: with a TensorRT and a CUDA that compute nothing, and for real where there is a GPU."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from model_repo.nvidia import Gpu, NoGpu, first_gpu
from model_repo.plan_builder import BuildFailed, Library
from model_repo.plans import PlanFolder
from model_repo.repository import PublishedModel, Repository
from server.engine.backends import tensorrt
from server.engine.backends.protocol import BackendUnusable, DeviceLost, StageUnusable
from tests.models import SHIPPED_PLACES, publish_tiny_model

MODELS = Path(__file__).resolve().parents[4] / "model_repo" / "models"
GPU = Gpu("NVIDIA Test", "sm00", "13.0")
CLASSES = 10


class Memory:
    """Buffers by address: host and device are one here."""

    def __init__(self) -> None:
        self.open: dict[int, Any] = {}
        self.room = 10_000


class FakeCuda:
    """server.engine.cuda without a GPU. Work runs when it is put on the stream; a capture only notes it."""

    CudaError = type("CudaError", (Exception,), {})

    def __init__(self) -> None:
        self.memory = Memory()
        self.capturable = True
        self.lost = False
        self.replays = 0
        cuda = self

        class Gone(cuda.CudaError, DeviceLost):
            pass

        class Buffer:
            def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
                if len(cuda.memory.open) >= cuda.memory.room:
                    raise cuda.CudaError("cudaMalloc: out of memory (cudaErrorMemoryAllocation)")
                self.array = np.zeros(shape, dtype)
                self.device = id(self)
                cuda.memory.open[self.device] = self

            def close(self) -> None:
                del cuda.memory.open[self.device]

        class Stream:
            address = 1

            def upload(self, buffer: Buffer) -> None:
                assert buffer.device in cuda.memory.open

            download = upload

            def synchronise(self) -> None:
                if cuda.lost:
                    raise Gone("cudaStreamSynchronize: unspecified launch failure (cudaErrorLaunchFailure)")

            def capture(self, work):
                if not cuda.capturable:
                    raise cuda.CudaError("cudaStreamEndCapture: operation not permitted")

                def launch() -> None:
                    cuda.replays += 1
                    work()

                return SimpleNamespace(launch=launch, close=lambda: None)

        self.Buffer, self.Stream = Buffer, Stream


class Context:
    """The first CLASSES pixels of an image are its logits."""

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.addresses: dict[str, int] = {}
        self.size = 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        assert name == "pixels"
        self.size = shape[0]

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        pixels, logits = (self.cuda.memory.open[self.addresses[name]].array for name in ("pixels", "logits"))
        assert len(pixels) == len(logits) == self.size
        logits[:] = pixels.reshape(self.size, -1)[:, :CLASSES]
        return True


class Engine:
    """Two tensors, and contexts while there are any."""

    num_io_tensors = 2

    def __init__(self, trt: FakeTrt) -> None:
        self.trt = trt

    def get_tensor_name(self, place: int) -> str:
        return ("pixels", "logits")[place]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 32, 32, 3) if name == "pixels" else (-1, CLASSES)

    def get_tensor_dtype(self, name: str) -> type:
        return np.uint8 if name == "pixels" else np.float32

    def create_execution_context(self) -> Context | None:
        self.trt.contexts += 1
        return None if self.trt.context_fails else Context(self.trt.cuda)


class FakeTrt:
    """As much of TensorRT's module as running needs. A plan that begins with `plan` is accepted."""

    __version__ = "11.4.0.106"

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.contexts = 0
        self.context_fails = False

    def Runtime(self, log: SimpleNamespace) -> SimpleNamespace:  # noqa: N802 - TensorRT's name
        def deserialize_cuda_engine(plan: bytes) -> Engine | None:
            if plan.startswith(b"plan"):
                return Engine(self)
            log.errors.append("the plan is of another version\nand more words")
            return None

        return SimpleNamespace(deserialize_cuda_engine=deserialize_cuda_engine)

    def nptype(self, dtype: type) -> type:
        return dtype


class Parts:
    """A TensorRt backend on fakes, and what it is made of."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cuda = FakeCuda()
        self.trt = FakeTrt(self.cuda)
        self.built: list[bytes] = []
        self.plan = b"plan of a stage"
        self.model = publish_tiny_model(folder / "models")
        self.plans = PlanFolder(folder)
        self.said: list[str] = []
        library = Library("tensorrt", self.trt, SimpleNamespace(errors=[]))
        monkeypatch.setattr(tensorrt, "library", lambda _name: library)
        monkeypatch.setattr(tensorrt, "first_gpu", lambda: GPU)
        monkeypatch.setattr(tensorrt, "import_cuda", lambda: self.cuda)
        monkeypatch.setattr(tensorrt, "obtain", self.obtain)
        monkeypatch.setattr(tensorrt, "rebuild", self.rebuild)
        self.key = library.key(self.model.manifest.stages[0].sha256, str(GPU), 8)
        self.backend = tensorrt.TensorRt("tensorrt", folder, self.said.append)

    def obtain(self, library, plans, key, read_graph, say):
        kept = plans.read(key)
        return (kept, False) if kept else (self.rebuild(library, plans, key, read_graph, say, ""), True)

    def rebuild(self, library, plans, key, read_graph, say, reason) -> bytes:
        say("building a plan: step 1 of 1")
        self.built.append(read_graph())
        plans.write(key, self.plan)
        return self.plan


@pytest.fixture
def parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parts:
    return Parts(tmp_path, monkeypatch)


def images(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 3, 8])
def test_a_batch_of_any_size_is_one_replay_of_a_captured_graph(count: int, parts: Parts) -> None:
    stage = parts.backend.load_stage(parts.model, 0, 8)
    assert parts.trt.contexts == 4  # 1, 2, 4, 8: each graph has a context of its own
    parts.cuda.replays = 0
    logits = stage.run(images(count))
    assert parts.cuda.replays == 1
    np.testing.assert_array_equal(logits, images(count).reshape(count, -1)[:, :CLASSES])


def test_what_cannot_be_captured_is_launched_without_a_graph_and_the_log_says_so(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    parts.cuda.capturable = False
    with caplog.at_level(logging.WARNING):
        stage = parts.backend.load_stage(parts.model, 0, 2)
    np.testing.assert_array_equal(stage.run(images(2)), images(2).reshape(2, -1)[:, :CLASSES])
    assert "launches without a CUDA graph" in caplog.text


def test_a_missing_plan_is_built_while_the_caller_is_told_and_a_kept_one_is_not(parts: Parts) -> None:
    parts.backend.load_stage(parts.model, 0, 8)
    assert parts.built == [parts.model.read(parts.model.manifest.stages[0])]
    assert parts.said == ["tiny@1 column1 for tensorrt: building a plan: step 1 of 1"]
    parts.backend.load_stage(parts.model, 0, 8)
    assert len(parts.built) == 1


def test_a_plan_that_tensorrt_refuses_is_named_and_built_again_once(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    parts.plans.write(parts.key, b"of another version")
    with caplog.at_level(logging.WARNING):
        parts.backend.load_stage(parts.model, 0, 8)
    assert len(parts.built) == 1
    record = next(record for record in caplog.records if record.message == "plan damaged, building it again")
    assert record.file == str(parts.plans.path(parts.key))
    assert record.reason == "is refused by tensorrt: the plan is of another version"
    parts.plan = b"bad"
    parts.plans.write(parts.key, b"bad")
    with pytest.raises(StageUnusable, match="refuses its own plan: the plan is of another version"):
        parts.backend.load_stage(parts.model, 0, 8)
    assert len(parts.built) == 2


def test_a_build_that_fails_makes_the_stage_unusable(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bytes:
        raise BuildFailed("no plan was built: out of workspace")

    monkeypatch.setattr(tensorrt, "obtain", fail)
    with pytest.raises(StageUnusable, match="out of workspace"):
        parts.backend.load_stage(parts.model, 0, 8)


def test_out_of_memory_makes_the_stage_unusable_and_gives_back_what_was_taken(parts: Parts) -> None:
    parts.cuda.memory.room = 5  # two sizes and a half
    with pytest.raises(StageUnusable, match="out of memory"):
        parts.backend.load_stage(parts.model, 0, 8)
    assert not parts.cuda.memory.open
    parts.trt.context_fails = True
    with pytest.raises(StageUnusable, match="no execution context"):
        parts.backend.load_stage(parts.model, 0, 8)


def test_closing_gives_every_buffer_back(parts: Parts) -> None:
    stage = parts.backend.load_stage(parts.model, 0, 8)
    assert len(parts.cuda.memory.open) == 8
    stage.close()
    assert not parts.cuda.memory.open


def test_a_lost_device_is_told_from_a_stage_that_fails(parts: Parts) -> None:
    stage = parts.backend.load_stage(parts.model, 0, 2)
    parts.cuda.lost = True
    with pytest.raises(DeviceLost, match="cudaErrorLaunchFailure"):
        stage.run(images(1))
    with pytest.raises(DeviceLost):
        parts.backend.load_stage(parts.model, 1, 2)


def test_it_describes_what_its_latencies_depend_on(parts: Parts) -> None:
    assert parts.backend.describe() == {
        "runtime": "tensorrt", "version": "11.4.0.106", "gpu": "NVIDIA Test sm00", "driver": "13.0",
    }  # fmt: skip


def test_without_a_gpu_the_real_runtime_says_why(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    try:
        first_gpu()
    except (NoGpu, ImportError) as error:  # cuda-bindings comes with the gpu group only
        with pytest.raises((BackendUnusable, ImportError), match=str(error).split("(", maxsplit=1)[0]):
            tensorrt.TensorRt("tensorrt-rtx", tmp_path, lambda _: None)
    else:
        pytest.skip("needs a machine without an NVIDIA GPU")


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_a_tensorrt_that_is_not_installed_is_an_import_error(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match="tensorrt"):
        tensorrt.TensorRt("tensorrt", tmp_path, lambda _: None)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("place", SHIPPED_PLACES)
def test_on_a_gpu_every_stage_agrees_with_onnx_runtime_in_batches_of_any_size(
    name: str, place: int, tmp_path: Path
) -> None:
    try:
        backend = tensorrt.TensorRt(name, tmp_path, lambda _: None)
    except ImportError as error:
        pytest.skip(str(error))
    from model_repo.export import run  # torch comes with it

    shipped: PublishedModel = Repository(MODELS).open("cifar10")
    expected = run(shipped.read(shipped.manifest.stages[place]), images(7))
    stage = backend.load_stage(shipped, place, 8)
    for count in (1, 3, 7):
        exponentials = np.exp(stage.run(images(7)[:count]).astype(np.float64))
        found = exponentials / exponentials.sum(1, keepdims=True)
        assert np.abs(found - expected[:count]).max() < 0.02
    stage.close()
