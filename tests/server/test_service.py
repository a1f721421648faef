"""The whole service, `python -m server`, with tiny real graphs: what it answers is what the graphs say."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
from PIL import Image

from model_repo.images import decode
from model_repo.pooling import pool, stage_log_probabilities
from model_repo.repository import PublishedModel, Repository
from tests.models import publish_tiny_model
from tests.server.faulty_service import pipelined
from tests.server.whole_service import whole_service

DAMAGED = "damaged"


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sound models and one whose file was tampered with."""
    folder = tmp_path_factory.mktemp("models")
    publish_tiny_model(folder, name="tiny", stages=3)
    publish_tiny_model(folder, name="other", stages=2, classes=4, size=24)
    publish_tiny_model(folder, name=DAMAGED, stages=2)
    (folder / DAMAGED / "1" / "full.onnx").write_bytes(b"tampered")
    return folder


@pytest.fixture(scope="module")
def client(models_dir: Path) -> Iterator[httpx.Client]:
    """A client of the running service; the service ends with the module, with status 0."""
    home = Path(tempfile.mkdtemp(prefix="any"))  # a unix socket's path must be short
    try:
        with whole_service(home, models_dir, "--default-model", "tiny") as client:
            yield client
    finally:
        shutil.rmtree(home, ignore_errors=True)


def images(count: int) -> list[bytes]:
    """PNGs of 32 x 32 pixels, each another."""
    random = np.random.default_rng(11)
    encoded = []
    for _ in range(count):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
        encoded.append(buffer.getvalue())
    return encoded


class Offline:
    """What a published model says without any server."""

    def __init__(self, models_dir: Path, name: str) -> None:
        self.model: PublishedModel = Repository(models_dir).open(name)
        self.sessions = {
            stage.name: onnxruntime.InferenceSession(
                self.model.read(stage), providers=["CPUExecutionProvider"]
            )
            for stage in self.model.manifest.stages
        }

    def probabilities(self, data: bytes, stages: list[str]) -> np.ndarray:
        """Pooled over `stages`, float32 [classes]."""
        manifest = self.model.manifest
        pixels = decode(data, manifest.input)[np.newaxis]
        logs = []
        for stage in manifest.stages:
            if stage.name in stages:
                (logits,) = self.sessions[stage.name].run(
                    None, {self.sessions[stage.name].get_inputs()[0].name: pixels}
                )
                logs.append(stage_log_probabilities(logits, stage.temperature))
        rule = manifest.pools[",".join(stages)]
        return pool(logs, rule.weights, rule.temperature)[0]


def events(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    blocks = [block.split("\n") for block in response.text.strip().split("\n\n")]
    return [
        (lines[0].removeprefix("event: "), json.loads(lines[-1].removeprefix("data: "))) for lines in blocks
    ]


def test_an_answer_is_what_offline_pooling_of_the_same_stages_says(
    client: httpx.Client, models_dir: Path
) -> None:
    offline = Offline(models_dir, "tiny")
    for data in images(30):
        answer = client.post("/classify?deadline_ms=5000&top_k=10", content=data).json()
        expected = offline.probabilities(data, answer["stages_run"])
        assert answer["index"] == int(expected.argmax())
        got = np.zeros(10)
        for ranked in answer["top_k"]:
            got[ranked["index"]] = ranked["probability"]
        np.testing.assert_allclose(got, expected, atol=1e-4)
        probabilities = [ranked["probability"] for ranked in answer["top_k"]]
        assert probabilities == sorted(probabilities, reverse=True)


def test_a_stream_runs_every_rung_shallow_to_deep_and_pools_what_there_is(
    client: httpx.Client, models_dir: Path
) -> None:
    offline = Offline(models_dir, "tiny")
    ladder = [stage.name for stage in offline.model.manifest.stages]
    for data in images(5):
        told = events(client.post("/classify/stream?deadline_ms=5000", content=data))
        assert [name for name, _ in told] == ["refinement"] * 3 + ["final"]
        for place, (_, fields) in enumerate(told[:3]):
            assert fields["stages_run"] == ladder[: place + 1]
            assert fields["index"] == int(offline.probabilities(data, fields["stages_run"]).argmax())
            assert fields["stage_only"]["index"] == int(offline.probabilities(data, [ladder[place]]).argmax())
        final = told[3][1]
        assert (final["stages_run"], final["complete"], final["stop_reason"]) == (ladder, True, "deepest")


def test_each_model_has_its_own_input_and_classes(client: httpx.Client, models_dir: Path) -> None:
    offline = Offline(models_dir, "other")
    (data,) = images(1)
    answer = client.post("/classify?model=other&deadline_ms=5000", content=data).json()
    assert (answer["model"], len(answer["top_k"])) == ("other", 4)
    assert answer["index"] == int(offline.probabilities(data, answer["stages_run"]).argmax())


def test_a_damaged_model_is_named_with_its_file_and_the_others_are_served(client: httpx.Client) -> None:
    (data,) = images(1)
    ready = client.get("/readyz").json()
    assert ready["models"] == ["other@1", "tiny@1"]
    assert "full.onnx" in ready["damaged"][0]
    (card,) = client.get(f"/models/{DAMAGED}").json()["models"]
    assert card["state"] == "damaged"
    assert "full.onnx" in card["reason"]
    assert "sha256" in card["reason"]
    assert client.post(f"/classify?model={DAMAGED}", content=data).status_code == 503
    assert client.post("/classify", content=data).status_code == 200


def test_latencies_are_measured_for_every_stage(client: httpx.Client) -> None:
    (card,) = client.get("/models/tiny").json()["models"]
    for stage in card["stages"]:
        assert stage["state"] == "serving"
        assert {1, 32} <= {cell["batch"] for cell in stage["latency"]}
        assert all(0 < cell["p50_ms"] <= cell["p99_ms"] for cell in stage["latency"])


def test_many_at_once_are_batched_and_each_gets_its_own_answer(
    client: httpx.Client, models_dir: Path
) -> None:
    offline = Offline(models_dir, "tiny")
    data = images(60)
    with ThreadPoolExecutor(30) as threads:
        answers = list(
            threads.map(lambda one: client.post("/classify?deadline_ms=20000", content=one).json(), data)
        )
    for one, answer in zip(data, answers, strict=True):
        assert answer["index"] == int(offline.probabilities(one, answer["stages_run"]).argmax())


def test_confidence_that_is_reached_ends_it(client: httpx.Client) -> None:
    (data,) = images(1)
    answer = client.post("/classify?deadline_ms=5000&min_confidence=0", content=data).json()
    assert (answer["stop_reason"], answer["complete"], len(answer["stages_run"])) == ("confident", True, 1)


def test_under_tight_deadlines_everyone_is_told_something(client: httpx.Client) -> None:
    # In one piece: a body that comes after its headers may be later than in the one millisecond it is given (408).
    with ThreadPoolExecutor(20) as threads:
        sent = [
            threads.submit(pipelined, client.base_url.port, [deadline])
            for deadline in (1, 3, 5, 10, 50)
            for _ in range(20)
        ]
        replies = [one.result(30)[0] for one in sent]
    assert {status for status, _ in replies} <= {200, 503, 504}
    for status, answer in replies:
        if status == 503:
            assert answer["smallest_feasible_deadline_ms"] > 0
    (data,) = images(1)
    assert client.post("/classify?deadline_ms=5000", content=data).status_code == 200


def test_a_photograph_of_12_megapixels_is_answered(client: httpx.Client) -> None:
    coarse = np.random.default_rng(3).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(coarse).resize((4000, 3000), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=88)
    answer = client.post("/classify?deadline_ms=5000", content=buffer.getvalue()).json()
    assert answer["elapsed_ms"] < 5000


def test_one_scrape_shows_front_end_and_engine(client: httpx.Client) -> None:
    (data,) = images(1)
    client.post("/classify?deadline_ms=5000", content=data)
    text = client.get("/metrics").text
    assert 'anytime_requests_total{model="tiny@1",route="/classify",status="200"}' in text
    assert 'anytime_launches_total{model="tiny@1",stage="column1"}' in text
    assert 'anytime_launch_seconds_bucket{batch="1"' in text
