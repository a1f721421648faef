"""torch-cuda: on the CPU the same code without graphs and in fp32; the GPU itself where there is one."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from model_repo.export import run
from model_repo.repository import PublishedModel, Repository
from server.engine.backends.protocol import BackendUnusable, StageUnusable
from server.engine.backends.torch_cuda import TorchCuda
from server.engine.padded import FixedBatch
from tests.models import SHIPPED_PLACES, publish_tiny_model

MODELS = Path(__file__).resolve().parents[4] / "model_repo" / "models"


@pytest.fixture(scope="module")
def shipped() -> PublishedModel:
    return Repository(MODELS).open("cifar10")


def probabilities(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def check_against_onnx_runtime(backend: TorchCuda, model: PublishedModel, place: int, bound: float) -> None:
    pixels = np.random.default_rng(place).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    expected = run(model.read(model.manifest.stages[place]), pixels)
    stage = backend.load_stage(model, place, 8)
    for count in (1, 3, 7):  # padded to 1, 4, 8
        assert np.abs(probabilities(stage.run(pixels[:count])) - expected[:count]).max() < bound
    stage.close()


@pytest.mark.parametrize("place", SHIPPED_PLACES)
def test_on_the_cpu_every_stage_agrees_with_onnx_runtime_in_batches_of_any_size(
    place: int, shipped: PublishedModel
) -> None:
    check_against_onnx_runtime(TorchCuda("cpu"), shipped, place, 1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("place", SHIPPED_PLACES)
def test_on_a_gpu_every_stage_agrees_with_onnx_runtime_in_batches_of_any_size(
    place: int, shipped: PublishedModel
) -> None:
    check_against_onnx_runtime(TorchCuda(), shipped, place, 0.02)


def test_a_graph_from_elsewhere_is_unusable_and_the_reason_says_what_is_wanted(tmp_path: Path) -> None:
    tiny = publish_tiny_model(tmp_path)
    with pytest.raises(StageUnusable, match=r"stages of FractalNets only: .*no layer bears"):
        TorchCuda("cpu").load_stage(tiny, 0, 4)


def test_the_weights_live_as_long_as_the_stage_though_a_captured_graph_does_not_keep_them(
    shipped: PublishedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    nets: list[weakref.ref[torch.nn.Module]] = []

    def captured(_backend: TorchCuda, net: torch.nn.Module, shape: tuple[int, ...]) -> FixedBatch:
        nets.append(weakref.ref(net))
        logits = np.zeros((shape[0], 10), np.float32)
        return FixedBatch(np.zeros(shape, np.uint8), logits, lambda: None, lambda: None)

    monkeypatch.setattr(TorchCuda, "_batch", captured)
    stage = TorchCuda("cpu").load_stage(shipped, 0, 2)
    gc.collect()
    assert all(net() is not None for net in nets)
    stage.close()
    gc.collect()
    assert all(net() is None for net in nets)


def test_weights_that_do_not_fit_into_the_device_make_the_stage_unusable(
    shipped: PublishedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_to: object, **_how: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(StageUnusable, match="out of memory: CUDA out of memory"):
        TorchCuda("cpu").load_stage(shipped, 0, 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without an NVIDIA GPU")
def test_without_a_gpu_it_says_why() -> None:
    with pytest.raises(BackendUnusable, match=r"torch 2.*CUDA"):
        TorchCuda()


def test_it_describes_what_its_latencies_depend_on() -> None:
    said = TorchCuda("cpu").describe()
    assert said["runtime"] == "torch-cuda"
    assert said["precision"] == "float32"
    assert said["version"] == torch.__version__
