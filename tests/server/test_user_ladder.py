"""Three graphs from elsewhere, added by the command line, served by the real server within deadlines."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from model_repo.__main__ import main
from model_repo.images import decode
from model_repo.repository import Repository
from tests.model_repo.foreign_graphs import COLOURS, MEAN, STD, colour_graph, colour_images
from tests.server.test_service import Offline
from tests.server.whole_service import whole_service

DEADLINE_MS = 2_000.0


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """Short enough for a unix socket's path; with the ladder published in models/."""
    home = Path(tempfile.mkdtemp(prefix="any"))
    for name, channels, noise in (("small", 3, 0.9), ("medium", 6, 0.3), ("large", 12, 0.0)):
        (home / f"{name}.onnx").write_bytes(colour_graph(channels, noise=noise))
    (home / "labels.txt").write_text("\n".join(COLOURS) + "\n")
    colour_images(home / "images")
    command = ["--models-dir", str(home / "models"), "add", "--name", "mine", "--stages"]
    command += [str(home / f"{name}.onnx") for name in ("small", "medium", "large")]
    command += ["--labels", str(home / "labels.txt"), "--calibrate", str(home / "images")]
    command += ["--mean", *map(str, MEAN), "--std", *map(str, STD)]
    assert main(command) == 0
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[httpx.Client]:
    with whole_service(home, home / "models") as client:
        yield client


def test_every_image_is_answered_in_time_with_what_the_graphs_say(client: httpx.Client, home: Path) -> None:
    offline = Offline(home / "models", "mine")
    right = 0
    paths = sorted((home / "images").rglob("*.png"))[::5]
    for path in paths:
        answer = client.post(
            "/classify",
            params={"deadline_ms": DEADLINE_MS},
            content=path.read_bytes(),
            headers={"Content-Type": "image/png"},
        ).json()
        assert answer["elapsed_ms"] <= DEADLINE_MS
        assert answer["model"] == "mine"
        assert answer["stage"] == {"name": answer["stages_run"][-1], "depth": None}
        expected = offline.probabilities(path.read_bytes(), answer["stages_run"])
        assert answer["label"] == list(COLOURS)[int(expected.argmax())]
        assert answer["probability"] == pytest.approx(float(expected.max()), abs=1e-3)
        right += answer["label"] == path.parent.name
    assert right / len(paths) > 0.9


def test_a_stream_climbs_all_three_rungs(client: httpx.Client, home: Path) -> None:
    path = next((home / "images").rglob("*.png"))
    text = client.post(
        "/classify/stream",
        params={"deadline_ms": DEADLINE_MS},
        content=path.read_bytes(),
        headers={"Content-Type": "image/png"},
    ).text
    assert text.count("event: refinement") == 3
    assert '"stages_run":["small","medium","large"]' in text.replace(" ", "")


def test_the_published_graphs_take_the_images_of_the_server(home: Path) -> None:
    model = Repository(home / "models").open("mine")
    path = next((home / "images").rglob("*.png"))
    pixels = decode(path.read_bytes(), model.manifest.input)
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8
