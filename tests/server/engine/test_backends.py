"""Runtimes on the CPU give the same answers, in batches of any size."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from model_repo.images import decode
from model_repo.pooling import softmax
from model_repo.repository import PublishedModel, Repository
from server.engine import backends
from server.engine.backends.openvino import has_native_bf16

MODELS = Path(__file__).resolve().parents[3] / "model_repo" / "models"
NAMES = ["onnxruntime", "openvino"]
REAL_IMAGES = 500


def probabilities(name: str, model: PublishedModel, place: int, pixels: np.ndarray, batch: int) -> np.ndarray:
    runner = backends.create(name, 1, shared_cores=True).load_stage(model, place, batch)
    logits = [runner.run(pixels[start : start + batch]) for start in range(0, len(pixels), batch)]
    runner.close()
    return softmax(np.concatenate(logits), 1.0)


@pytest.fixture(scope="module")
def shipped() -> PublishedModel:
    return Repository(MODELS).open("cifar10")


@pytest.fixture(scope="module")
def real_images(cifar10_zip: Path, shipped: PublishedModel) -> np.ndarray:
    """uint8 [500, 32, 32, 3], evenly from the test set."""
    with zipfile.ZipFile(cifar10_zip) as archive:
        names = sorted(n for n in archive.namelist() if n.startswith("test/") and n.endswith(".webp"))
        chosen = names[:: len(names) // REAL_IMAGES][:REAL_IMAGES]
        return np.stack([decode(archive.read(n), shipped.manifest.input) for n in chosen])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_batch_gives_what_its_images_give_one_by_one(
    name: str, place: int, shipped: PublishedModel
) -> None:
    pixels = np.random.default_rng(place).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    alone, together = (probabilities(name, shipped, place, pixels, batch) for batch in (1, 7))
    np.testing.assert_allclose(
        alone, together, atol=0.02 if has_native_bf16() and name == "openvino" else 1e-4
    )


@pytest.mark.parametrize("place", [0, 1, 2])
def test_every_runtime_gives_the_same_classes_on_real_images(
    place: int, shipped: PublishedModel, real_images: np.ndarray
) -> None:
    one, two = (probabilities(name, shipped, place, real_images, 50) for name in NAMES)
    assert np.abs(one - two).max() < 0.06
    assert (one.argmax(1) == two.argmax(1)).mean() >= 0.99


def test_auto_is_openvino_exactly_where_the_processor_has_native_bfloat16() -> None:
    chosen = backends.create("auto", 1, shared_cores=True)
    assert chosen.name == ("openvino" if has_native_bf16() else "onnxruntime")


def test_an_unknown_backend_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="nosuch"):
        backends.create("nosuch", 1, shared_cores=True)


def test_openvino_is_loaded_without_its_usage_reports() -> None:
    code = "import sys, server.engine.backends.openvino; print(sys.modules['openvino_telemetry'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "None"


def test_auto_is_onnx_runtime_where_openvino_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.delitem(sys.modules, "server.engine.backends.openvino")
    assert backends.create("auto", 1, shared_cores=True).name == "onnxruntime"
