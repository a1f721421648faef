"""Every installed runtime gives the answers of torch in float32, in batches of any size."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from model_repo.images import decode
from model_repo.pooling import softmax
from model_repo.repository import PublishedModel, Repository
from model_repo.torch_graph import to_torch
from server.engine import backends
from server.engine.backends.auto import installed
from server.engine.backends.openvino import has_native_bf16
from server.engine.backends.protocol import StageUnusable
from server.engine.choosing import PARITY_BOUND
from tests.models import publish_tiny_model

MODELS = Path(__file__).resolve().parents[3] / "model_repo" / "models"
NAMES = sorted(installed())
REAL_IMAGES = 1_000
SAME_CLASS = 0.995
EXACT = 1e-4


def bound_of(name: str) -> float:
    """How far a probability may be from torch's in float32."""
    return PARITY_BOUND if name == "openvino" and has_native_bf16() else EXACT


Run = Callable[[np.ndarray], np.ndarray]


@cache
def runner_of(name: str, place: int) -> Run:
    """Probabilities of a stage of the shipped model on a runtime."""
    model = Repository(MODELS).open("cifar10")
    try:
        runner = backends.create(name, 1, shared_cores=True).load_stage(model, place, 64)
    except (ImportError, StageUnusable) as error:
        pytest.fail(f"{name} is installed and cannot run stage {place}: {error}")
    return lambda pixels: softmax(runner.run(pixels), 1.0)


@pytest.fixture(scope="module")
def shipped() -> PublishedModel:
    return Repository(MODELS).open("cifar10")


@pytest.fixture(scope="module")
def real_images(cifar10_zip: Path, shipped: PublishedModel) -> np.ndarray:
    """uint8 [1000, 32, 32, 3], evenly from the test set."""
    with zipfile.ZipFile(cifar10_zip) as archive:
        names = sorted(n for n in archive.namelist() if n.startswith("test/") and n.endswith(".webp"))
        chosen = names[:: len(names) // REAL_IMAGES][:REAL_IMAGES]
        return np.stack([decode(archive.read(n), shipped.manifest.input) for n in chosen])


@pytest.fixture(scope="module")
def expected(shipped: PublishedModel, real_images: np.ndarray) -> list[np.ndarray]:
    """What torch makes of the real images in float32, stage by stage."""
    found = []
    for stage in shipped.manifest.stages:
        module = to_torch(shipped.read(stage))
        with torch.inference_mode():
            parts = [module(torch.from_numpy(real_images[at : at + 50])) for at in range(0, REAL_IMAGES, 50)]
        found.append(torch.cat(parts).softmax(1).numpy())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_the_answers_are_those_of_torch_on_real_images(
    name: str, real_images: np.ndarray, expected: list[np.ndarray]
) -> None:
    for place, reference in enumerate(expected):
        run = runner_of(name, place)
        answers = np.concatenate([run(real_images[at : at + 50]) for at in range(0, REAL_IMAGES, 50)])
        assert np.abs(answers - reference).max() <= bound_of(name)
        assert (answers.argmax(1) == reference.argmax(1)).mean() >= SAME_CLASS


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_any_size_gives_what_its_images_give_one_by_one(
    name: str, shipped: PublishedModel
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (17, 32, 32, 3), dtype=np.uint8)
    for place in range(len(shipped.manifest.stages)):
        run = runner_of(name, place)
        alone = np.concatenate([run(pixels[n : n + 1]) for n in range(len(pixels))])
        for batch in (2, 3, 8, 17):
            np.testing.assert_allclose(run(pixels[:batch]), alone[:batch], atol=bound_of(name) / 2)


def test_both_cpu_runtimes_are_among_those_that_are_compared() -> None:
    assert {"onnxruntime", "openvino"} <= set(NAMES)


def test_an_unknown_backend_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="nosuch"):
        backends.create("nosuch", 1, shared_cores=True)


def test_openvino_is_loaded_without_its_usage_reports() -> None:
    code = "import sys, server.engine.backends.openvino; print(sys.modules['openvino_telemetry'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "None"


def test_what_openvino_cannot_read_it_says_in_its_own_words(tmp_path):
    model = publish_tiny_model(tmp_path, unloadable=["full"])
    with pytest.raises(StageUnusable, match=r"^Unable to read the model"):
        backends.create("openvino", 1, shared_cores=True).load_stage(model, 2, 4)


def test_threads_that_spin_are_another_profile_than_threads_that_wait():
    spinning, waiting = (backends.create("onnxruntime", 2, shared_cores=shared) for shared in (False, True))
    assert spinning.describe() != waiting.describe()
